"""PTX as text: what the inline assembly of csrc/cuda/ptx says, read out of the headers and performed on a machine in
Python that knows the PTX ISA and nothing of the emulator.

header.py finds the wrappers and their assembly, text.py parses it, isa.py says what each instruction does to the
machine.py of a script.py: the same script that csrc/emulator/tests/script.cu performs by the emulator's stand-ins.
"""
