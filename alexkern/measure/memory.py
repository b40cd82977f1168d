"""The memory that a call needs."""

from __future__ import annotations

import warnings

import torch

from alexkern.backends.cpu.memory import held_bytes, release_memory
from alexkern.measure.timing import Call


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most memory that a call has allocated at any time, over what was allocated before it.

    On a GPU by torch's caching allocator; on a CPU by the allocations that torch's profiler sees, which are those of
    tensors and of oneDNN's scratch memory, and by what our own list then has in mappings, all of it counted. What
    another library allocates by itself is in neither.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    release_memory()
    ours = held_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler about itself
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as taken:
            call()
    assert taken.profiler is not None and taken.profiler.kineto_results is not None
    events = [event for event in taken.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak + held_bytes() - ours
