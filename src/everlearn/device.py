"""Where to compute: one choice for every verb, with its reason."""

from __future__ import annotations

import torch

NAMES = ("auto", "cpu", "cuda", "mps")


def device(name: str = "auto") -> tuple[torch.device, str]:
    """Choose the device that a name asks for.

    `auto` takes CUDA when there is one and the CPU otherwise. It never takes MPS by itself: MPS has no float64, which
    exact statistics and tests need, and it is untested here.

    Args:
        name: one of "auto", "cpu", "cuda", "mps".
    Returns:
        device: the torch device.
        reason: why, in a few words, for the first printed line of a verb.
    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    if name not in NAMES:
        raise ValueError(f"unknown device {name!r}; there are {', '.join(NAMES)}; use auto or cpu")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), "auto found CUDA"
        if torch.backends.mps.is_available():
            return torch.device("cpu"), "auto found no CUDA; there is MPS, untested here, on request"
        return torch.device("cpu"), "auto found no CUDA"
    if name == "cuda" and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise ValueError(f"device 'cuda' was asked for, but {why} (torch {torch.__version__}); use cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device 'mps' was asked for, but torch {torch.__version__} sees no MPS device; use cpu or auto"
        )
    return torch.device(name), "asked for"


def describe_device(chosen: torch.device, reason: str) -> str:
    """Write the first line of a verb: the device, what it is, and why it was chosen."""
    if chosen.type == "cuda":
        return f"device: cuda, {torch.cuda.get_device_name(chosen)} ({reason})"
    threads = torch.get_num_threads()
    return f"device: {chosen.type}, {threads} thread{'s' if threads != 1 else ''} ({reason})"
