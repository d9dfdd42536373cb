"""The frame of the command line: how a verb is found, how it fails, and with which exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import everlearn
import everlearn.cli
from everlearn.cli import errors
from everlearn.cli.main import VERBS, main, overview

VERB = '''\
"""A verb that does what a test asks for."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

from everlearn.cli.errors import UserError, resume_hint


@dataclass(frozen=True)
class Options:
    """Do what a test asks for."""

    path: Path
    """the folder to read"""
    size: int = 1
    """how many"""
    quick: bool = False
    """less"""
    keep_all: bool = False
    """nothing is thrown away"""


def run(options):
    act = options.path.name
    if act == "value":
        raise ValueError("size 0 is too small;\\n  give 1")
    if act == "library":
        json.loads("{")
    if act == "user":
        raise UserError("label 3 is not text")
    if act.isdigit():
        raise OSError(int(act), os.strerror(int(act)), "some/file")
    if act == "defect":
        raise KeyError("a defect of ours")
    if act == "interrupt":
        raise KeyboardInterrupt
    if act == "resumable":
        with resume_hint(lambda: "kept 3 chunks in 'memory'; to go on: everlearn probe x"):
            raise KeyboardInterrupt
    print(options.path, options.size, options.quick)
    return 1 if act == "failed" else 0
'''


@pytest.fixture
def probe(tmp_path: Path, monkeypatch):
    """Register a verb by one line, as cli/main.py does."""
    (tmp_path / "probe.py").write_text(VERB)
    monkeypatch.setattr(everlearn.cli, "__path__", [*everlearn.cli.__path__, str(tmp_path)])
    monkeypatch.setitem(VERBS, "probe", "do what a test asks for")
    yield
    sys.modules.pop("everlearn.cli.probe", None)


def outcome(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_help_lists_every_verb_with_or_without_being_asked(capsys):
    code, out, err = outcome(capsys, "--help")
    assert (code, err) == (0, "")
    assert outcome(capsys) == outcome(capsys, "-h") == (0, out, "")
    for verb, summary in VERBS.items():
        assert f"  {verb} " in out
        assert summary in out


def test_help_is_fast():
    """Under 0.5 s of wall time from the shell, the best of three because other work shares the machine."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "everlearn", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5


def test_version_is_the_package_s(capsys):
    assert outcome(capsys, "--version") == (0, f"everlearn {everlearn.__version__}\n", "")


def test_options_reach_the_verb_and_its_exit_code_comes_back(capsys, probe):
    assert outcome(capsys, "probe", "here", "--size", "4", "--quick") == (0, "here 4 True\n", "")
    assert outcome(capsys, "probe", "here", "--size=4") == (0, "here 4 False\n", "")
    assert outcome(capsys, "probe", "failed") == (1, "failed 1 False\n", "")


def test_the_help_of_a_verb_comes_from_its_docstrings_and_has_no_colours(capsys, probe):
    code, out, err = outcome(capsys, "probe", "--help")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for text in ("usage: everlearn probe", "Do what a test asks for.", "the folder to read", "how many (default: 1)"):
        assert text in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["prob"], "unknown command 'prob'; did you mean probe? there are: "),
        (["probe"], "Missing from everlearn probe: PATH"),
        (
            ["probe", "x", "--sise", "2"],
            "unknown option '--sise'; did you mean --size? there are: --help, --keep-all, --quick, --size",
        ),
        (["probe", "x", "-v"], "unknown option '-v'; there are:"),
        (
            ["probe", "x", "--size", "many"],
            "Error parsing --size: invalid literal for int() with base 10: 'many'; see:",
        ),
        (["probe", "x", "--keep_all", "--size", "many"], "Error parsing --size"),
        (["probe", "x", "--size"], "Missing value for argument '--size'"),
        (["probe", "x", "y"], "Unrecognized options: y"),
        (["probe", "value"], "size 0 is too small; give 1"),
        (["probe", "user"], "label 3 is not text"),
        (["doctor", "--device", "gpu"], "invalid choice 'gpu' for argument '--device'"),
    ],
)
def test_bad_usage_and_bad_input_are_one_line_and_exit_2(capsys, probe, words, line):
    code, out, err = outcome(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"everlearn: {line}")
    assert err.count("\n") == 1
    assert err.endswith("\n")


@pytest.mark.parametrize(
    ("number", "code", "repair"),
    [
        (errno.ENOSPC, 1, "free some space there and run the same command again"),
        (errno.EACCES, 2, "choose a path that this user may read and write"),
        (errno.ENOENT, 2, "check the path"),
        (errno.EEXIST, 2, "choose a new path or remove this one"),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_the_repair(capsys, probe, number, code, repair):
    line = f"everlearn: {os.strerror(number)}: 'some/file'; {repair}\n"
    assert outcome(capsys, "probe", str(number)) == (code, "", line)


@pytest.mark.parametrize("act", ["defect", str(errno.EDOM)])
def test_an_unexpected_error_keeps_its_traceback(probe, act):
    with pytest.raises((KeyError, OSError)):
        main(["probe", act])


def test_an_error_that_began_in_a_library_says_how_to_see_where(capsys, probe):
    code, _, err = outcome(capsys, "probe", "library")
    assert code == 2
    assert err.startswith("everlearn: Expecting property name")
    assert err.endswith("; EVERLEARN_DEBUG=1 shows where this came from\n")
    assert "EVERLEARN_DEBUG" not in outcome(capsys, "probe", "user")[2]


def test_debugging_shows_the_traceback_above_the_line(capsys, probe, monkeypatch):
    monkeypatch.setenv("EVERLEARN_DEBUG", "1")
    code, _, err = outcome(capsys, "probe", "user")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("everlearn: label 3 is not text\n")


def test_an_interrupt_is_130_and_says_how_to_go_on_where_the_verb_knows(capsys, probe):
    assert outcome(capsys, "probe", "interrupt") == (130, "", "everlearn: interrupted\n")
    hint = "kept 3 chunks in 'memory'; to go on: everlearn probe x"
    assert outcome(capsys, "probe", "resumable") == (130, "", f"everlearn: interrupted; {hint}\n")


def test_an_error_inside_a_resumable_block_stays_what_it_is():
    with pytest.raises(errors.UserError), errors.resume_hint(lambda: "never asked"):
        raise errors.UserError("wrong")


def test_ctrl_c_in_a_real_process_prints_no_traceback(tmp_path):
    code = (
        # what runs in the background of a shell inherits that it ignores Ctrl-C
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from everlearn.cli import main as cli\n"
        "def wait(arguments):\n    print('ready', flush=True)\n    time.sleep(30)\n"
        "cli.dispatch = wait\nsys.exit(cli.main([]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "everlearn: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_causes_no_noise(unbuffered):
    """`everlearn --help | true`: the pipe is closed before anything is written, at once or at the last flush."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read(); from everlearn.cli.main import main; sys.exit(main([]))"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, noise = process.communicate(timeout=20)
    assert (noise, process.returncode) == (b"", 1)


def test_the_module_and_the_script_are_the_same_command():
    done = subprocess.run([sys.executable, "-m", "everlearn", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == overview()
