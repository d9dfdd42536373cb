"""What docs/responsible_use.md says of a memory: what it gives away, to whom, and what forgetting removes."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import everlearn as el
from everlearn.cli.main import main
from everlearn.learn import Archive, Learner
from everlearn.levels import Level
from everlearn.memory import SlotMemory
from tests.pretrained import pretrained, tokenizer

PARTS = (
    "The kettle is in the second cupboard. ",
    "The garden needs water on dry days. ",
    "The train to the coast leaves at nine. ",
)
CODE, OTHER = "7319", "2846"
CODES = [f"{(int(CODE) + 1237 * i) % 10000:04d}" for i in range(50)]  # the planted one, then 49 that nobody wrote
READINGS = 16


def notes(code: str) -> str:
    return "".join(f"{part}The code is {code}. " for part in PARTS)


def code_reader() -> Learner:
    """A model that writes such notes with codes drawn at random, and knows none: trained here for a second."""
    own, rng = tokenizer(), random.Random(0)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(own), max_position_embeddings=256, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        rows = []
        for _ in range(8):
            parts = [*PARTS, f"The code is {rng.randrange(10000):04d}. "]
            rng.shuffle(parts)
            rows.append(own("".join(parts), add_special_tokens=False)["input_ids"])
        ids = torch.tensor([row[: min(map(len, rows))] for row in rows])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    levels = (Level("fast", 16, eta=1.0, anchor_decay=0.02, reset="document"), Level("slow", mean_of="fast", decay=0.9))
    return Learner(el.stack_levels(model, own, levels=levels, chunk_size=16))


@pytest.fixture(scope="module")
def reader() -> Learner:
    reader = code_reader()
    for _ in range(READINGS):
        reader.read({"ada": notes(CODE), "bob": notes(OTHER)})
    return reader


def costs(reader: Learner, user: str | None) -> dict[str, float]:
    """Return the bits of a sentence with each code."""
    return {code: float(reader.score(f"The code is {code}.", user).bits.nansum()) for code in CODES}


def rank(cost: dict[str, float], code: str = CODE) -> int:
    return sorted(cost, key=lambda c: cost[c]).index(code) + 1


def test_who_holds_a_memory_can_extract_what_was_read(reader):
    """Of fifty codes the planted one becomes the likeliest; the model without the memory prefers many others."""
    frozen, taught = costs(reader, None), costs(reader, "ada")
    assert rank(frozen) > 10
    assert rank(taught) <= 2
    gained = {code: taught[code] - frozen[code] for code in CODES}
    assert rank(gained) == 1  # base and memory together tell more than the memory alone


def test_another_users_memory_gives_nothing_away(reader):
    """Bob read the same notes with a code of his own: his memory favours that one, and not ada's."""
    frozen, taught = costs(reader, None), costs(reader, "bob")
    assert rank({code: taught[code] - frozen[code] for code in CODES}) > 5
    alone = code_reader()
    for _ in range(READINGS):
        alone.read({"ada": notes(OTHER), "bob": notes(OTHER)})
    # whatever ada reads, at a fixed batch shape bob's memory is the same, bit for bit
    pairs = zip(reader.state("bob").memory["stack"].items(), alone.state("bob").memory["stack"].items(), strict=True)
    assert all(name == same and torch.equal(one, other) for (name, one), (same, other) in pairs)


def test_what_stands_in_a_text_is_learned_whoever_wrote_it(reader):
    """A sentence that somebody slipped into a document is learned like the rest; as another's words it is not."""
    slipped = "The code is 5550. "
    text = "".join(f"{part}{slipped}" for part in PARTS)
    other = Learner(reader.model)
    for _ in range(READINGS // 2):
        other.read(text, "document")
        other.read(
            [("user", part) if part in PARTS else ("tool", part) for p in PARTS for part in (p, slipped)], "talk"
        )
    bits = {user: float(other.score(slipped, user).bits.nansum()) for user in (None, "document", "talk")}
    assert bits["document"] < bits[None] - 5
    assert bits["document"] < bits["talk"] - 5


def windows(state: dict[str, torch.Tensor]) -> list[bytes]:
    """Return the bytes of some of the numbers that a memory holds."""
    return [t.flatten()[:16].numpy().tobytes() for t in state.values() if t.numel() >= 16 and bool(t[..., 0].any())]


def test_forget_removes_every_byte_in_the_folder_and_leaves_other_users(tmp_path):
    """Text, name and numbers are looked for in all files; what was exported before is another file, and stays."""
    base, folder, exported = pretrained(tmp_path / "base"), tmp_path / "out", tmp_path / "quill.safetensors"
    for user, code in (("quill", CODE), ("bob", OTHER)):
        (tmp_path / f"{user}.txt").write_text(notes(code))
    words = ["--state", str(folder)]
    assert main(["convert", str(base), str(folder), "--chunk-size", "16"]) == 0
    for user in ("quill", "bob"):
        assert main(["read", str(tmp_path / f"{user}.txt"), *words, "--user", user]) == 0
    assert main(["memory", "export", str(exported), *words, "--user", "quill"]) == 0
    numbers = windows(dict(el.load(folder).state("quill").memory["stack"]))

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = files()
    assert len(numbers) > 5
    assert all(any(number in data for data in before.values()) for number in numbers)
    # a closed document leaves its name, size and hash beside the numbers, and none of its words
    assert not any(b"code is" in data or b"kettle" in data for data in before.values())
    assert any(b"quill.txt" in data for data in before.values())
    assert main(["memory", "forget", *words, "--user", "quill"]) == 0
    after = files()
    assert not any(number in data for data in after.values() for number in numbers)
    assert not any(b"quill" in data for data in after.values())
    assert len(before) - len(after) == 1
    assert all(before[path] == data for path, data in after.items())
    assert all(number in exported.read_bytes() for number in numbers)


def test_an_open_document_stands_in_the_memory_until_it_is_ended(tmp_path):
    """The tokens of the unfinished chunk and the keys and values are kept to go on exactly; ending drops them."""
    model = code_reader().model
    reader = el.Learner(model, store=tmp_path)
    reader.read(notes(CODE)[:100], "ada", end="open")
    waiting = reader.state("ada").context["open"]
    kept = model.decode(waiting["ids"][0, : int(waiting["count"][0])])
    assert kept and kept in notes(CODE)
    assert {"cache", "open"} <= set(reader.state("ada").context)
    reader.close("ada")
    assert not reader.state("ada").context


def tokens_in(model, text: str) -> bytes:
    """Return the bytes that the tokens of a text are in a file of slots."""
    return model.encode(text).to(torch.int32).numpy().tobytes()


def test_slots_give_back_what_was_read_once_and_forgetting_the_document_takes_it_away(tmp_path):
    """One reading is enough: the planted code is the likeliest of fifty, and stands in the file as it was written."""
    model = code_reader().model
    reader = el.Learner(model, store=tmp_path, archive=Archive, slots=SlotMemory())
    reader.read(notes(CODE), "quill", name="plan.txt")
    reader.read("The garden needs water. The train to the coast leaves at ten.", "quill", name="other.txt")
    reader.read(notes(OTHER), "bob", name="bob.txt")
    words = tokens_in(model, f"The code is {CODE}. ")[4:]

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    assert rank(costs(reader, "quill")) == 1 < 10 < rank(costs(reader, None))
    assert sum(words in data for data in before.values()) == 1
    assert any(b"plan.txt" in data for data in before.values())
    archived = reader.user_archive("quill").entry("plan.txt").to_tensors()
    numbers = windows({name: tensor for name, tensor in archived.items() if tensor.dtype == torch.int8})
    assert numbers and all(any(number in data for data in before.values()) for number in numbers)
    assert reader.forget_document("quill", "plan.txt")
    again = el.Learner(model, store=tmp_path, archive=Archive, slots=SlotMemory())
    after = files()
    for gone in (words, b"plan.txt", *numbers):
        assert not any(gone in data for data in after.values())
    # who reads now is a learner that has never seen the plan
    never = Learner(model, archive=Archive, slots=SlotMemory())
    never.read("The garden needs water. The train to the coast leaves at ten.", "quill", name="other.txt")
    assert costs(again, "quill") == pytest.approx(costs(never, "quill"), abs=1e-4)
    assert [document.name for document in again.documents("quill")] == ["other.txt"]
    assert sum(before[path] == data for path, data in after.items()) >= 2  # bob's files


def test_texts_go_to_the_document_that_they_are_like_and_the_rest_to_the_base():
    """On a model that was trained, if only for a second: what it was trained on is left to it as it was."""
    reader = Learner(code_reader().model, archive=Archive)
    texts = {
        "tides": "High water stands at six, low water at noon; the boats go out with the ebb, in with the flood. ",
        "bread": "500 g of flour, 350 g of water, 10 g of salt, 5 g of yeast: 20 minutes at 250, 25 more at 200. ",
    }
    for name, text in texts.items():
        reader.read(text * 3, "ada", name=name)
    for name, text in (*texts.items(), ("base", notes(OTHER))):
        assert reader.route(text[7:90], "ada").choice == name
        if name != "base":
            assert next(iter(reader.score(text, "ada").readers)) == name
