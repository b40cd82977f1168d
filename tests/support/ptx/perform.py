"""A script performed by the text of the wrappers' assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from types import CodeType
from typing import Any

from .barriers import bar, barrier, elect, fence, mbarrier, setmaxnreg
from .copies import cp, prefetch
from .header import Assembly, Wrapper
from .isa import Execution, Frame, Steps, cvt, mapa, mov, selp, setp
from .machine import GLOBAL, SHARED, Fault, Machine, Thread, Warp, as_float, as_word, check
from .matrices import ldmatrix, mma, stmatrix, wgmma
from .script import Outcome, Script
from .text import Program, parse

HANDLERS: dict[str, Callable[[Execution], Steps | None]] = {
    one.__name__: one
    for one in (bar, barrier, cp, cvt, elect, fence, ldmatrix, mapa, mbarrier, mma, mov, prefetch, selp, setmaxnreg)
    + (setp, stmatrix, wgmma)
}
# What touches memory or orders accesses to it: the compiler has to know.
ORDERS_MEMORY = {"bar", "barrier", "cp", "fence", "ldmatrix", "mbarrier", "prefetch", "stmatrix"}
LONGEST = 1000  # instructions of one piece of assembly, waits apart
# How a wrapper's operands stand in a script, in the order of its parameters: a place in shared memory, in global
# memory, a tensor map, a signed number, a word, 16 bits, a float. The others have none.
SIGNATURES = {
    "bar_sync": "uu",
    "bar_arrive": "uu",
    "map_shared": "su",
    "cp_async_16": "sgu",
    "cp_async_8": "sgu",
    "cp_async_4": "sgu",
    "mbarrier_init": "su",
    "mbarrier_arrive": "s",
    "mbarrier_arrive_expect_tx": "su",
    "mbarrier_wait": "su",
    "to_float": "h",
    "from_float": "f",
    "pack": "ff",
    "to_tf32": "f",
    "prefetch_tensor_map": "m",
    "tma_load_3d": "smsiii",
    "tma_load_3d_multicast": "smsiiih",
    "tma_load_im2col": "smsiiiihh",
    "tma_store_3d": "msiii",
}


def convert(machine: Machine, kind: str, operand: int) -> Any:
    if kind == "s":
        return SHARED + operand
    if kind == "g":
        return GLOBAL + operand
    if kind == "m":
        return machine.script.maps[operand]
    if kind == "i":
        return (operand & 0xFFFFFFFF) - (2**32 if operand & 0x80000000 else 0)
    return as_float(operand) if kind == "f" else operand & (0xFFFF if kind == "h" else 0xFFFFFFFF)


@cache
def compiled(expression: str) -> CodeType:
    """Of C++, as much as stands among operands: a number, a name or one of its elements, its address or its bits."""
    expression = re.sub(r"static_cast<[\w:]+>\((.*)\)$", r"\1", expression).removeprefix("&").removesuffix(".bits")
    assert re.fullmatch(r"[\w\[\]+ !=&]*", expression), expression
    python = re.sub(r"!(?!=)", " not ", expression.replace("&&", " and "))
    return compile(python.strip(), "operand", "eval")


def evaluate(expression: str, names: dict[str, Any]) -> Any:
    return eval(compiled(expression), {"__builtins__": {}}, names)  # what the pattern above lets through


@cache
def target(expression: str) -> tuple[str, int | None]:
    """The name that an output is written to, and which of its elements."""
    name, _, index = expression.removesuffix(".bits").partition("[")
    return name, evaluate(index.removesuffix("]"), {}) if index else None


parsed = lru_cache(maxsize=None)(parse)


def frame_of(thread: Thread, assembly: Assembly, program: Program, names: dict[str, Any]) -> Frame:
    values: list[Any] = []
    places = []
    for operand in assembly.outputs:
        name, index = target(operand.expression)
        places.append(index)
        written = operand.constraint.startswith("=")
        values.append(None if written else names[name] if index is None else names[name][index])
    values += [evaluate(operand.expression, names) for operand in assembly.inputs]
    return Frame(thread, values, places, dict.fromkeys(program.registers))


def execute(machine: Machine, warp: Warp, assembly: Assembly, names: dict[int, dict[str, Any]]) -> Iterator[None]:
    """By the lanes of `names`. Lanes part at a branch, and those that are behind go first."""
    program = parsed(assembly.text)
    frames = {lane: frame_of(warp.threads[lane], assembly, program, names[lane]) for lane in names}
    at = dict.fromkeys(frames, 0)
    end, executed = len(program.instructions), 0
    while (lowest := min(at.values())) < end:
        executed += 1
        check(executed < LONGEST, "it runs on and on")
        instruction = program.instructions[lowest]
        here = [lane for lane in frames if at[lane] == lowest]
        guard = instruction.guard
        if guard is not None:
            held = {lane: frames[lane].registers[guard.register] for lane in here}
            check(None not in held.values(), f"{guard.register} is read, and nothing has written it")
            taking = [lane for lane in here if held[lane] != guard.negated]
        else:
            taking = here
        for lane in here:
            at[lane] += 1
        if instruction.opcode == "bra":
            for lane in taking:
                at[lane] = program.labels[instruction.modifiers[0]]
        elif taking:
            check(instruction.opcode in HANDLERS, f"{instruction.name} is not known")
            if instruction.opcode in ORDERS_MEMORY or instruction.modifiers[:1] in (("fence",), ("wait_group",)):
                check(assembly.memory, f"{instruction.name}: the compiler may move accesses to memory across it")
            check(
                assembly.volatile or instruction.opcode == "cvt", f"{instruction.name}: the compiler may leave it out"
            )
            execution = Execution(machine, warp, instruction, [frames[lane] for lane in taking])
            yield from HANDLERS[instruction.opcode](execution) or ()
    for lane, frame in frames.items():
        for number, operand in enumerate(assembly.outputs):
            check(frame.values[number] is not None, f"%{number} is an output, and nothing has written it")
            name, index = target(operand.expression)
            if index is None:
                names[lane][name] = frame.values[number]
            else:
                names[lane][name][index] = frame.values[number]


class Performer:
    """Performs scripts by the wrappers of one folder of headers."""

    def __init__(self, wrappers: dict[str, Wrapper]) -> None:
        self.wrappers = wrappers
        self.performed: set[tuple[str, str]] = set()  # wrapper, and the condition of its assembly

    def run(self, script: Script) -> Outcome:
        return Machine(script).run(self.perform)

    def perform(self, machine: Machine, warp: Warp, step: str, lanes: dict[int, tuple[int, ...]]) -> Iterator[None]:
        if step in ("store", "load", "fill"):
            for lane, operands in lanes.items():
                ordinary(warp.threads[lane], step, operands)
            return
        if step == "syncthreads":
            yield from self.call(machine, warp, "bar_sync", [], dict.fromkeys(lanes, (0, machine.script.block_threads)))
            return
        name, _, specialisation = step.partition("<")
        given = specialisation.removesuffix(">").split(",") if specialisation else []
        if name == "mbarrier_arrive_cluster":
            mapped = yield from self.call(machine, warp, "map_shared", [], lanes)
            names = {lane: {"mbarrier": value} for lane, value in mapped.items()}
            yield from self.assembly(machine, warp, self.wrappers[name], names)
            return
        results = yield from self.call(machine, warp, name, given, lanes)
        for lane, value in results.items():
            words = value if isinstance(value, list) else [value]
            if value is not None:
                converted = [as_word(word) if isinstance(word, float) else int(word) for word in words]
                warp.threads[lane].result[: len(words)] = converted

    def call(self, machine: Machine, warp: Warp, name: str, given: list[str], lanes: dict[int, tuple[int, ...]]) -> Any:
        """What each lane gets: the wrapper's value, or the registers that it fills."""
        special = f"{name}<{','.join(given)}>"
        check(special in self.wrappers or name in self.wrappers, f"{name} has no assembly")
        wrapper = self.wrappers[special if special in self.wrappers else name]
        template = dict(zip(wrapper.template, map(constant, given), strict=False))
        names = {}
        for lane, operands in lanes.items():
            mine = {**template, **bind(machine, warp.threads[lane], name, wrapper, given, operands)}
            names[lane] = mine
        yield from self.assembly(machine, warp, wrapper, names)
        if name.startswith("mma"):
            return {lane: mine["d"] for lane, mine in names.items()}
        if name.startswith("ldmatrix"):
            return {lane: [word for word in mine["registers"] if word is not None] for lane, mine in names.items()}
        if not wrapper.result:
            return dict.fromkeys(lanes)
        return {lane: evaluate(wrapper.result, mine) for lane, mine in names.items()}

    def assembly(self, machine: Machine, warp: Warp, wrapper: Wrapper, names: dict[int, dict[str, Any]]) -> Any:
        any_lane = next(iter(names.values()))
        chosen = [one for one in wrapper.assembly if not one.condition or evaluate(one.condition, any_lane)]
        if len(chosen) != 1:
            raise Fault(f"{wrapper.name}: {len(chosen)} pieces of assembly for one call")
        self.performed.add((wrapper.name, chosen[0].condition))
        yield from execute(machine, warp, chosen[0], names)


def constant(argument: str) -> Any:
    """A template's: a truth, a number, or the name of a type."""
    return {"true": True, "false": False}.get(argument, int(argument) if argument.isdigit() else argument)


def ordinary(thread: Thread, step: str, operands: tuple[int, ...]) -> None:
    if step == "fill":
        thread.sums[:] = [as_float(operands[0])] * len(thread.sums)
        return
    word = slice(operands[0], operands[0] + 4)
    if step == "store":
        thread.block.shared[word] = operands[1].to_bytes(4, "little")
    else:
        thread.result[0] = int.from_bytes(thread.block.shared[word], "little")


def descriptor(operands: tuple[int, ...], start: int) -> int:
    """9.7.15.5.1.2.2: start, leading and stride in units of 16 bytes, and the swizzle's number."""
    mode = {128: 1, 64: 2, 32: 3}[operands[0]]
    return (SHARED + operands[start]) >> 4 | operands[start + 1] >> 4 << 16 | operands[2] >> 4 << 32 | mode << 62


def bind(
    machine: Machine, thread: Thread, name: str, wrapper: Wrapper, given: list[str], operands: tuple[int, ...]
) -> dict[str, Any]:
    """The wrapper's parameters."""
    if name == "wgmma":
        a, b = descriptor(operands, 3), descriptor(operands, 5)
        types = {"kBf16": given[0] == "bfloat16"}
        return {"d": thread.sums, "a": a, "b": b, "accumulate": bool(operands[1]), **types}
    if name == "wgmma_wait_group":
        return {"d": thread.sums}
    if name.startswith("mma"):
        return {"d": [as_float(word) for word in operands[6:10]], "a": list(operands[:4]), "b": list(operands[4:6])}
    if name.startswith("stmatrix"):
        return {"row_address": SHARED + operands[0], "registers": list(operands[1:])}
    if name.startswith("ldmatrix"):
        return {"registers": [None] * 4, "row_address": SHARED + operands[0]}
    kinds = SIGNATURES.get(name, "")
    assert len(wrapper.parameters) == len(kinds) == len(operands), (name, wrapper.parameters, operands)
    return {
        parameter: convert(machine, kind, operand)
        for parameter, kind, operand in zip(wrapper.parameters, kinds, operands, strict=True)
    }
