"""The verbs on a state folder with an archive and slots: read, interrupted, shown, asked, carried, and forgotten."""

import json
import shutil

import pytest
from verbs_fixture import Shell, stop_after

import everlearn
from everlearn.cli.kept import document_name, find_document
from everlearn.learn import Archive, Learner
from everlearn.memory import SlotMemory
from everlearn.memory.codec import digest, to_tensors
from tests.cli.test_converted import files, talk
from tests.pretrained import WORDS, pretrained

CHUNK = 16
TEXTS = {
    "ada.txt": WORDS,
    "bob.txt": b"a dog of another house; it barks at every ship, every sea and the moon. " * 3,
}
SECRET = b"the key of the shed hangs behind the clock"


@pytest.fixture(scope="module")
def made(tmp_path_factory, request):
    """A converted model with both, and one user who has read both texts."""
    folder = tmp_path_factory.mktemp("kept")
    pretrained(folder / "base")
    for name, data in TEXTS.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def shell(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in TEXTS:
        shutil.copy(made / name, tmp_path)
    shell = Shell(tmp_path, capsys)
    if not (made / "out").exists():
        shell("convert", made / "base", made / "out", "--chunk-size", CHUNK, "--archive", "--slots")
        shell("read", "ada.txt", "bob.txt", "--state", made / "out")
    shutil.copytree(made / "out", tmp_path / "out")
    return shell


def test_convert_says_and_keeps_what_was_asked_for(shell, made):
    document = shell.json("convert", made / "base", "new", "--archive", "--slots")
    assert document["archive"]["rank"] == 8 and document["slots"]["capacity"] == 4096
    marker = json.loads((shell.folder / "new" / "everlearn.json").read_text())
    assert marker["archive"] == document["archive"] and marker["slots"] == document["slots"]
    learner = everlearn.load("new")
    assert learner.slots == SlotMemory() and learner.archive is not None
    said = shell("convert", made / "base", "more", "--slots")
    assert "slots: the 4,096 most surprising tokens of each user's text are kept as they stand, up to 180 KB" in said
    assert "archive" not in said and everlearn.load("more").archive is None
    # 4,096 keys of 16 numbers in float16, and 13 bytes for the token, its cost, its document and a truth value
    assert round(4096 * (16 * 2 + 13) / 1024) == 180


def test_reading_is_what_a_learner_with_both_does(shell):
    learner = everlearn.load("out")
    plain = Learner(learner.model, archive=Archive, slots=SlotMemory())
    for name, data in TEXTS.items():
        plain.read(data, "me", name=name)
    assert digest(to_tensors(learner.state("me"))) == digest(to_tensors(plain.state("me")))
    assert learner.documents("me") == plain.documents("me")
    assert [document.name for document in plain.documents("me")] == ["ada.txt", "bob.txt"]


@pytest.mark.parametrize("pieces", [2, 9])
def test_interrupted_and_resumed_is_never_having_stopped(shell, made, monkeypatch, pieces):
    """In the middle of a document, and in the one after: files and archive are the same bit for bit."""
    shutil.copytree(made / "out", "again")
    words = ("read", "ada.txt", "bob.txt", "--state", "again", "--user", "eve")
    with monkeypatch.context() as patch:
        stop_after(patch, pieces)
        assert "to go on: everlearn read ada.txt bob.txt --state again --user eve" in shell(*words, code=130)
    shell(*words)
    learner, whole = everlearn.load("again"), everlearn.load("out")
    assert learner.documents("eve") == whole.documents("me")
    assert digest(to_tensors(learner.state("eve"))) == digest(to_tensors(whole.state("me")))


def test_show_names_documents_and_slots_and_says_that_they_are_the_text(shell):
    row = shell.json("memory", "show", "--state", "out", "--user", "me")
    kept = everlearn.load("out").documents("me")
    assert [each["name"] for each in row["archived"]] == ["ada.txt", "bob.txt"]
    assert [each["slots"] for each in row["slots"]] == [document.slots for document in kept]
    folder = next((shell.folder / "out" / "users").glob("*.documents"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(each["bytes"] for each in row["archived"]) == size == row["bytes"] - _file(shell).stat().st_size
    said = shell("memory", "show", "--state", "out", "--user", "me")
    assert "archived: ada.txt, " in said and f"{kept[0].slots:,} of ada.txt" in said
    assert "slots contain the text itself; whoever has this file can read it" in said
    assert shell.json("memory", "list", "--state", "out")["users"][0]["bytes"] == row["bytes"]


def _file(shell):
    return next((shell.folder / "out" / "users").glob("*.safetensors"))


def test_score_generate_and_chat_read_with_what_fits_and_change_nothing(shell, monkeypatch):
    before, learner = files(shell.folder / "out"), everlearn.load("out")
    row = shell.json("score", "ada.txt", "--state", "out", "--user", "me")["documents"][0]
    score = learner.score(WORDS, "me")
    assert row["read_with"] == score.readers and next(iter(row["read_with"])) == "ada.txt"
    assert row["bits_per_byte"] == pytest.approx(score.bits_per_byte, abs=1e-6)
    assert row["bits_per_byte"] < learner.score(WORDS).bits_per_byte - 1
    assert "chunks after the first were read with ada.txt (" in shell(
        "score", "ada.txt", "--state", "out", "--user", "me"
    )
    document = shell.json("generate", "the cat sat on", "--state", "out", "--user", "me", "--tokens", "5")
    route = learner.route("the cat sat on", "me")
    assert (document["route"]["choice"], document["route"]["losses"]) == (route.choice, pytest.approx(route.losses))
    assert document["text"] == learner.generate("the cat sat on", "me", max_new_tokens=5)
    assert shell.json("generate", "the cat", "--state", "out")["route"] is None
    turn = talk(shell, monkeypatch, lines=["the cat sat on the mat"])["turns"][0]
    assert turn["read_with"] in ("base", "ada.txt", "bob.txt")
    assert files(shell.folder / "out") == before


def test_a_conversation_is_kept_as_a_document_of_its_own(shell, monkeypatch):
    lines = ["the cat sat on the mat and the dog sat by the cat", "and the dog sat by the cat while a ship sailed"]
    talk(shell, monkeypatch, "--learn", lines=lines)
    learner = everlearn.load("out")
    (chat,) = (document for document in learner.documents("me") if document.name.startswith("chat at "))
    assert chat.versions == 1 and chat.slots > 0
    assert "live" not in learner.route("the cat sat on the mat", "me").losses


def test_diff_shows_what_each_document_taught(shell):
    found = shell.json("memory", "diff", "--state", "out", "--user", "me")
    assert set(found["levels"].values()) == {0.0}  # the live state is the model as trained
    archive = everlearn.load("out").user_archive("me")
    name = next(name for name in found["matrices"] if "/fast." in name).partition("/")[2]
    total = sum(
        float(tensor.double().norm()) ** 2
        for leaf, tensor in archive.state("ada.txt").memory["stack"].items()
        if leaf.startswith("fast.") and not leaf.endswith((".grad", ".tokens"))
    )
    assert found["archived"]["ada.txt"]["fast"] == pytest.approx(total**0.5, rel=1e-6)
    one = shell.json("memory", "diff", "--state", "out", "--user", "me", "--document", "ada.txt")
    expected = float(archive.state("ada.txt").memory["stack"][name].double().norm())
    assert one["matrices"][f"stack/{name}"] == pytest.approx(expected, rel=1e-6)
    assert "nothing is kept of a document 'x'" in shell(
        "memory", "diff", "--state", "out", "--user", "me", "--document", "x", code=2
    )


def test_forgetting_a_document_removes_it_everywhere_and_no_other(shell):
    before = everlearn.load("out").documents("me")
    said = shell("memory", "forget", "--state", "out", "--user", "me", "--document", "ada.txt")
    assert "forgot ada.txt of me; exported copies" in said
    learner = everlearn.load("out")
    assert learner.documents("me") == before[1:]
    assert [row["name"] for row in learner.notes("me")["documents"].values()] == ["bob.txt"]
    data = [path.read_bytes() for path in (shell.folder / "out" / "users").rglob("*") if path.is_file()]
    assert not any(b"ada.txt" in each for each in data) and any(b"bob.txt" in each for each in data)
    line = shell("memory", "forget", "--state", "out", "--user", "me", "--document", "ada.txt", code=2)
    assert "nothing is kept of a document 'ada.txt' of me; there are bob.txt" in line and line.count("\n") == 1


def test_an_interrupted_document_can_be_forgotten(shell, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", "bob.txt", "--state", "out", "--user", "eve", code=130)
    assert shell.json("memory", "show", "--state", "out", "--user", "eve")["open_document"] == "bob.txt"
    shell("memory", "forget", "--state", "out", "--user", "eve", "--document", "bob.txt")
    row = shell.json("memory", "show", "--state", "out", "--user", "eve")
    assert (row["open"], row["open_document"], row["slots"], row["archived"]) == (False, None, [], [])


def test_a_memory_is_carried_whole_and_only_where_an_archive_is_kept(shell, made):
    shell("memory", "export", "me.safetensors", "--state", "out", "--user", "me")
    said = shell("memory", "import", "me.safetensors", "--state", "out", "--user", "eve")
    assert "as the memory of eve (it was me's), 2 archived documents" in said
    learner = everlearn.load("out")
    assert learner.documents("eve") == learner.documents("me")
    shell("memory", "forget", "--state", "out", "--user", "me")
    assert everlearn.load("out").known_users() == ["eve"]
    shell("convert", made / "base", "slots", "--chunk-size", CHUNK, "--slots")
    line = shell("memory", "import", "me.safetensors", "--state", "slots", "--user", "me", code=2)
    assert "holds 2 archived documents, and slots keeps no archive" in line
    shell("convert", made / "base", "plain", "--chunk-size", CHUNK)
    line = shell("memory", "import", "me.safetensors", "--state", "plain", "--user", "me", code=2)
    assert "holds slots, which this learner does not read" in line
    words = ("memory", "forget", "--state", "plain", "--user", "me", "--document", "x")
    shell("read", "ada.txt", "--state", "plain")
    assert "keeps one memory for all documents, from which one cannot be subtracted" in shell(*words, code=2)


def test_three_lines_of_notes_say_what_they_taught(shell, made):
    (shell.folder / "notes.txt").write_bytes(SECRET)
    shell("convert", made / "base", "long", "--chunk-size", "128")
    tokens = len(everlearn.load("long").whole(SECRET.decode()).ids)
    said = shell("read", "notes.txt", "--state", "long")
    assert f"notes.txt: {tokens} tokens, a step needs 129; at its end a share of a step was taken\n" in said
    row = shell.json("memory", "show", "--state", "long", "--user", "me")["documents"][0]
    assert row["steps"] == {"fast": 1, "slow": 1}
    (shell.folder / "tiny.txt").write_bytes(b"a cat")
    said = shell("read", "tiny.txt", "notes.txt", "--state", "out")
    assert "a step needs 17; at its end a share of a step was taken; its text is in the slots\n" in said
    learner = everlearn.load("out")
    recalled = learner.score(SECRET, "me").bits.nansum() / learner.score(SECRET).bits.nansum()
    assert recalled < 0.5


def test_a_guard_is_refused_where_an_archive_is_kept(shell):
    line = shell("read", "ada.txt", "--state", "out", "--guard", "bob.txt", code=2)
    assert "has an archive, where no document spoils another; leave out --guard" in line and line.count("\n") == 1
    line = shell("memory", "list", "--state", "out", "--document", "x", code=2)
    assert "memory list is about all of a user; leave out --document" in line


def test_documents_are_found_by_the_name_of_their_file_where_only_one_has_it():
    names = ["a/one.txt", "b/one.txt", "b/two.txt", "three.txt"]
    assert find_document(names, "b/one.txt", "ada") == "b/one.txt"
    assert find_document(names, "/elsewhere/two.txt", "ada") == "b/two.txt"
    with pytest.raises(ValueError, match=r"it could be a/one.txt, b/one.txt; see: everlearn memory show"):
        find_document(names, "one.txt", "ada")
    with pytest.raises(ValueError, match=r"of ada; there are none; see"):
        find_document([], "one.txt", "ada")


def test_a_path_of_any_length_is_a_name():
    assert document_name("notes.txt", "k") == "notes.txt"
    assert document_name("live", "k") == "./live"
    long = document_name("x/" * 200 + "end.txt", "0123456789abcdef")
    assert len(long) <= 128 and long.endswith("end.txt 01234567")
    assert document_name("x/" * 200 + "end.txt", "fedcba9876543210") != long
