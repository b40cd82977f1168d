"""What a timer asks of a GPU: a cold cache, marks in its stream, time to issue work in, and graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_CALLS = 3  # before a capture: libraries choose algorithms and allocate in their first calls
FLUSHED = 4  # times the L2's size is written


class Gpu:
    """One device as torch sees it, and torch's current stream, which calls issue their work to."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        properties = torch.cuda.get_device_properties(device)
        self._flush = torch.empty(FLUSHED * properties.L2_cache_size, dtype=torch.uint8, device=device)
        self._cycles_per_second = self._clock_rate()

    def _clock_rate(self) -> float:
        """Cycles of torch's busy loop a second, by a loop of known length."""
        cycles = 10_000_000
        torch.cuda._sleep(cycles)
        start = self.mark()
        torch.cuda._sleep(cycles)
        return cycles / self.elapsed(start, self.mark())

    def synchronize(self) -> None:
        """Waits for all work."""
        torch.cuda.synchronize(self._device)

    def flush(self) -> None:
        """Issues work that leaves nothing of use in the L2."""
        self._flush.zero_()

    def wait(self, seconds: float) -> None:
        """Issues work that keeps the device busy for about so long, and touches no memory."""
        torch.cuda._sleep(int(seconds * self._cycles_per_second))

    def mark(self) -> torch.cuda.Event:
        """A mark behind the work issued so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds on the device between two marks, once the second is reached."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def capture(self, call: Callable[[], object]) -> Callable[[], object] | None:
        """The replay of a CUDA graph of the call, or None where it cannot be captured."""
        stream = torch.cuda.Stream(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_CALLS):
                    call()
            torch.cuda.current_stream(self._device).wait_stream(stream)
            with torch.cuda.graph(graph):
                result = call()  # kept, or a later capture could take its memory
            graph.replay()
            self.synchronize()
        except Exception:  # what cannot be captured raises in any way at all
            torch.cuda.synchronize(self._device)
            return None

        def replay(result: object = result) -> None:
            graph.replay()

        return replay
