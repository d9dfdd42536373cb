"""Looking after memories: what each user's file says, how far two are apart, carried away, taken in, forgotten."""

import shutil

import pytest
import torch
from verbs_fixture import ONE, TWO, Shell, tiny_base

import everlearn
from everlearn.cli.main import main
from everlearn.learn.changes import changes
from everlearn.memory.codec import digest, to_tensors
from everlearn.store.folder import file_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Let two users read a text each."""
    folder = tmp_path_factory.mktemp("two")
    base = tiny_base(folder / "b")
    for user, name, data in (("ada", "one.txt", ONE), ("bob", "two.txt", TWO)):
        (folder / name).write_bytes(data)
        words = ["read", folder / name, "--state", folder / "s", "--user", user, "--base", base]
        assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def shell(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Shell(tmp_path, capsys)


def memory(shell, action, *words, code=0):
    return shell("memory", action, *words, "--state", shell.folder / "s", code=code)


def test_list_names_every_user_without_loading_the_model(shell):
    shutil.rmtree(shell.folder / "s" / "base")
    rows = shell.json("memory", "list", "--state", shell.folder / "s")["users"]
    assert [row["user"] for row in rows] == ["ada", "bob"]
    assert [row["tokens_seen"] for row in rows] == [len(ONE) - 1, len(TWO) - 1]
    assert [row["documents"][0]["bytes"] for row in rows] == [len(ONE), len(TWO)]
    assert "2 memories in" in memory(shell, "list")


def test_show_tells_what_was_read(shell):
    said = memory(shell, "show", "--user", "ada")
    assert f"one.txt: {len(ONE)} bytes" in said
    assert said.splitlines()[-1].startswith("next: everlearn memory diff")
    row = shell.json("memory", "show", "--state", shell.folder / "s", "--user", "ada")
    assert row["bytes"] == file_of(shell.folder / "s" / "users", "ada").stat().st_size
    assert row["open"] is False


def test_diff_is_the_norm_of_the_difference_of_every_matrix(shell):
    """By hand from the two states; against nobody it is the distance to a fresh start, and to itself it is zero."""
    learner = everlearn.load(shell.folder / "s")
    ada, bob, fresh = learner.state("ada"), learner.state("bob"), learner.model.initial_state(1)
    found = shell.json("memory", "diff", "--state", shell.folder / "s", "--user", "ada", "--other", "bob")
    name = "blocks.0.mlp"
    expected = float((ada.memory[name]["slow.up"] - bob.memory[name]["slow.up"]).norm())
    assert found["matrices"][f"{name}/slow.up"] == pytest.approx(expected, rel=1e-6)
    parts = [f"{level}.{part}" for level in ("fast", "slow") for part in ("gate", "up", "down")]
    assert set(found["matrices"]) == {f"{name}/{part}" for part in parts}
    alone = shell.json("memory", "diff", "--state", shell.folder / "s", "--user", "ada")["matrices"]
    distance = float((ada.memory[name]["slow.up"] - fresh.memory[name]["slow.up"]).detach().norm())
    assert alone[f"{name}/slow.up"] == pytest.approx(distance, rel=1e-6)
    assert list(changes(learner.model, ada, ada).values()) == [[0.0]] * len(parts)
    assert "fast: 0.0000 in all" in memory(shell, "diff", "--user", "ada")  # it restarted at the document's end


def test_a_memory_is_carried_away_and_taken_in_under_another_name(shell):
    file = shell.folder / "ada.safetensors"
    memory(shell, "export", file, "--user", "ada")
    assert "was ada's" in memory(shell, "import", file, "--user", "eve")
    learner = everlearn.load(shell.folder / "s")
    assert digest(to_tensors(learner.state("eve"))) == digest(to_tensors(learner.state("ada")))
    assert learner.notes("eve") == learner.notes("ada")
    assert "eve' has a memory already" in memory(shell, "import", file, "--user", "eve", code=2)
    memory(shell, "import", file, "--user", "bob", "--replace")
    learner = everlearn.load(shell.folder / "s")
    assert torch.equal(learner.state("bob").tokens_seen, learner.state("ada").tokens_seen)
    assert "exists; choose another name" in memory(shell, "export", file, "--user", "bob", code=2)
    memory(shell, "export", file, "--user", "bob", "--replace")


def test_a_memory_of_another_model_is_not_taken_in(shell):
    file = shell.folder / "ada.safetensors"
    memory(shell, "export", file, "--user", "ada")
    other = tiny_base(shell.folder / "other", seed=1)
    shell("read", shell.folder / "one.txt", "--state", shell.folder / "t", "--base", other)
    line = shell("memory", "import", file, "--state", shell.folder / "t", "--user", "ada", code=2)
    assert "is the memory of another model" in line
    assert not file_of(shell.folder / "t" / "users", "ada").exists()


def test_forget_removes_the_file_and_nobody_elses_and_needs_no_model(shell):
    users = shell.folder / "s" / "users"
    bob = file_of(users, "bob").read_bytes()
    shutil.rmtree(shell.folder / "s" / "base")
    said = memory(shell, "forget", "--user", "ada")
    assert "forgot ada" in said and "exported copies" in said
    assert [path.read_bytes() for path in users.glob("*.safetensors")] == [bob]
    assert "no memory of user 'ada'; see: everlearn memory list" in memory(shell, "forget", "--user", "ada", code=2)


def test_a_learner_forgets_here_and_in_its_store(shell):
    learner = everlearn.load(shell.folder / "s")
    assert learner.knows("ada") and learner.forget("ada")
    assert not learner.knows("ada") and learner.notes("ada") == {}
    assert learner.known_users() == ["bob"]
    assert not learner.forget("ada")


REFUSED = {
    "whose": (("show",), "needs to know whose memory; give --user NAME"),
    "no file": (("export", "--user", "ada"), "memory export needs a file"),
    "a file too many": (("list", "x"), "memory list takes no file"),
    "nobody": (("diff", "--user", "eve"), "no memory of user 'eve'"),
    "nobody else": (("diff", "--user", "ada", "--other", "eve"), "no memory of user 'eve' to compare with"),
    "no such action": (("burn",), "everlearn memory --help"),
}


@pytest.mark.parametrize("words, message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(shell, words, message):
    line = memory(shell, *words, code=2)
    assert message in line and line.count("\n") == 1


def test_labels_are_no_memories_of_text(shell):
    (shell.folder / "r.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    shell("learn", shell.folder / "r.jsonl", "--state", shell.folder / "c")
    assert "holds a classifier" in shell("memory", "diff", "--user", "me", "--state", shell.folder / "c", code=2)
    assert "holds a classifier" in shell("score", shell.folder / "one.txt", "--state", shell.folder / "c", code=2)
