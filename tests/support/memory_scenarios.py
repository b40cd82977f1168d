"""What test_cpu_memory.py runs in a process of its own: `python memory_scenarios.py NAME...`."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import alexkern
from alexkern.backends import cpu
from alexkern.backends.cpu import memory
from alexkern.plan import Spec

MIB = 2**20


def block(mebibytes: float) -> Tensor:
    return memory.empty(Spec((int(mebibytes * MIB),), (1,), torch.uint8))


def use() -> tuple[int, int]:
    """Bytes that are kept, and lent."""
    return cpu.native().memory_use()


def of_process() -> tuple[int, int]:
    """Bytes of the process that are mapped, and that lie in memory."""
    mapped, present, *_ = Path("/proc/self/statm").read_text().split()
    return int(mapped) * resource.getpagesize(), int(present) * resource.getpagesize()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def training() -> None:
    """Two hundred steps with a gradient of 36 MiB: no fresh pages, and no more memory at the end."""
    torch.manual_seed(0)
    model = alexkern.nn.FusedSequential(nn.Linear(2304, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 10))
    images, labels = torch.randn(4, 2304), torch.randint(10, (4,))
    counts, sizes = [], []
    for _ in range(200):
        model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        counts.append(faults())
        sizes.append(of_process()[1])
    assert counts[-1] - counts[20] < 180 * 100, counts  # 9216 small pages a step, if they were fresh
    assert sizes[-1] - sizes[20] < 8 * MIB, sizes
    model.zero_grad(set_to_none=True)
    assert alexkern.release_memory() == 4 * 2304 * 4096
    assert sizes[-1] - of_process()[1] > 32 * MIB


def alexnet() -> None:
    """Training steps of AlexNet: once glibc's part has grown to what a step needs, hardly a page of one is fresh."""
    model = alexkern.fuse(alexkern.models.AlexNet(dropout=0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels, counts = torch.randn(32, 3, 224, 224), torch.randint(1000, (32,)), [0]
    for _ in range(16):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        counts.append(faults())
    steps = [after - before for before, after in zip(counts, counts[1:], strict=False)]
    if platform.libc_ver()[0] == "glibc":  # torch's own: 75,000
        assert max(steps[8:]) < 1000, steps
    assert sum(steps[8:]) < 8 * 36864, steps  # fc6's gradient alone, if it were fresh


def malloc() -> None:
    """What torch takes of malloc and frees stays in the process: of the 48 MiB of a turn hardly a page is fresh."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block(2)
    for turn in range(10):
        taken = [libc.malloc(4 * MIB) for _ in range(12)]
        for address in taken:
            ctypes.memset(address, 1, 4 * MIB)
        for address in taken:
            libc.free(address)
        if turn == 1:
            before = faults()
    assert faults() - before < 8 * 1000, faults() - before


def fork() -> None:
    """While other threads take: a child keeps nothing of its parent's, and neither writes into what the other has."""
    lent, kept = block(2).fill_(1), block(4).fill_(2)
    address = kept.data_ptr()
    del kept
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            block(1)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(20):
        if (child := os.fork()) == 0:
            kept_here, _ = use()
            own = block(4).fill_(3)
            lent.fill_(4)
            os._exit(0 if kept_here == 0 and bool((own == 3).all()) and bool((lent == 4).all()) else 1)
        children.append(child)
        block(4).fill_(number)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 20
    done.set()
    for thread in threads:
        thread.join()
    assert bool((lent == 1).all()) and block(4).data_ptr() == address


class Pooled(Dataset[Tensor]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return alexkern.functional.max_pool2d(torch.full((4, 512, 512), float(index)), 1)


def workers() -> None:
    """A DataLoader's, which hand over such tensors, forked while the parent has some."""
    torch.set_num_threads(1)
    for _ in range(2):
        mine = alexkern.functional.dropout(torch.ones(MIB), 0.0 + 1e-9)
        for index, batch in enumerate(DataLoader(Pooled(), batch_size=None, num_workers=2)):
            assert batch.shape == (4, 512, 512) and bool((batch == index).all())
        assert bool((mine == mine[0]).all())


def buckets() -> None:
    """DistributedDataParallel copies gradients into buckets, or has views of them in their place."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    torch.manual_seed(0)
    model = alexkern.nn.FusedSequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU())
    for as_view in (False, True):
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=as_view)
        for _ in range(4):
            images = torch.randn(3, 512)
            model.zero_grad(set_to_none=True)
            for _ in range(2):
                parallel(images).sum().backward()
            with alexkern.backend("torch"):
                wanted = torch.autograd.grad(model(images).sum(), list(model.parameters()))
            for parameter, grad in zip(model.parameters(), wanted, strict=True):
                torch.testing.assert_close(parameter.grad, 2 * grad)
        del parallel
        model.zero_grad(set_to_none=True)
    assert use() == (use()[0], 0) and use()[0] > 0, use()
    distributed.destroy_process_group()


def short_of_memory() -> None:
    """What is kept goes first, then torch's error comes, and then all goes on."""
    tensors = [block(64) for _ in range(4)]
    del tensors
    assert use() == (256 * MIB, 0)
    resource.setrlimit(resource.RLIMIT_AS, (of_process()[0] + 128 * MIB, resource.RLIM_INFINITY))
    large = block(300)
    assert use() == (0, 300 * MIB)
    large[::4096] = 1
    try:
        block(600)
    except RuntimeError as error:
        assert "DefaultCPUAllocator: can't allocate memory" in str(error), error
    else:
        raise AssertionError("there is memory after all")
    del large
    assert use() == (300 * MIB, 0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def end_of_the_process() -> None:
    """Tensors that outlive the interpreter: in a module, in a cycle, in a thread."""
    torch.kept_to_the_end = block(2).fill_(1)  # type: ignore[attr-defined]
    cycle: list[object] = [block(2).fill_(1)]
    cycle.append(cycle)
    global ring
    ring = cycle
    held = threading.Event()

    def hold() -> None:
        tensor = block(2).fill_(1)
        held.set()
        threading.Event().wait()
        tensor.fill_(2)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()


TOGETHER = (("training", "buckets"), ("malloc", "fork", "workers", "short_of_memory", "end_of_the_process"))

if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
        alexkern.release_memory()
    print("as it should be")
