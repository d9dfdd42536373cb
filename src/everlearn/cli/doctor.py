"""Say what this machine offers; the first thing to run, and to paste into a report of a defect."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from everlearn import __version__
from everlearn.cli.options import DeviceName, JsonTarget
from everlearn.cli.output import Output

PACKAGES = ("torch", "numpy", "scikit-learn", "safetensors")
GIB = 2**30


@dataclass(frozen=True)
class Options:
    """Show what this machine offers: device, threads, versions, memory and free disk."""

    device: DeviceName = "auto"
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print the report, and write it as JSON where that was asked for."""
    from everlearn.device import describe_device, device

    output = Output(options.json)
    chosen, reason = device(options.device)
    output.say(describe_device(chosen, reason))
    report = {"device": {"name": chosen.type, "reason": reason}, **examine()}
    for line in lines(report):
        output.say(line)
    output.finish(report)
    output.say("next: everlearn --help")
    return 0


def examine() -> dict[str, Any]:
    """Collect what the report shows, sizes in bytes; a value that this system does not tell is None."""
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {
            "everlearn": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "platform": platform.platform(),
        "python_path": sys.executable,
        "threads": torch.get_num_threads(),
        "cpu": {
            "count": os.cpu_count(),
            "usable": usable_cpus(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "cuda": {"devices": cuda, "build": torch.version.cuda},
        "mps": torch.backends.mps.is_available(),
        "memory": {"total": memory("SC_PHYS_PAGES"), "free": memory("SC_AVPHYS_PAGES"), "limit": memory_limit()},
        "disk": {"path": str(Path.cwd()), "free": shutil.disk_usage(Path.cwd()).free},
    }


def lines(report: dict[str, Any]) -> list[str]:
    """Write the report as lines of text, one subject each."""
    cpu, ram, cuda = report["cpu"], report["memory"], report["cuda"]
    accelerators = [*cuda["devices"], *(["MPS"] if report["mps"] else [])]
    limit = f", limited to {gib(ram['limit'])}" if ram["limit"] is not None else ""
    return [
        "versions: " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"python: {report['python_path']} on {report['platform']}",
        f"cpu: {cpu['usable']} of {cpu['count']} cores usable, {cpu['capability']}, torch uses {report['threads']}",
        f"accelerators: {', '.join(accelerators) or 'none'} (torch built for CUDA: {cuda['build'] or 'no'})",
        f"memory: {gib(ram['total'])}, {gib(ram['free'])} unused{limit}",
        f"disk: {gib(report['disk']['free'])} free at {report['disk']['path']}",
    ]


def gib(size: int | None) -> str:
    """Write a number of bytes in GiB."""
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"


def usable_cpus() -> int | None:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def memory(pages: str) -> int | None:
    """Return a number of pages that the system names, in bytes, or None where it knows no such name."""
    if sys.platform == "win32" or pages not in os.sysconf_names:
        return None
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def memory_limit(path: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """Return the memory that a container may use [bytes], or None where there is no limit."""
    text = path.read_text().strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else None
