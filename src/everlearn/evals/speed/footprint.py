"""Peak memory of a training step.

On a GPU the allocator says it. On a CPU no counter of torch's does, so a step runs in a fresh process, and the peak of
that process's resident memory, less what it held before the model was built, is the answer: parameters, gradients,
what the graph keeps, and the libraries' workspaces. Where the system does not tell what a process holds, the answer is
None.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from everlearn.evals.speed.subjects import Sizes, subject, tokens
from everlearn.models import Decoder

Step = Callable[[Decoder, Tensor], None]
STATUS = Path("/proc/self/status")


def peak_bytes(name: str, sizes: Sizes, step: Step, device: torch.device) -> int | None:
    """Return the peak memory of two steps of a preset in bytes, or None where it cannot be told.

    Args:
        name: of the preset.
        sizes: see `Sizes`.
        step: `(model, ids [B, T + 1]) -> None`, a function of a module, since another process has to find it.
        device: on which it runs.
    """
    if device.type == "cuda":
        return _on_cuda(name, sizes, step, device)
    if device.type != "cpu" or not STATUS.exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_alone, name, sizes, step, torch.get_num_threads()).result()


def _alone(name: str, sizes: Sizes, step: Step, threads: int) -> int:
    """Measure in this process, which does nothing else."""
    torch.set_num_threads(threads)
    torch.ones(64, 64, requires_grad=True).mm(torch.ones(64, 64)).sum().backward()  # loads what is loaded once
    before = resident("VmRSS")
    _run(name, sizes, step, torch.device("cpu"))
    return resident("VmHWM") - before


def _on_cuda(name: str, sizes: Sizes, step: Step, device: torch.device) -> int:
    """Measure with the counters of the allocator."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _run(name, sizes, step, device)
    return torch.cuda.max_memory_allocated(device) - before


def _run(name: str, sizes: Sizes, step: Step, device: torch.device) -> None:
    """Build the model and take two steps."""
    model, ids = subject(name, sizes, device), tokens(sizes.rows, sizes.length + 1, device)
    for _ in range(2):
        step(model, ids)


def resident(field: str, status: Path = STATUS) -> int:
    """Return one size that Linux tells of this process, in bytes: VmRSS now, VmHWM at its peak."""
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise ValueError(f"{status} has no field {field}; on {sys.platform} peak memory is not known, leave it out")
