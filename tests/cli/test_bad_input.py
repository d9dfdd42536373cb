"""Bad input ends in one clear line and exit code 2, and changes nothing on the disk; odd but good input is taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from bad_input_fixture import LINE, TEXT, copy, refused, taken, text_words

from everlearn.cli import errors
from everlearn.cli.main import main
from everlearn.demo import corpus
from tests.memory.test_files_faults import full_at

pytestmark = pytest.mark.usefixtures("desk")


BAD_TEXT = {
    "empty": (b"", "is empty"),
    "binary": (b"\0\1\2" * 99, "is binary"),
    "latin": ("é".encode("latin-1") * 99, "is binary"),
    "one byte": (b"a", "too short"),
}


@pytest.mark.parametrize("verb", ["read", "learn"])
class TestText:
    @pytest.mark.parametrize(("data", "match"), BAD_TEXT.values(), ids=BAD_TEXT)
    def test_files_that_hold_no_text(self, capsys, verb, data, match):
        Path("x.txt").write_bytes(data)
        assert match in refused(capsys, *text_words(verb, "x.txt"))
        Path("d").mkdir()
        Path("x.txt").rename("d/x.txt")
        line = refused(capsys, *text_words(verb, "d"))
        assert "d holds no usable text" in line
        assert match in line

    def test_a_file_that_is_missing_huge_or_no_file(self, capsys, verb, monkeypatch):
        monkeypatch.setattr(corpus, "LARGEST_TEXT", 1000)
        assert "check the path" in refused(capsys, *text_words(verb, "none.txt")) or verb == "learn"
        with Path("huge.txt").open("wb") as file:
            file.truncate(corpus.LARGEST_TEXT + 1)
        assert "too large" in refused(capsys, *text_words(verb, "huge.txt"))
        os.mkfifo("pipe")
        assert "something that is no file" in refused(capsys, *text_words(verb, "pipe"))
        refused(capsys, *text_words(verb, "x" * 300))
        assert "unknown option '-x.txt'" in refused(capsys, *text_words(verb, "-x.txt"))

    def test_a_folder_names_what_it_skips_and_any_name_is_shown_in_one_line(self, capsys, verb, monkeypatch):
        names = ["sub/x y.txt", "new\nline.txt", "[red]x.txt", "y[/].txt", "ü.txt", "\udcff.txt", "-n.txt"]
        for number, name in enumerate([*names, ".hidden", "empty.txt"]):
            (Path("d") / name).parent.mkdir(parents=True, exist_ok=True)
            (Path("d") / name).write_text(TEXT + str(number) if name != "empty.txt" else "")
        Path("d/dangling").symlink_to("nowhere")
        Path("d/linked").symlink_to("sub")
        Path("d/locked").mkdir()
        os.mkfifo("d/pipe")
        scandir = os.scandir

        def guarded(path):
            if str(path) == "d/locked":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
        out = taken(capsys, *text_words(verb, "d"), "--json", "r.json")
        for skipped in (
            "d/.hidden is hidden",
            "d/empty.txt is empty",
            "d/dangling is not there",
            "d/linked is a link to a folder",
            "d/locked cannot be read: got Permission denied",
            "d/pipe is not there",
        ):
            assert f"skipped: {skipped}" in out
        read = {row["name"] for row in json.loads(Path("r.json").read_text())["documents"]}
        assert {"d/new\\nline.txt", "d/\\udcff.txt", "d/y[/].txt", "d/ü.txt"} < read
        assert len(read) == len(names)

    @pytest.mark.parametrize("user", ["", "a\nb", "x" * 200, "\udcff", "\x1b[31m"])
    def test_names_that_are_none_are_refused_before_anything_is_made(self, capsys, verb, user):
        assert "1 to 128 printable characters" in refused(capsys, *text_words(verb, "t.txt"), f"--user={user}")

    def test_any_other_name_is_taken_and_the_next_command_can_be_pasted(self, capsys, verb):
        Path("-x y.txt").write_text(TEXT)
        out = taken(capsys, verb, "./-x y.txt", "--state", "S", "--base", "base", "--user=../../a b")
        assert out.splitlines()[-1] == "next: everlearn eval './-x y.txt' --state S --user '../../a b'"

    def test_a_text_too_short_for_a_step_is_read_and_said_to_be(self, capsys, verb):
        Path("x.txt").write_text("abcdef")
        said = "nothing was learned yet: 6 tokens, a step needs 17; its gradient waits for more text"
        assert said in taken(capsys, *text_words(verb, "x.txt"))

    def test_bases_that_are_none_are_refused_before_anything_is_made(self, capsys, verb, made):
        for base, match in {
            "none": "holds no model",
            "t.txt": "holds no model",
            "half": "holds no whole model",
        }.items():
            Path("half").mkdir(exist_ok=True)
            shutil.copy(made / "base" / "config.json", "half")
            assert match in refused(capsys, verb, "t.txt", "--state", "S", "--base", base)

    def test_another_base_than_the_state_s_own(self, capsys, verb, made):
        copy(made, "text")
        assert "begun with another model" in refused(capsys, verb, "t.txt", "--state", "S", "--base", "other")

    def test_states_that_cannot_be(self, capsys, verb, made):
        assert "--state t.txt is a file" in refused(capsys, verb, "t.txt", "--state", "t.txt", "--base", "base")
        assert "is a file" in refused(capsys, verb, "t.txt", "--state", "t.txt/x", "--base", "base")
        Path("S").mkdir()
        Path("S/mine").write_text("x")
        assert "not empty and was not made by everlearn" in refused(capsys, *text_words(verb, "t.txt"))
        shutil.rmtree("S")
        Path("S").symlink_to("S")
        refused(capsys, *text_words(verb, "t.txt"))
        Path("S").unlink()
        copy(made, "labels")
        assert "holds a memory of labels" in refused(capsys, *text_words(verb, "t.txt"))

    def test_json_targets_that_cannot_be(self, capsys, verb):
        assert "does not exist" in refused(capsys, *text_words(verb, "t.txt"), "--json", "none/r.json")
        assert "is a folder" in refused(capsys, *text_words(verb, "t.txt"), "--json", ".")
        assert "is a folder" in refused(capsys, *text_words(verb, "t.txt"), "--json", "")

    @pytest.mark.parametrize("seed", ["-1", str(2**32), str(10**30)])
    def test_seeds_out_of_range(self, capsys, verb, seed):
        assert "from 0 to 4294967295" in refused(capsys, *text_words(verb, "t.txt"), f"--seed={seed}")

    @pytest.mark.parametrize("call", ["fsync"])
    def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(self, capsys, verb, monkeypatch, call):
        Path("t.txt").write_text(TEXT[:40])
        taken(capsys, verb, "t.txt", "--state", "whole", "--base", "base")
        (expected,) = Path("whole/users").glob("*.safetensors")
        for n in range(1, 60):
            shutil.rmtree("S", ignore_errors=True)
            with monkeypatch.context() as patch:
                full_at(call, n, patch)
                code = main(text_words(verb, "t.txt"))
            err = capsys.readouterr().err
            if code == 0:
                break
            assert code == 1
            assert "everlearn: No space left on device" in err
            assert "Traceback" not in err
            # when the last rename was done and only its flush failed, all was read, and `read` would read it again
            if verb == "read" and any(file.read_bytes() == expected.read_bytes() for file in Path("S").glob("users/*")):
                continue
            taken(capsys, *text_words(verb, "t.txt"))
            (file,) = Path("S/users").iterdir()
            assert file.read_bytes() == expected.read_bytes()
        assert n > 3


def damage(name: str, data: bytes | None = None):
    """Return what writes over, or edits, a file of a state."""

    def act(state: Path) -> None:
        (path,) = state.glob(name)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if data is None else data)

    return act


def broken_level(state: Path) -> None:
    path = state / "base" / "config.json"
    content = json.loads(path.read_text())
    content["levels"][0]["eta"] = "x"
    path.write_text(json.dumps(content))


DAMAGE = {
    "user file truncated": (damage("users/*"), "truncated"),
    "user file empty": (damage("users/*", b""), "truncated"),
    "model truncated": (damage("base/model.safetensors"), "truncated"),
    "model gone": (lambda state: (state / "base" / "model.safetensors").unlink(), "holds no whole model"),
    "config cut": (damage("base/config.json"), "not a model's config"),
    "config edited": (broken_level, "not a model's config"),
    "marker empty": (damage("everlearn.json", b""), "not whole"),
    "marker a list": (damage("everlearn.json", b"[]"), "not whole"),
    "marker not text": (damage("everlearn.json", b"\xff"), "not whole"),
    "marker endless": (damage("everlearn.json", b'{"format": Infinity, "kind": "text"}'), "not whole"),
    "marker newer": (damage("everlearn.json", b'{"format": 2, "kind": "text"}'), "update everlearn"),
    "marker unknown": (damage("everlearn.json", b'{"format": 1, "kind": "x"}'), "neither 'text' nor 'labels'"),
}


@pytest.mark.parametrize("verb", ["read", "learn", "eval"])
@pytest.mark.parametrize(("act", "match"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused_and_left_as_it_is(capsys, made, verb, act, match):
    act(copy(made, "text"))
    assert match in refused(capsys, verb, "t.txt", "--state", "S")


def test_eval_needs_a_memory_of_that_user_and_of_that_kind(capsys, made):
    assert "holds no state" in refused(capsys, "eval", "t.txt", "--state", "S")
    copy(made, "text")
    assert "no memory of user 'zed'; it knows me" in refused(capsys, "eval", "t.txt", "--state", "S", "--user", "zed")
    Path("r.jsonl").write_text(LINE)
    assert "holds a memory of text" in refused(capsys, "eval", "r.jsonl", "--state", "S")
    assert "has no labels" in refused(capsys, "predict", "t.txt", "--state", "S")
    assert "is about labels" in refused(capsys, "learn", "r.jsonl", "--state", "S")


def test_a_pipe_is_written_into_and_a_link_is_followed(capsys, tmp_path):
    """Replacing them by a file would break the pipe, and as root `--json /dev/null` would remove the device."""
    os.mkfifo("pipe")
    end = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    taken(capsys, "doctor", "--json", "pipe")
    assert json.loads(os.read(end, 100_000))["versions"]
    os.close(end)
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)
    Path("link").symlink_to("there.json")
    taken(capsys, "doctor", "--json", "link")
    assert Path("link").is_symlink()
    assert json.loads(Path("there.json").read_text())["versions"]


def test_a_folder_that_must_not_be_written_is_seen_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written there" in refused(capsys, *text_words("read", "t.txt"), "--json", "r.json")


def marked(data: bytes):
    """Return what makes a folder with a demo's marker."""

    def act(out: Path) -> None:
        out.mkdir()
        (out / "everlearn-demo.json").write_bytes(data)

    return act


DEMO = {
    "a file": (lambda out: out.write_text("x"), "is a file"),
    "not empty": (lambda out: (out.mkdir(), (out / "mine").write_text("x")), "holds no demo"),
    **{f"marker {d!r}": (marked(d), "is not whole") for d in (b"", b"[]", b"{}", b'{"sett', b"\xff\xff")},
    "other settings": (marked(b'{"settings": {"seed": 5}, "seconds": 0}'), "other settings"),
}


@pytest.mark.parametrize(("act", "match"), DEMO.values(), ids=DEMO)
def test_a_demo_where_something_else_is(capsys, monkeypatch, act, match):
    monkeypatch.setattr("everlearn.cli.demo._texts", lambda *_: None)
    act(Path("out"))
    assert match in refused(capsys, "demo", "--out", "out")


def test_a_fresh_demo_removes_what_a_demo_made_and_nothing_else(monkeypatch):
    from everlearn.cli import demo

    Path("out/base").mkdir(parents=True)
    for name in ("everlearn-demo.json", "base/config.json", "reading.json", "index.html", "my_notes.txt"):
        Path("out", name).write_text("{}")
    demo._prepare(demo.Options(out=Path("out"), fresh=True))
    assert sorted(str(path) for path in Path("out").rglob("*")) == ["out/everlearn-demo.json", "out/my_notes.txt"]


def test_the_demo_s_own_text_and_seed(capsys):
    assert "check the path" in refused(capsys, "demo", "--out", "out", "--text", "none")
    assert "too short" in refused(capsys, "demo", "--out", "out", "--text", "t.txt")
    Path("long.txt").write_text(TEXT * 20)
    assert "need one each" in refused(capsys, "demo", "--out", "out", "--text", "long.txt")
    assert "--seed -1 is out of range" in refused(capsys, "demo", "--out", "out", "--seed=-1")


def test_the_same_command_is_written_out():
    from everlearn.cli import demo, read

    options = read.Options([Path("a b"), Path("-c")], user="-", quick=True)
    assert errors.same_command("read", options) == "everlearn read 'a b' ./-c --user=- --quick"
    options = demo.Options(text=(Path("x"), Path("y")), seed=3)
    assert errors.same_command("demo", options) == "everlearn demo --text x y --seed 3"
