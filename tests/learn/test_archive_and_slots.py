"""What the archive and the slots are for, on a model that was trained for a minute: with controls that must fail."""

import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from everlearn.demo.base import load_or_train
from everlearn.learn import Archive, error_rate, look_up, memorize, read
from everlearn.learn.route import BASE
from everlearn.levels import Level
from everlearn.memory.slots import SlotMemory
from everlearn.models.text import encode

PROSE = (Path(__file__).resolve().parents[2] / "LICENSE").read_text(encoding="utf-8")
LEVELS = (Level("fast", 64, eta=0.3), Level("mid", 256, eta=0.3), Level("slow", 1024, eta=0.3))
ROLES = ["keeper", "warden", "miller", "baker", "smith", "notary", "pilot", "clerk", "ranger", "brewer"]
PLACES = ["Orvane", "Tessick", "Halmoor", "Quenby", "Ludvale", "Brannoch", "Yelverin", "Sundrey", "Wexholm", "Ibsley"]
NAMES = ["Aldous", "Brenna", "Cormac", "Delphine", "Edrik", "Fenella", "Gideon", "Hesper", "Jocasta", "Kendrick"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_or_train(tmp_path_factory.mktemp("base"), quick=True)[0].with_levels(LEVELS).eval()


def table(seed: int, rows: int) -> str:
    """Return a text unlike prose and unlike a program."""
    dice = random.Random(seed)
    cells = [[f"{dice.randint(0, 99):02d}.{dice.randint(0, 9)}" for _ in range(8)] for _ in range(rows)]
    return "\n".join(map("; ".join, cells))


def learned(model, texts, state=None):
    with torch.no_grad():
        state = model.initial_state(1) if state is None else state
    for text in texts:
        state = read(model, encode(text)[None], state, chunk_size=64, end="flush")[1]
    return state


def cost(model, text: str, state) -> float:
    """Return the mean bits of a text, read with a state and without learning."""
    report, _ = read(model, encode(text)[None], state.new_segment(), chunk_size=64, learn=False)
    return mean_bits(report.nll)


def mean_bits(nll: torch.Tensor) -> float:
    return float(nll.nanmean()) / math.log(2)


@pytest.mark.slow
def test_after_prose_and_a_table_the_prose_is_read_better_by_its_own_state_than_by_one_for_both(model):
    with torch.no_grad():
        base = model.initial_state(1)
    prose, numbers, later = PROSE[:4096], table(0, 120), PROSE[4096:7168]
    single = learned(model, [prose, numbers])
    archive = Archive(model)
    archive.keep("prose", learned(model, [prose]))
    archive.keep("numbers", learned(model, [numbers]))
    own, both, before = (cost(model, later, state) for state in (learned(model, [prose]), single, base))
    nll, routes = archive.score(encode(later), truth="prose")
    print(f"bits: alone {own:.3f}, routed {mean_bits(nll):.3f}, one state {both:.3f}, base {before:.3f}")
    assert mean_bits(nll) < min(both, before) - 0.1
    assert mean_bits(nll) < own + 0.1  # rank 8 in int8, and the first chunk is the base's
    assert error_rate(routes) <= 0.2
    # the table goes to the table's state, and what neither teaches is left to the model as it was
    assert archive.route(encode(table(1, 12)), truth="numbers").wrong is False
    program = Path(random.__file__).read_text(encoding="utf-8")[2048:5120]
    nll, routes = archive.score(encode(program), truth=BASE)
    harm = [bits - cost(model, program, base) for bits in (mean_bits(nll), cost(model, program, single))]
    print(f"harm to a program: routed {harm[0]:.3f}, one state {harm[1]:.3f}; errors {error_rate(routes):.2f}")
    assert harm[0] < 0.03 < harm[1]
    # control: with the wrong document alone nothing is gained, and nothing is lost
    wrong = Archive(model)
    wrong.keep("numbers", learned(model, [numbers]))
    nll, _ = wrong.score(encode(later))
    assert mean_bits(nll) == pytest.approx(before, abs=0.02)


def document(names: list[str], seed: int = 0) -> bytes:
    """Hide one sentence about each place in prose."""
    lines, dice = PROSE[:6000].split("\n\n"), random.Random(seed)
    facts = [f"The {r} of {p} is {n}." for r, p, n in zip(ROLES, PLACES, names, strict=True)]
    for fact in facts:
        lines.insert(dice.randrange(len(lines)), fact)
    return "\n\n".join(lines).encode()


def ranks(model, memory: SlotMemory, slots) -> list[float]:
    """Return the rank of each right name among all, each against its own mean over the questions."""
    asked = [f"It was late. The {role} of {place} is" for role, place in zip(ROLES, PLACES, strict=True)]
    questions = [f"{PROSE[7000 + 80 * i : 7064 + 80 * i]} {asked[i]}" for i in range(len(asked))]
    scores = torch.empty(len(questions), len(NAMES))
    for i, question in enumerate(questions):
        for j, name in enumerate(NAMES):
            ids = encode(f"{question} {name}.")[None]
            with torch.no_grad():
                logits, _ = look_up(model, memory, slots, ids)
            nll = F.cross_entropy(logits[0, len(question) - 1 : -1], ids[0, len(question) :], reduction="sum")
            scores[i, j] = -nll
    lifted = scores - scores.mean(0)
    return [float(1 + (lifted[i] > lifted[i, i]).sum()) for i in range(len(NAMES))]


@pytest.mark.slow
def test_facts_that_were_read_once_are_ranked_first_by_the_slots_and_not_without_them(model):
    memory = SlotMemory()
    with torch.no_grad():
        start, dim = model.initial_state(1), model.config.dim
    empty = memory.initial_state(1, dim)
    ids = encode(document(NAMES))[None]
    _, slots, _ = memorize(model, memory, empty, ids, start, document=0)
    shuffled = NAMES[1:] + NAMES[:1]
    _, other, _ = memorize(model, memory, empty, encode(document(shuffled))[None], start, document=0)
    found, without, wrong = (ranks(model, memory, s) for s in (slots, empty, other))
    print(f"ranks: {found}, without slots {without}, with other pairs {wrong}")
    assert found.count(1.0) >= 6 > without.count(1.0)
    assert sum(found) / 10 <= 2.5 < 4 < sum(without) / 10
    # control: the same names read with other offices do not help the right pairs
    assert sum(wrong) / 10 > 4
    # what was forgotten is not known
    assert ranks(model, memory, memory.forget(slots, [0])) == without
