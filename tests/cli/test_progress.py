import io
import subprocess
import sys

import pytest

from everlearn.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize(("total", "step"), [(1000, 1), (30, 1), (7, 1), (1.0, 0.001), (64_000, 640)])
def test_plain_mode_prints_about_one_line_a_tenth(capsys, total, step):
    with progress("Training the base", total=total) as advance:
        for _ in range(round(total / step)):
            advance(step)
    printed = lines(capsys)
    assert printed[0] == "Training the base ..."
    assert printed[-1].startswith("Training the base: done in 0 s")
    assert 5 <= len(printed) <= 12
    assert "Training the base: 50 %" in printed or total == 7


def test_a_note_travels_with_the_line(capsys):
    with progress("Training", total=2) as advance:
        advance(1, "2.41 bits/byte")
        advance(1, "2.38 bits/byte")
    assert lines(capsys) == ["Training ...", "Training: 50 %, 2.41 bits/byte", "Training: done in 0 s, 2.38 bits/byte"]


def test_an_unknown_total_prints_ever_more_rarely(capsys):
    with progress("Reading") as advance:
        for _ in range(1_000):
            advance()
    assert lines(capsys)[1:4] == ["Reading: 1", "Reading: 2", "Reading: 4"]


def test_an_interrupt_passes_through_and_says_where(capsys):
    with pytest.raises(KeyboardInterrupt), progress("Reading", total=4) as advance:
        advance()
        raise KeyboardInterrupt
    assert lines(capsys)[-1] == "Reading: stopped at 25 %"


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_gets_a_bar_and_no_color_is_respected(monkeypatch, no_color):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    with progress("Reading [a/b]", total=2) as advance:
        advance(1, "[page 1]")
        advance(1)
    shown = terminal.getvalue()
    assert "Reading [a/b]" in shown and "[page 1]" in shown and "100 %" in shown
    assert ("\x1b[38" in shown or "\x1b[3" in shown) != no_color


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with progress("Reading", total=1) as advance:
        advance()
    assert terminal.getvalue() == "Reading ...\nReading: done in 0 s\n"


def test_importing_it_loads_the_standard_library_only():
    code = "import everlearn.cli.progress, sys; print([m for m in ('rich', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
