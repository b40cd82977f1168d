"""What nvcc makes of the CUDA C++ kernels, one line an instantiation, on a machine with nvcc and without a GPU.

    python -m alexkern.tools.report --target 90a --operator conv2d_relu

prints registers, shared memory (static + dynamic), spilled bytes, how many blocks share a multiprocessor, the
instructions of the main loop (or of all, where there is no loop), and the widths of its accesses to global memory;
below the table, what breaks the budget, and how long each file took to compile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from alexkern.commands import guarded
from alexkern.tools import objects
from alexkern.tools.cuda_budget import violations
from alexkern.tools.instantiations import Instantiation, instantiations
from alexkern.tools.rehearsal import everything, missing

COLUMNS = (
    "operator", "kernel", "sm", "warps", "registers", "shared", "spilled", "blocks/SM", "warps/SM", "instructions",
)  # fmt: skip
SHOWN = 4  # kinds of instructions


def row(kernel: Instantiation) -> tuple[str, ...]:
    """An instantiation in the words of the table: COLUMNS."""
    body = kernel.main_loop or kernel.opcodes
    kinds = (("LDGSTS", kernel.copies), ("LDG", kernel.loads), ("STG", kernel.stores))
    words = [f"{sum(body.values())}{' in the loop' if kernel.main_loop else ''}"]
    # The products first, then the most frequent.
    ranked = sorted(body.items(), key=lambda item: (item[0] not in ("HMMA", "HGMMA", "UTMALDG", "LDSM"), -item[1]))
    words += [f"{name} {number}" for name, number in ranked[:SHOWN]]
    words += [f"{name}.{width} {number}" for name, widths in kinds for width, number in reversed(widths.items())]
    return (
        kernel.operator, kernel.kernel, str(kernel.target), str(kernel.num_warps), str(kernel.registers),
        f"{kernel.static_shared} + {kernel.shared - kernel.static_shared}",
        str(kernel.spilled + kernel.stack + kernel.local),
        str(kernel.blocks), str(kernel.blocks * kernel.num_warps), ", ".join(words),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or the instantiations as JSON, one a line; 1 where one breaks its budget, 2 where they
    cannot be compiled."""
    reason = missing()
    if reason is not None:
        print(f"alexkern: {reason}", file=sys.stderr)
        return 2
    try:
        return _report(argv)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2


def _report(argv: Sequence[str] | None) -> int:
    operators = sorted({path.parent.name for path in objects.sources()})
    known = objects.targets()
    parser = argparse.ArgumentParser(prog="python -m alexkern.tools.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", nargs="+", default=["90a"], choices=known, help="default: 90a")
    parser.add_argument("--operator", nargs="+", default=operators, choices=operators, help="default: all")
    parser.add_argument("--json", action="store_true", help="print all there is to know, one JSON object a line")
    args = parser.parse_args(argv)
    launches = everything()
    files = [path for path in objects.sources() if path.parent.name in args.operator]
    made = [item for target in args.target for item in objects.objects(target, files)]
    kernels = instantiations(made, launches)
    if args.json:
        for kernel in kernels:
            print(json.dumps(dataclasses.asdict(kernel)))
    else:
        print(" | ".join(COLUMNS))
        for kernel in kernels:
            print(" | ".join(row(kernel)))
    broken = [line for kernel in kernels for line in violations(kernel)]
    # Beside the JSON these are for whoever looks on.
    below = sys.stderr if args.json else sys.stdout
    print("\n" + ("\n".join(broken) or f"all {len(kernels)} instantiations keep their budget"), file=below)
    for item in made:
        print(
            f"compiled {item.source.parent.name}/{item.source.name} for sm_{item.target} in {item.seconds:.1f} s",
            file=below,
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(guarded("python -m alexkern.tools.report", main))
