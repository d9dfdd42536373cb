"""The verbs on a Hugging Face model: converted, read for users apart, scored, talked with, moved, and refused."""

import io
import json
import shutil
import ssl
import urllib.error

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from verbs_fixture import Shell, stop_after

import everlearn
from everlearn.convert import StackedModel
from everlearn.learn import Learner, Tokens
from everlearn.memory.codec import digest, to_tensors
from everlearn.models.hub import check_reachable, load_base
from tests.pretrained import WORDS, pretrained

CHUNK = 16
ADA, BOB = WORDS, b"a dog of another house; it barks at every ship, at every sea and at the moon. " * 4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("hf") / "base")


@pytest.fixture
def shell(base, tmp_path, capsys):
    for name, data in (("ada.txt", ADA), ("bob.txt", BOB)):
        (tmp_path / name).write_bytes(data)
    shell = Shell(tmp_path, capsys)
    shell("convert", base, tmp_path / "out", "--chunk-size", CHUNK)
    return shell


def state_of(folder, user) -> str:
    return digest(to_tensors(everlearn.load(folder).state(user)))


def files(folder) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_convert_writes_a_small_folder_and_leaves_the_model_alone(base, tmp_path, capsys):
    before, shell = files(base), Shell(tmp_path, capsys)
    document = shell.json("convert", base, tmp_path / "out", "--weights", "last_down")
    assert files(base) == before
    assert document["logits"] == "bit-equal" and document["class"] == "LlamaForCausalLM"
    assert document["matrices"] == ["model.layers.1.mlp.down_proj"]
    assert document["config"]["levels"][0]["eta"] == 8.1
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert size < (base / "model.safetensors").stat().st_size / 4
    said = shell("convert", base, tmp_path / "two")
    assert "bit for bit those of the original" in said
    assert said.splitlines()[-1] == f"next: everlearn read FILE --state {tmp_path / 'two'}"


def test_the_converted_model_gives_the_logits_of_the_original(base, shell):
    """Against transformers itself, loaded apart, on text that no probe was."""
    model = everlearn.load(shell.folder / "out").model
    ids = model.encode(ADA.decode())[None, :60]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
        got, _ = model(ids, model.initial_state(1))
    assert torch.equal(got, expected)


def test_read_learns_for_one_user_and_says_what_a_learner_says(shell):
    out = shell.folder / "out"
    document = shell.json("read", shell.folder / "ada.txt", "--state", out, "--user", "ada")
    (row,) = document["documents"]
    plain = Learner(everlearn.load(out).model)
    assert row["bytes"] == len(ADA)
    assert row["frozen"] == pytest.approx(plain.score(ADA).bits_per_byte, abs=1e-6)
    assert row["learned"] == pytest.approx(plain.read(ADA, "ada").bits_per_byte, abs=1e-6)
    assert row["learned"] < row["frozen"] - 0.1
    assert state_of(out, "ada") == digest(to_tensors(plain.state("ada")))
    assert not everlearn.load(out).knows("bob")


def test_an_interrupted_reading_goes_on_at_its_token(shell, monkeypatch):
    """Round trip: interrupted after three chunks and resumed is uninterrupted, bit for bit; the words are in bytes."""
    command = ("read", shell.folder / "ada.txt", "--state", shell.folder / "out", "--user", "ada")
    shutil.copytree(shell.folder / "out", shell.folder / "whole")
    whole = shell.json(*command[:3], shell.folder / "whole", *command[4:])
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert "to go on: everlearn read" in shell(*command, code=130)
    learner = everlearn.load(shell.folder / "out")
    tokens = learner.whole(ADA)
    assert learner.position("ada") == 3 * CHUNK + 1
    done = int(learner.model.count_bytes(tokens.ids[: 3 * CHUNK + 1]).sum())
    assert f"resumed at byte {done} of {len(ADA)}" in shell(*command)
    assert state_of(shell.folder / "out", "ada") == state_of(shell.folder / "whole", "ada")
    assert whole["documents"][0]["learned"] == pytest.approx(
        everlearn.load(shell.folder / "out").notes("ada")["documents"].popitem()[1]["learned"], abs=1e-12
    )


def test_a_guard_keeps_general_text_readable_and_says_what_it_did(shell):
    """The same reading without it does harm above the bound; with it, what is kept does not."""
    out, free, probe = shell.folder / "out", shell.folder / "free", b"#7 @@ 93% {x} ~~ 55%; [y] $4\n" * 6
    (shell.folder / "probe.txt").write_bytes(probe)
    shutil.copytree(out, free)
    words = ("read", shell.folder / "ada.txt", "--state")
    shell(*words, free)
    said = shell(*words, out, "--guard", shell.folder / "probe.txt", "--json", shell.folder / "read.json")
    rise = {}
    for folder in (free, out):
        learner = everlearn.load(folder)
        rise[folder] = learner.score(probe, "me").bits_per_byte - learner.score(probe).bits_per_byte
    assert rise[free] > 0.05 >= rise[out]
    (row,) = json.loads((shell.folder / "read.json").read_text())["documents"]
    assert row["guard"]["action"] in said and row["guard"]["after"] == pytest.approx(rise[out], abs=1e-6)
    assert "ada.txt: the memory was " in said and "+0.050 is allowed" in said


def test_score_eval_and_generate_change_nothing(shell):
    out = shell.folder / "out"
    shell("read", shell.folder / "ada.txt", "--state", out, "--user", "ada")
    before, learner = files(out), everlearn.load(out)
    plain = shell.json("score", shell.folder / "bob.txt", "--state", out)
    taught = shell.json("score", shell.folder / "ada.txt", "--state", out, "--user", "ada")
    assert plain["documents"][0]["tokens"] == len(learner.model.encode(BOB))
    assert plain["bits_per_byte"] == pytest.approx(learner.score(BOB).bits_per_byte, abs=1e-6)
    assert taught["bits_per_byte"] == pytest.approx(learner.score(ADA, "ada").bits_per_byte, abs=1e-6)
    both = shell.json("eval", shell.folder / "ada.txt", "--state", out, "--user", "ada")["documents"][0]
    assert both["learned"] == taught["bits_per_byte"] < both["frozen"]
    words = ("generate", "the cat", "--state", out, "--tokens", "6")
    assert shell(*words, "--user", "ada") == learner.generate("the cat", "ada", max_new_tokens=6) + "\n"
    assert shell.json(*words)["text"] == learner.generate("the cat", max_new_tokens=6)
    assert files(out) == before


def test_generate_does_not_go_on_in_a_document_that_is_open(shell, monkeypatch):
    out = shell.folder / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", shell.folder / "ada.txt", "--state", out, code=130)
    learner = everlearn.load(out)
    assert learner.position("me") > 0
    closed = Learner(learner.model)
    closed.restore("me", learner.state("me").new_segment())
    expected = closed.generate("the cat", "me", max_new_tokens=5)
    assert shell("generate", "the cat", "--state", out, "--user", "me", "--tokens", "5") == expected + "\n"


def test_the_step_size_is_found_on_texts_and_used(base, shell):
    tmp = shell.folder
    document = shell.json(
        "convert", base, tmp / "tuned", "--chunk-size", CHUNK, "--eta", "0.01",
        "--calibrate", tmp / "bob.txt", "--length", "80",
    )  # fmt: skip
    found = document["calibration"]
    best = min(found["table"], key=lambda row: row["relative"])
    assert found["scale"] == best["scale"] > 1
    assert document["config"]["levels"][0]["eta"] == pytest.approx(0.01 * found["scale"])
    kept = json.loads((tmp / "tuned" / "base" / "adapter.json").read_text())
    assert kept["config"]["levels"][0]["eta"] == document["config"]["levels"][0]["eta"]


def test_a_base_that_was_moved_is_named_and_one_that_changed_is_refused(base, shell):
    moved, out = shell.folder / "moved", shell.folder / "out"
    away = shell.folder / "away"
    shutil.copytree(base, moved)
    shell("convert", moved, away)
    moved.rename(shell.folder / "there")
    words = ("score", shell.folder / "ada.txt", "--state", away)
    line = shell(*words, code=2)
    assert line.count("\n") == 1 and "does not exist" in line and "--base FOLDER" in line
    again = shell.json(*words, "--base", shell.folder / "there")
    assert again["bits_per_byte"] == shell.json(*words[:3], out)["bits_per_byte"]
    other = pretrained(shell.folder / "other", seed=1)
    assert "another base" in shell(*words, "--base", other, code=2)
    measured = shell("eval", shell.folder / "bob.txt", "--state", away, "--base", shell.folder / "there", code=2)
    assert "holds no memory of user 'me'" in measured
    shell("read", shell.folder / "bob.txt", "--state", away, "--base", shell.folder / "there")
    assert shell.json(*words)["bits_per_byte"] == again["bits_per_byte"]


def test_a_pretrained_folder_is_no_base_of_a_new_state(base, shell):
    line = shell("read", shell.folder / "ada.txt", "--state", shell.folder / "new", "--base", base, code=2)
    assert f"convert it first: everlearn convert {base} {shell.folder / 'new'}" in line
    assert not (shell.folder / "new").exists()


REFUSED = {
    "no model": (("convert", "./nothing", "x"), "nothing does not exist; give a folder that save_pretrained wrote"),
    "no tokenizer": (("convert", "bare", "x"), "no tokenizer is there; save it too, with tokenizer.save_pretrained"),
    "a converted one": (("convert", "out", "x"), "out was made by everlearn already; read with it: --state out"),
    "a chunk size": (("convert", "BASE", "x", "--chunk-size", "0"), "--chunk-size 0 is below 1; 128 and 32"),
    "no state": (("score", "ada.txt", "--state", "x"), "from a model of your own: everlearn convert MODEL x"),
    "nothing to read": (("read", "--state", "out"), "no file was given; name at least one text file or folder"),
    "nothing to score": (("score", "--state", "out"), "no file was given; name at least one text file or folder"),
    "a folder that is full": (("convert", "BASE", "out"), "is there already and not an empty folder"),
    "an unknown user": (("score", "ada.txt", "--state", "out", "--user", "eve"), "no memory of user 'eve'; it knows"),
    "an empty prompt": (("generate", "", "--state", "out"), "the prompt is empty"),
    "a seed": (("generate", "a", "--state", "out", "--seed", "-1"), "--seed -1 is out of range"),
    "no tokens": (("generate", "a", "--state", "out", "--tokens", "0"), "max_new_tokens 0 asks for no text"),
    "a user's name": (("chat", "--state", "out", "--user", ""), "user name '' must have 1 to 128"),
}


@pytest.mark.parametrize("words, message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(base, shell, monkeypatch, words, message):
    monkeypatch.chdir(shell.folder)
    shutil.copytree(base, "bare", ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    line = shell(*(base if word == "BASE" else word for word in words), code=2)
    assert message in line and line.count("\n") == 1
    assert not (shell.folder / "x").exists()


def talk(shell, monkeypatch, *words, lines=("the cat sat <|end|> on the mat", "and the dog?"), code=0):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    file = shell.folder / "talk.json"
    said = shell("chat", "--state", shell.folder / "out", "--tokens", "5", "--json", file, *words, code=code)
    return said if code else json.loads(file.read_text())


def test_chat_answers_with_the_template_and_learns_nothing_unasked(shell, monkeypatch):
    """The first answer is what the model says after the template's text, in which the user's <|end|> is plain text."""
    before = files(shell.folder / "out")
    document = talk(shell, monkeypatch)
    assert files(shell.folder / "out") == before
    learner = everlearn.load(shell.folder / "out")
    model = learner.model
    assert isinstance(model, StackedModel)
    end = model.tokenizer("the cat sat <|end|> on the mat", add_special_tokens=False, split_special_tokens=True)
    one = model.tokenizer.convert_tokens_to_ids
    ids = torch.tensor([one("<|user|>"), *end["input_ids"], one("<|end|>"), one("<|assistant|>")])
    assert ids.tolist().count(one("<|end|>")) == 1
    expected = learner.generate(Tokens(ids, torch.zeros_like(ids).bool()), max_new_tokens=5)
    assert document["turns"][0]["assistant"] == expected
    assert [turn["user"] for turn in document["turns"]] == ["the cat sat <|end|> on the mat", "and the dog?"]


def test_chat_learns_the_users_words_and_not_the_models(shell, monkeypatch):
    """The memory is that of a learner that reads each turn, everything but the user's last words being context."""
    document = talk(shell, monkeypatch, "--learn", "--user", "ada")
    out, plain = shell.folder / "out", None
    plain = Learner(everlearn.load(out).model)
    model = plain.model
    one = model.tokenizer.convert_tokens_to_ids
    ids, skip = [], []
    for turn in document["turns"]:
        skip = [True] * len(ids)
        own = model.tokenizer(turn["user"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        answer = model.tokenizer(turn["assistant"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids += [one("<|user|>"), *own, one("<|end|>"), one("<|assistant|>"), *answer, one("<|end|>")]
        skip += [True, *[False] * len(own), True, True, *[True] * len(answer), True]
        score = plain.read(Tokens(torch.tensor(ids), torch.tensor(skip)), "ada", event="turn")
        assert turn["learned_tokens"] == len(own)
        assert turn["steps"] == score.steps
    assert state_of(out, "ada") == digest(to_tensors(plain.state("ada")))
    assert any(turn["steps"] for turn in document["turns"])


def test_chat_ends_a_document_that_is_open_before_it_learns(shell, monkeypatch):
    """The conversation must not run into the document: the memory is that of a closed document and a fresh turn."""
    out = shell.folder / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", shell.folder / "ada.txt", "--state", out, code=130)
    before = everlearn.load(out)
    plain = Learner(before.model)
    plain.restore("me", before.state("me"))
    plain.close("me")
    turn = talk(shell, monkeypatch, "--learn", lines=["the cat"])["turns"][0]
    one = before.model.tokenizer.convert_tokens_to_ids
    own, answer = (before.model.encode(turn[role]).tolist() for role in ("user", "assistant"))
    ids = torch.tensor([one("<|user|>"), *own, one("<|end|>"), one("<|assistant|>"), *answer, one("<|end|>")])
    skip = torch.ones_like(ids).bool()
    skip[1 : 1 + len(own)] = False
    plain.read(Tokens(ids, skip), "me", event="turn")
    assert state_of(out, "me") == digest(to_tensors(plain.state("me")))
    assert everlearn.load(out).notes("me")["open"] is None


def test_a_text_cannot_imitate_a_special_token(shell):
    """Its bytes add up, and none of its tokens is one that ends or opens anything."""
    model = everlearn.load(shell.folder / "out").model
    ids = model.encode("a <|end|> of <|begin|>")
    assert not {*model.start_ids, *model.stop_ids} & set(ids.tolist())
    assert int(model.count_bytes(ids).sum()) == len("a <|end|> of <|begin|>")
    assert model.decode(ids) == "a <|end|> of <|begin|>"


def test_a_model_that_cannot_talk_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    shell = Shell(tmp_path, capsys)
    shell("convert", pretrained(tmp_path / "plain", template=None), tmp_path / "out")
    line = talk(shell, monkeypatch, code=2)
    assert "has no chat template, so it was not trained to talk; use generate with it" in line
    assert line.count("\n") == 1


def test_a_model_of_the_hub_is_taken_from_the_cache_before_anybody_is_asked(base, monkeypatch):
    """The first call asks for local files only; where that finds the model, there is no second one."""
    calls, load = [], AutoModelForCausalLM.from_pretrained

    def from_pretrained(place, **options):
        assert options.pop("use_safetensors")  # a pickle could run code
        calls.append((place, options))
        if where["cached"] or not options:
            return load(base, **options)
        raise OSError("not in the cache")

    where = {"cached": True}
    monkeypatch.setattr("everlearn.models.hub.check_reachable", calls.append)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    tokenizer = AutoTokenizer.from_pretrained(base)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer)
    for cached, expected in ((True, [{"local_files_only": True}]), (False, [{"local_files_only": True}, {}])):
        where["cached"] = cached
        calls.clear()
        assert load_base("owner/model")[1] is tokenizer
        loads = [("owner/model", options) for options in expected]
        # whether the hub answers is asked before it is waited for, and only then
        assert calls == (loads if cached else [loads[0], "owner/model", loads[1]])


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_answer_is_not_waited_for(offline, monkeypatch):
    """Nothing listens on that port; where the machine says that it is offline, nobody is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    if offline:
        check_reachable("owner/model")
        return
    with pytest.raises(ValueError, match=r"'owner/model' is no folder here and not in the cache, and the hub") as error:
        check_reachable("owner/model")
    assert "127.0.0.1:9 does not answer" in str(error.value) and "\n" not in str(error.value)


def test_an_answer_of_any_kind_is_an_answer(monkeypatch):
    """A hub that refuses this request, or whose certificate only the library knows, is left to the library."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for error in (urllib.error.HTTPError("x", 403, "no", None, None), urllib.error.URLError(ssl.SSLError("unknown"))):
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        check_reachable("owner/model")


def test_the_tokenizer_that_comes_with_a_model_is_used(base):
    model, tokenizer = load_base(base)
    assert tokenizer("the")["input_ids"][0] == tokenizer.bos_token_id
    assert not model.training
