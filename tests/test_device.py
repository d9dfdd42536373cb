"""Where to compute, and why."""

import pytest
import torch

from everlearn.device import describe_device, device


def pretend(monkeypatch, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "kind", "why"),
    [(True, False, "cuda", "found CUDA"), (True, True, "cuda", "found CUDA"), (False, True, "cpu", "on request"),
     (False, False, "cpu", "no CUDA")],
)  # fmt: skip
def test_auto_prefers_cuda_and_never_takes_mps_by_itself(monkeypatch, cuda, mps, kind, why):
    pretend(monkeypatch, cuda, mps)
    chosen, reason = device("auto")
    assert chosen.type == kind
    assert why in reason


def test_a_device_that_was_asked_for_is_taken(monkeypatch):
    pretend(monkeypatch, cuda=True, mps=True)
    assert [device(name) for name in ("cpu", "cuda", "mps")] == [
        (torch.device(name), "asked for") for name in ("cpu", "cuda", "mps")
    ]


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_device_names_the_fallback(monkeypatch, name):
    pretend(monkeypatch, cuda=False, mps=False)
    with pytest.raises(ValueError, match=rf"device '{name}' was asked for, but .*; use cpu or auto"):
        device(name)


def test_a_cuda_build_without_a_device_is_told_from_a_cpu_build(monkeypatch):
    pretend(monkeypatch, cuda=False, mps=False)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="this build of torch has no CUDA"):
        device("cuda")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown device 'gpu'; there are auto, cpu, cuda, mps; use auto or cpu"):
        device("gpu")


def test_the_line_says_which_and_why(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(torch.device("cpu"), "asked for") == "device: cpu, 1 thread (asked for)"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert describe_device(torch.device("cpu"), "auto found no CUDA") == "device: cpu, 8 threads (auto found no CUDA)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda chosen: "Some GPU")
    assert describe_device(torch.device("cuda"), "asked for") == "device: cuda, Some GPU (asked for)"
