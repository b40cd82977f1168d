"""compare(model, example): whether fusing, freezing or torch.compile makes a model faster here, and whether right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alexkern import processor
from alexkern.accuracy import error_and_allowed
from alexkern.console import first_line, named, table
from alexkern.frozen.freeze import copied, freeze
from alexkern.fuse import fuse, unfuse
from alexkern.graph import check_model
from alexkern.measure.memory import peak_bytes
from alexkern.measure.timing import Call, Samples, measure, timer_for

PLAIN, FORWARD, TRAINING = "plain", "forward", "training step"
ENOUGH = 3  # times the seconds asked for, until there are rounds enough to decide
HEADINGS = ("", "ms", "times as fast", "peak MB", "error/allowed")


@dataclass(frozen=True)
class Figure:
    """One way to run the model, in one pass: `reason` says why it, or a figure of it, is not there.

    peak is in bytes over what was allocated before: of torch's allocator on a GPU, on a CPU of what torch's profiler
    sees. error is the largest one over the allowed one, by the accuracy rule against the model in float64.
    """

    time: Samples | None = None
    peak: int | None = None
    error: float | None = None
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `alexkern.compare` found: `passes["forward"]["fused"]` is a :class:`Figure`. Printing it gives a table."""

    what: str
    passes: Mapping[str, Mapping[str, Figure]]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [HEADINGS]
        notes = []
        for name, figures in self.passes.items():
            rows.append((name, *("" for _ in HEADINGS[1:])))
            rows += [(f"  {way}", *_cells(figure, figures[PLAIN])) for way, figure in figures.items()]
            notes += [f"{name}, {way}: {figure.reason}" for way, figure in figures.items() if figure.reason]
        lines = table(rows)
        return "\n".join([self.what, "", *lines, *([""] if notes else []), *notes])

    __repr__ = __str__

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "what": self.what,
            "passes": {
                name: {
                    way: {"seconds": figure.time.median if figure.time else None, "peak_bytes": figure.peak,
                          "error": figure.error, "reason": figure.reason}
                    for way, figure in figures.items()
                }
                for name, figures in self.passes.items()
            },
        }  # fmt: skip


def _cells(figure: Figure, plain: Figure) -> tuple[str, ...]:
    if figure.time is None:
        return ("-",) * (len(HEADINGS) - 1)
    level = " ~" if plain.time is not None and figure is not plain and not figure.time.differs_from(plain.time) else ""
    ratio = f"{plain.time.median / figure.time.median:.2f}{level}" if plain.time is not None else ""
    peak = "" if figure.peak is None else f"{figure.peak / 1e6:.1f}"
    return f"{figure.time.median * 1e3:.3f}", ratio, peak, "" if figure.error is None else f"{figure.error:.2f}"


def compare(model: nn.Module, example: Tensor, seconds: float = 3.0) -> Comparison:
    """Measure a model as torch runs it, fused, frozen and compiled: time, peak memory, and error.

    Everything is done with copies: the model, its mode and torch's random numbers stay as they are. The forward pass is
    that of eval mode, without gradients. A training step is forward and backward pass, in training mode, without an
    optimiser; for its error alone dropout is off, for every way drops other elements. Torch's own error is that in the
    memory format in which it is larger. Where two values nearly tie, another order of summation may choose another
    maximum or another zero of a ReLU, and one such choice is thousands of times the allowed error in a gradient: over 1
    is a reason to look, not a fault.

    Args:
        model: any module that takes one tensor and gives a tensor, or tensors in any structure.
        example: a batch as the model will get it, on its device.
        seconds: about how long each of the two passes is measured.

    Returns:
        A :class:`Comparison`. "~" in its table: level with plain, for the quartiles overlap or the rounds are too few.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) model and example are not on one device.
    """
    check_model("compare", model, example)
    example = example.detach()
    gpu = example.device.type == "cuda"
    with torch.random.fork_rng([example.device] if gpu else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile about the machine
        passes = {name: _measured(name, model, example, seconds) for name in (FORWARD, TRAINING)}
    device = torch.cuda.get_device_name(example.device) if gpu else processor.name()
    dtype = str(example.dtype).removeprefix("torch.")
    return Comparison(f"{type(model).__name__}, {tuple(example.shape)} in {dtype}, on {device}", passes)


def plain(model: nn.Module) -> nn.Module:
    """A copy with torch's own Sequentials."""
    return unfuse(copied(model))


def _measured(name: str, model: nn.Module, example: Tensor, seconds: float) -> dict[str, Figure]:
    """Every way in one pass."""
    run = _infer if name == FORWARD else _train
    # What makes each way of a copy, which it may change.
    ways: dict[str, Callable[[Any], Any]] = {PLAIN: lambda twin: twin, "fused": fuse}
    if name == FORWARD:
        ways["frozen"] = partial(freeze, example=example)
    ways["compiled"] = torch.compile
    twins: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for way, make in ways.items():
        try:
            twins[way] = make(plain(model).train(name == TRAINING))
            run(twins[way], example)
        except Exception as error:
            if way == PLAIN:
                raise
            twins.pop(way, None)
            reasons[way] = f"does not run: {named(error)}"
    calls: dict[str, Call] = {way: partial(run, twin, example) for way, twin in twins.items()}
    peaks = {way: peak_bytes(call, example.device) for way, call in calls.items()}
    times = measure(calls, timer_for(example.device, graphs=False), seconds, enough_s=ENOUGH * seconds)
    errors, why = _errors(run, twins, example)
    figures = {way: Figure(reason=reasons.get(way, "")) for way in ways}
    for way, time in times.items():
        if isinstance(time, Exception):
            figures[way] = Figure(reason=f"does not run: {first_line(time)}")
        else:
            figures[way] = Figure(time, peaks[way], errors.get(way), why)
    return figures


def _infer(model: Any, example: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return _tensors(model(example))


def _train(model: Any, example: Tensor) -> list[Tensor]:
    """Outputs, then the gradients of the parameters, for the same gradient of the outputs in every run."""
    model.zero_grad()
    outputs = [output for output in _tensors(model(example)) if output.requires_grad]
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    torch.autograd.backward(outputs, grads)
    return [*outputs, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _errors(run: Any, twins: dict[str, Any], example: Tensor) -> tuple[dict[str, float], str]:
    """The largest error over the allowed one of every way, or none and why. Dropout is off from here on."""
    for twin in twins.values():
        for module in twin.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0

    def results(twin: Any, input: Tensor) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in run(twin, input)]

    try:
        torchs = [results(twins[PLAIN], example)]
        if any(not torch.equal(*pair) for pair in zip(torchs[0], results(twins[PLAIN], example), strict=True)):
            return {}, "no error: the model gives other numbers in every run"
        if example.dim() == 4:
            images = example.contiguous(memory_format=torch.channels_last)
            torchs.append(results(copied(twins[PLAIN]).to(memory_format=torch.channels_last), images))
        wide = example.double() if example.is_floating_point() else example
        wanted = results(copied(twins[PLAIN]).double(), wide)
        return {way: _ratio(results(twin, example), wanted, torchs) for way, twin in twins.items()}, ""
    except Exception as error:
        return {}, f"no error: {named(error)}"


def _ratio(ours: list[Tensor], wanted: list[Tensor], torchs: list[list[Tensor]]) -> float:
    """Of the worst tensor; torch's own error is the larger one of its runs."""
    worst = 0.0
    for tensor, reference, *others in zip(ours, wanted, *torchs, strict=True):
        if tensor.numel():
            pairs = [error_and_allowed(tensor, reference, other) for other in others]
            worst = max(worst, min(error / allowed for error, allowed in pairs))
    return worst
