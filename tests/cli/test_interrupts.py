"""Ctrl-C, SIGKILL, a second writer, and streams that are closed or full."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from everlearn.cli.main import main
from everlearn.cli.workspace import sole_writer
from everlearn.levels import Level
from everlearn.models import Decoder, preset, save_model

TEXT = "".join(f"def hello_{i}(world):\n    return {i} + world\n" for i in range(9))


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """Work in a folder of our own that holds a base and a text."""
    levels = [Level("fast", 16, reset="document"), Level("slow", 32)]
    config = preset("delta_net", levels=levels, dim=8, num_layers=1, num_heads=1, hidden_dim=8, chunk_size=16)
    torch.manual_seed(0)
    save_model(Decoder(config), tmp_path / "base")
    (tmp_path / "t.txt").write_text(TEXT)
    (tmp_path / "u.txt").write_text(TEXT[::-1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which $E is the command."""
    environment = {**os.environ, "E": f"{sys.executable} -m everlearn"}
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)


def test_ctrl_c_while_the_command_is_imported():
    code = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'everlearn.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from everlearn.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "everlearn: interrupted\n")


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["read", "t.txt", "--user", "ada"], "everlearn read t.txt --user ada"),
        (["learn", "my notes", "--state", "S"], "everlearn learn 'my notes' --state S"),
        (["demo", "--quick", "--fresh", "--text", "a", "b"], "everlearn demo --text a b --quick"),
    ],
)
def test_ctrl_c_before_anything_was_done_says_how_to_go_on(capsys, monkeypatch, words, again):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("everlearn.cli.output.Output.__post_init__", interrupted)
    assert main(words) == 130
    err = capsys.readouterr().err
    assert err.endswith(f"; to go on: {again}\n")
    assert err.count("\n") == 1


def test_a_second_writer_is_refused_and_a_reader_is_not(desk, capsys):
    words = ["read", "t.txt", "--state", "S", "--base", "base"]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in Path("S").rglob("*.safetensors")}
    with sole_writer(Path("S")):
        capsys.readouterr()
        assert main(words) == 2
        assert "everlearn: another process is writing S; wait for it" in capsys.readouterr().err
        assert main(["eval", "t.txt", "--state", "S"]) == 0
    assert {path: path.read_bytes() for path in Path("S").rglob("*.safetensors")} == before
    assert main(words) == 0


def test_what_killed_processes_have_left_is_no_hindrance_and_goes_away(desk):
    """Killed while it wrote the very first file of a new folder, and later while it wrote a user's."""
    Path("S").mkdir()
    tempfile.mkstemp(prefix=".everlearn.json.", suffix=".tmp", dir="S")
    words = ["read", "t.txt", "--state", "S", "--base", "base"]
    assert main(words) == 0
    for _ in range(3):
        tempfile.mkstemp(prefix=".x.safetensors.", suffix=".tmp", dir="S/users")
    assert main(words) == 0
    assert not list(Path("S").rglob("*.tmp"))


def test_streams_that_are_closed_or_full(desk):
    done = shell("$E read t.txt --state S --base base <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell("$E paper 71 >&-")
    assert (done.returncode, done.stderr) == (0, "")
    if Path("/dev/full").exists():
        done = shell("$E --help > /dev/full")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("everlearn: No space left on device")


def test_letters_that_the_terminal_lacks_are_escaped(desk):
    Path("ü.txt").write_text(TEXT)
    done = shell("PYTHONIOENCODING=ascii $E read ü.txt --state S --base base")
    assert done.returncode == 0
    assert "\\xfc.txt" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["read", "learn"])
def test_killed_at_any_moment_and_restarted_is_never_having_stopped(desk, verb):
    paths = ["t.txt", "u.txt"] if verb == "read" else ["texts"]
    Path("texts").mkdir()
    for name in ("t.txt", "u.txt"):
        Path(name).write_text(Path(name).read_text() * 4)
        Path("texts", name).write_text(Path(name).read_text())
    command = [sys.executable, "-m", "everlearn", verb, *paths, "--base", "base", "--state"]
    begin = time.monotonic()
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    length = time.monotonic() - begin
    (expected,) = (path.read_bytes() for path in Path("whole/users").iterdir())
    draw, kills = random.Random(0), 0
    while kills < 5:
        process = subprocess.Popen([*command, "S"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3 * length, length))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if [path.read_bytes() for path in Path("S/users").glob("*.safetensors")] == [expected]:
            for path in Path("S/users").iterdir():
                path.unlink()
    subprocess.run([*command, "S"], check=True, capture_output=True)
    assert [path.read_bytes() for path in Path("S/users").iterdir()] == [expected]
