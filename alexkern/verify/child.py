"""What runs in a process of its own, so that a crash or a hang costs no more than that: it tells line by line.

It is given one JSON object as its argument, and prints JSON objects, a line each. {"at": ...} comes before what may
not come back.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from alexkern import dispatch, verified
from alexkern.arithmetic import ARITHMETIC, precision
from alexkern.console import named
from alexkern.measure.timing import measure, timer_for
from alexkern.ops.registry import served
from alexkern.verify.trials import SIMULATED, Call, Trial, arithmetics, check, gradient_like, trials

Message = dict[str, Any]
TIMED_S, ROUNDS = 0.1, (6, 30)  # of a backend beside torch


def main() -> None:
    """Do the task, and end with it. What kernels and compilers print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = json.loads(sys.argv[-1])
    for message in TASKS[task.pop("task")](torch.device(task.pop("device")), **task):
        print(json.dumps(message), file=out, flush=True)


def _end_with_parent() -> None:
    """A parent that was killed closes the pipe, and a kernel that hangs would outlive it."""
    os.read(0, 1)
    os._exit(1)


def survey(device: torch.device) -> Iterator[Message]:
    """Which device this is, and why each backend does not serve each operator in each arithmetic."""
    yield {"at": "looking at the device"}
    missing = {
        backend: {
            operator: {
                name: dispatch.missing(backend, operator, device.type, ARITHMETIC[name][0])
                for name in arithmetics(device)
            }
            for operator in served()
        }
        for backend in dispatch.PACKAGES
    }
    gpu = device.type == "cuda"
    yield {
        "identity": verified.identity(device),
        "capability": torch.cuda.get_device_capability(device) if gpu else None,
        "memory": torch.cuda.mem_get_info(device)[0] if gpu else math.inf,
        "missing": missing,
    }


def check_operator(
    device: torch.device, operator: str, backend: str, names: list[str], thorough: bool
) -> Iterator[Message]:
    """Every trial of an operator on a backend, in the arithmetics named."""
    yield {"at": "loading"}
    reference = served()[operator].reference
    assert reference is not None, operator
    simulated = device.type == "cpu" and backend in SIMULATED
    for trial in trials(reference, device, simulated, thorough):
        if trial.arithmetic not in names:
            continue
        yield {"at": str(trial)}
        try:
            for what, error, allowed in check(_call(device, operator, backend, trial), reference, trial.arithmetic):
                yield {"what": f"{what} of {trial}", "error": error, "allowed": allowed}
        except Exception as error:
            yield {"failure": f"{trial}: {named(error)}"}


def time_operators(device: torch.device, pairs: list[tuple[str, str, list[str]]]) -> Iterator[Message]:
    """Of each (operator, backend, arithmetics): the time of its first layer, in turns with torch's."""
    timer = timer_for(device, graphs=False)
    for operator, backend, names in pairs:
        reference = served()[operator].reference
        assert reference is not None, operator
        times: dict[str, dict[str, float]] = {"torch": {}, backend: {}}
        for name in names:
            yield {"at": f"timing it in {name}"}
            trial = Trial(reference.layers[0], name, True)
            with precision(name):
                calls = {who: _timed(_call(device, operator, who, trial)) for who in times}
                for call in calls.values():
                    call()
                for who, samples in measure(calls, timer, TIMED_S, rounds=ROUNDS).items():
                    if isinstance(samples, Exception):
                        raise samples
                    times[who][name] = samples.median * 1e3
        yield {"ms": times[backend], "torch_ms": times["torch"]}


def _call(device: torch.device, operator: str, backend: str, trial: Trial) -> Call:
    args = trial.case.draw(ARITHMETIC[trial.arithmetic][0], device, trial.channels_last)
    return Call(served()[operator], dispatch.implementation(backend, operator), args)


def _timed(call: Call) -> Callable[[], object]:
    if not call.operator.num_differentiable:
        return call.forward
    grad = gradient_like(call.forward()[0])
    return lambda: call.backward(call.forward(), grad)


TASKS: dict[str, Callable[..., Iterator[Message]]] = {
    "survey": survey,
    "check": check_operator,
    "time": time_operators,
}
