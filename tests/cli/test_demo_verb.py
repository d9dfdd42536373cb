"""The frame of `everlearn demo`: what it keeps between runs, what it refuses, and how its parts come together."""

import contextlib
import json
import math
import os
import sys

import pytest

from everlearn.cli import demo
from everlearn.cli.demo import (
    MARKER,
    Options,
    _beside,
    _check,
    _digits_file,
    _once,
    _prepare,
    _scratch,
    _texts,
    _total_seconds,
)
from everlearn.cli.errors import UserError
from everlearn.cli.output import Output
from everlearn.demo import corpus
from everlearn.demo.corpus import Document
from everlearn.demo.reading import Texts


def ready(options):
    """What `run` does before the scenes; the lock makes the folder."""
    _check(options)
    options.out.mkdir(parents=True, exist_ok=True)
    _prepare(options)


def test_a_finished_scene_is_not_run_again(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"bits": math.nan, "n": 1}, {"picture": (1, 2)}

    for _ in range(2):
        assert _once(tmp_path / "scene.json", make) == ({"bits": None, "n": 1}, {"picture": [1, 2]})
    assert calls == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / "scene.json"]


def test_the_digits_leave_their_picture_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("everlearn.demo.digits.run", lambda seeds: {"final": seeds / 10, "picture": [[1]]})
    _digits_file(tmp_path / "digits.json", 3)
    assert json.loads((tmp_path / "digits.json").read_text()) == [{"final": 0.3, "seeds": 3}, {"digit": [[1]]}]


def test_work_beside_runs_and_its_failure_is_not_silent(tmp_path):
    with _beside(os.mkdir, tmp_path / "made") as finish:
        finish()
    assert (tmp_path / "made").is_dir()
    with pytest.raises(RuntimeError, match="failed with exit code 3"), _beside(sys.exit, 3) as finish:
        finish()


def test_scratch_is_empty_and_leaves_nothing(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "old").touch()
    with _scratch(tmp_path / "s") as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").touch()
    assert not (tmp_path / "s").exists()


def test_a_folder_goes_on_with_its_own_settings_only(tmp_path):
    out = tmp_path / "deep" / "demo"
    ready(Options(out=out, seed=1))
    (out / "digits.json").write_text("[{}, {}]")
    ready(Options(out=out, seed=1))
    assert (out / "digits.json").exists()
    for other in (
        Options(out=out, seed=2),
        Options(out=out, seed=1, quick=True),
        Options(out=out, seed=1, text=(out,)),
    ):
        with pytest.raises(UserError, match="holds a demo with other settings; add --fresh"):
            ready(other)
    assert (out / "digits.json").exists()
    ready(Options(out=out, seed=2, fresh=True))
    assert [path.name for path in out.iterdir()] == [MARKER]
    assert json.loads((out / MARKER).read_text())["settings"] == {"seed": 2, "quick": False, "text": []}


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_no_demo_is_never_removed(tmp_path, fresh):
    (tmp_path / "diary").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no demo; choose another folder"):
        ready(Options(out=tmp_path, fresh=fresh))
    with pytest.raises(UserError, match="is a file; give a folder"):
        ready(Options(out=tmp_path / "diary", fresh=fresh))
    assert (tmp_path / "diary").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    ready(Options(out=tmp_path / "empty", fresh=fresh))
    assert (tmp_path / "empty" / MARKER).exists()


def test_seconds_add_up_over_interrupts_and_stand_still_when_finished(tmp_path):
    options = Options(out=tmp_path / "demo")
    ready(options)
    marker = options.out / MARKER
    content = json.loads(marker.read_text())
    assert content["seconds"] == 0.0
    marker.write_text(json.dumps(content | {"seconds": 40.0}))
    assert _total_seconds(options, 2.5) == 42.5
    assert _total_seconds(options, 7.0) == 42.5
    assert json.loads(marker.read_text())["settings"] == content["settings"]


def test_ada_and_bob_read_what_the_user_gives_or_other_packages(tmp_path, monkeypatch, capsys):
    known, heldout = [Document("k", b"known")], [Document("h", b"held out")]
    monkeypatch.setattr(corpus, "standard_library", lambda *sizes: (known, heldout))
    monkeypatch.setattr(corpus, "unseen_files", lambda documents, count: [(documents, count)])
    for options, count in ((Options(), 8), (Options(quick=True), 2)):
        texts = _texts(options, Output())
        assert (texts.known, texts.heldout, texts.files) == (known, heldout, [(known, count)])
    for i in range(9):
        (tmp_path / f"{i}.txt").write_bytes(b"%d" % i * 1_025)
    (tmp_path / "short").write_text("x")
    texts = _texts(Options(text=(tmp_path,)), Output())
    assert [document.data[:1] for document in texts.files] == [b"%d" % i for i in range(8)]
    said = capsys.readouterr().out
    assert f"skipped: {tmp_path / 'short'} is too short" in said
    assert "--text gives 9 files; the first 8 are read" in said
    assert len(_texts(Options(text=(tmp_path / "0.txt", tmp_path / "1.txt")), Output()).files) == 2
    with pytest.raises(UserError, match="--text gives 1 readable file; Ada and Bob need one each"):
        _texts(Options(text=(tmp_path / "0.txt",)), Output())


def test_the_scenes_are_put_together_under_their_names(tmp_path, monkeypatch, capsys):
    """Every scene is replaced by a word; what is measured is that each finds its place, its file and its settings."""
    seen = {}

    def trained(folder, *, seed, quick, on_step):
        on_step(1, 2.5)
        seen["base"] = (folder, seed, quick)
        return "model", {"steps": 600}

    def read(model, texts, step):
        step("frozen")
        seen["reading"] = (model, texts)
        return {"kept": {"before": 3.5}}, {"bytes": "shaded"}

    def restart(base, text, folder, step):
        seen["restart"] = (base, text, folder.name)
        return {"restart": {"identical": True}, "rollback": {"identical": True}}

    monkeypatch.setattr("everlearn.demo.base.load_or_train", trained)
    monkeypatch.setattr("everlearn.demo.reading.run", read)
    monkeypatch.setattr("everlearn.demo.restart.run", restart)

    @contextlib.contextmanager
    def beside(work, file, seeds):
        seen["digits"] = (file, seeds)
        yield lambda: _once(file, lambda: ({"final": 0.9}, {"digit": "Monday"}))

    monkeypatch.setattr(demo, "_beside", beside)
    texts = Texts([], [], [Document("a", b"x" * 9_000)])
    options = Options(out=tmp_path / "demo", seed=5, quick=True)
    ready(options)
    results, pictures = demo._scenes(options, texts, Output())
    assert results["digits"] == {"final": 0.9}
    assert results["reading"] == {
        "kept": {"before": 3.5},
        "base": {"steps": 600, "heldout_bits": 3.5},
        "own_text": False,
    }
    assert results["restart"] == results["rollback"] == {"identical": True}
    assert results["seconds"] > 0 and results["environment"]["device"] == "cpu"
    assert pictures == {"digit": "Monday", "bytes": "shaded"}
    assert seen == {
        "digits": (tmp_path / "demo" / "digits.json", 2),
        "base": (tmp_path / "demo" / "base", 5, True),
        "reading": ("model", texts),
        "restart": (tmp_path / "demo" / "base", b"x" * 8_193, "restart"),
    }
    assert sorted(path.name for path in options.out.iterdir()) == [
        "digits.json",
        MARKER,
        "reading.json",
        "restart.json",
    ]
