"""What `everlearn doctor` reports, against what the machine says itself."""

import json
import platform
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

import everlearn
from everlearn.cli.doctor import gib, memory_limit
from everlearn.cli.main import main


def test_json_holds_what_the_machine_says(capsys):
    assert main(["doctor", "--device", "cpu", "--json", "-"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report["device"] == {"name": "cpu", "reason": "asked for"}
    assert report["threads"] == torch.get_num_threads()
    assert report["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert report["versions"] == {
        "everlearn": everlearn.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn", "safetensors")},
    }
    # other processes write to the disk between the two looks
    assert report["disk"]["free"] == pytest.approx(shutil.disk_usage(Path.cwd()).free, rel=0.05)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        kilobytes = int(meminfo.read_text().split("MemTotal:")[1].split()[0])
        assert report["memory"]["total"] == kilobytes * 1024
    assert shown.err.startswith("device: cpu, ")


def test_the_first_line_is_the_device_and_the_last_the_next_command(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device: cpu, ")
    assert lines[0].endswith("(asked for)")
    assert lines[-1] == "next: everlearn --help"
    for subject in ("versions:", "cpu:", "accelerators:", "memory:", "disk:"):
        assert sum(line.startswith(subject) for line in lines) == 1


def test_a_missing_device_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--device", "cuda"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("everlearn: device 'cuda' was asked for, but ")
    assert shown.err.endswith("; use cpu or auto\n")


@pytest.mark.parametrize(("text", "expected"), [("max\n", None), ("2147483648\n", 2**31)])
def test_the_limit_of_a_container_is_read(tmp_path, text, expected):
    file = tmp_path / "memory.max"
    file.write_text(text)
    assert memory_limit(file) == expected
    assert memory_limit(tmp_path / "absent") is None


def test_sizes_are_written_in_gib():
    assert [gib(size) for size in (None, 2**30, 3 * 2**29)] == ["unknown", "1.0 GiB", "1.5 GiB"]
