"""Where `alexkern tune` tries its candidates: all cores compile them, and the GPU that is here times them."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alexkern.arithmetic import precision
from alexkern.cost.chips import LIMITS, Chip
from alexkern.kernels.config import describe, rehearse
from alexkern.measure.timing import CudaTimer, Samples, Timer, measure
from alexkern.tools import aot
from alexkern.tools.triton_budget import resources
from alexkern.tools.tuning import Choice, Config

TOGETHER = 8  # candidates timed in turn; the tensors of all of them are on the GPU at once
SECONDS = 0.5  # of measuring them
ROUNDS = (10, 50)


class GpuBench:
    """A tune.Bench: a context manager that holds the compiling processes."""

    def __init__(self, device: torch.device, jobs: int, timer: Timer | None = None) -> None:
        self.torch_device = device
        self.device = describe(device)
        self.timer = timer or CudaTimer(device)
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._calls: tuple[Any, dict[str, Any]] = (None, {})

    def __enter__(self) -> GpuBench:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def usable(self, choice: Choice, configs: Sequence[Config]) -> list[Config]:
        futures = [(config, self._submit(choice, config)) for config in configs]
        return [config for config, future in futures if self._succeeded(future)]

    def _submit(self, choice: Choice, config: Config) -> Future[bool]:
        if self._pool is None:
            # Forking would copy a process that holds a CUDA context.
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(compiles, self.device, choice, config)
        except BrokenProcessPool:
            self._close()
            return self._submit(choice, config)

    def _succeeded(self, future: Future[bool]) -> bool:
        try:
            return future.result()
        except BrokenProcessPool:  # some configurations abort the compiler, and with it the pool
            self._close()
            return False

    def seconds(self, choice: Choice, configs: Sequence[Config]) -> dict[Config, float]:
        # The launches that all have in common say nothing about this choice.
        rehearsals = {config: _rehearsed(self.device, choice, config) for config in configs}
        signatures = [{_signature(launch) for launch in launches} for launches in rehearsals.values()]
        common = set.intersection(*signatures) if len(signatures) > 1 else set()
        first, *others = configs
        found: dict[Config, float] = {}
        for start in range(0, max(len(others), 1), TOGETHER):
            found |= self._measured(choice, [first, *others[start : start + TOGETHER]], common)
        return found

    def _measured(self, choice: Choice, configs: Sequence[Config], common: set[Any]) -> dict[Config, float]:
        """The first configuration has to run, and its results are the ones that the others have to have."""
        calls = {}
        expected = None
        for number, config in enumerate(configs):
            try:
                with (
                    rehearse(self.device, {choice.key: dataclasses.asdict(config)}),
                    precision(choice.workload.arithmetic),
                ):
                    launches, result = aot.record(self._call(choice), execute=True)
                self.timer.settle()
            except Exception:
                if number == 0:
                    raise
                continue  # it does not run on this GPU
            if number == 0:
                expected = result
            elif not same(result, expected):
                continue
            calls[str(number)] = partial(_replay, [one for one in launches if _signature(one) not in common])
        samples = measure(calls, self.timer, SECONDS, rounds=ROUNDS)
        return {configs[int(name)]: taken.median for name, taken in samples.items() if isinstance(taken, Samples)}

    def _call(self, choice: Choice) -> Any:
        workload, calls = self._calls
        if workload != choice.workload:
            self._calls = (None, {})  # the tensors of the one before go first
            with precision(choice.workload.arithmetic):
                calls = choice.workload.calls(self.torch_device)
            self._calls = (choice.workload, calls)
        return calls[choice.call]


def compiles(device: Chip, choice: Choice, config: Config) -> bool:
    """Whether everything that the call launches compiles and, where the chip's limits are known, keeps within them."""
    try:
        for launch in _rehearsed(device, choice, config):
            if device.target not in LIMITS:
                aot.compile(launch, device.target)
            elif not _fits(launch, device.target):
                return False
    except Exception:  # the compiler refuses in any way at all
        return False
    return True


_known: dict[str, bool] = {}


def _fits(launch: aot.Launch, target: int) -> bool:
    code = aot.specialisation(launch, target)
    if code not in _known:
        _known[code] = not resources(aot.report(launch, target))
    return _known[code]


def _rehearsed(device: Chip, choice: Choice, config: Config) -> list[aot.Launch]:
    table = {choice.key: dataclasses.asdict(config)}
    return aot.rehearsed(choice.workload, device, table).launches[choice.call]


def _signature(launch: aot.Launch) -> Any:
    return launch.kernel.__name__, launch.grid, tuple(sorted((name, str(v)) for name, v in launch.constants.items()))


def _replay(launches: Sequence[aot.Launch]) -> None:
    for launch in launches:
        launch()


def same(result: Any, expected: Any) -> bool:
    """Whether floating-point results agree but for the order of their sums. Window offsets may differ at ties."""
    for one, other in zip(_tensors(result), _tensors(expected), strict=True):
        if one.is_floating_point():
            tolerance = max(4 * torch.finfo(one.dtype).eps, 1e-4)
            difference = (one.float() - other.float()).abs().max()
            # Not <=: NaN agrees with nothing.
            if not bool(difference <= tolerance * other.float().abs().max()):
                return False
    return True


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
