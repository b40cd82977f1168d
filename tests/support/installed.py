"""The kernels of the module that was installed, as what nvcc compiled again would have them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from alexkern.backends import extension
from alexkern.cost.model import RESERVED_SHARED
from alexkern.tools import objects, sass
from alexkern.tools.instantiations import demangled

# On 9.0 and later, RESERVED_SHARED of it are the system's.
RESOURCES = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")


def installed(target: str, folder: Path) -> list[objects.Object]:
    """Out of the module that the install compiled, from these sources and with these flags: minutes less than again.

    Its kernels have their operator's namespace, as the sources have its folder. Without code for the target, none.
    """
    if extension.cuda.module is None:
        return []
    command = [sass.cuobjdump(), "-xelf", f".sm_{target}.cubin", str(extension.cuda.module.__file__)]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    found = []
    for path in folder.iterdir():
        listed = subprocess.run([sass.cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=True)
        kernels = {
            name: objects.Assembled(
                int(registers), int(stack), max(0, int(shared) - RESERVED_SHARED * (int(target.rstrip("a")) >= 90))
            )
            for name, registers, stack, shared in RESOURCES.findall(listed.stdout)
        }
        for operator in {name.partition("::")[0] for name in demangled(list(kernels))}:
            found.append(objects.Object(Path(operator) / path.name, target, path, 0.0, kernels))
    return found
