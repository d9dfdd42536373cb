"""The requirements of level stacking are judged as they were written: on rows made by hand."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import stacking_meta
from stacking_checks import ALL, checks
from stacking_facts import passage
from stacking_texts import FACT_TOKENS, LONG_FACT_TOKENS, ROLES, Texts
from stacking_ways import Base

from everlearn.evals.documents import assign
from everlearn.recipes.meta_start import MetaStartRecipe
from everlearn.recipes.stand_in import BOOKS
from tests.convert.families_fixture import tiny


class Characters:
    """A tokenizer whose tokens are single characters."""

    is_fast = True

    def __call__(self, text, **_options):
        spans = [(i, i + 1) for i in range(len(text))]
        return {"input_ids": [3 + ord(c) % 58 for c in text], "offset_mapping": spans}

    def decode(self, ids):
        return "".join(DIGITS[int(i)] for i in ids)


DIGITS = {3 + ord(c) % 58: c for c in "0123456789. "}
FROZEN = {"doyle": 1.87, "war": 1.674, "darwin": 2.0, "shakespeare": 3.336, "python": 7.48}


def made(**gains):
    """Return rows of one base in which "mlp" gains so much; two documents that differ, equal on average."""

    def row(change):
        return {d: [[9.0, FROZEN[d] + change(d) + side] for side in (-0.1, 0.1)] for d in ALL}

    return {
        "read": {
            "frozen": row(lambda d: 0.0),
            "mlp": row(lambda d: -gains[d]),
            "lora": row(lambda d: -gains[d] + 0.01),
            "all": row(lambda d: -gains[d] - 0.015),
        },
        # of the first document, which costs 0.1 less than the mean
        "control": {"mlp": {"other": {d: [9.0, FROZEN[d] - 0.1 + 0.06] for d in ALL}}},
        "stream": {
            "mlp_mean x1": {
                "online": [2.0, 2.6],
                "general": [0.01, 0.09, 0.03],
                "kept": {"shakespeare": -0.3},
                "learned": {"shakespeare": -0.35},
            }
        },
    }


GOOD = {"doyle": 0.1, "war": -0.005, "darwin": 0.13, "shakespeare": 0.6, "python": 3.0}


def verdicts(runs):
    return {check.name: check.verdict for check in checks(runs)}


def test_rows_that_meet_the_must_but_not_the_ambitious_column():
    found = verdicts([made(**GOOD)])
    assert [found[f"M{n} must"] for n in (2, 3, 4, 5)] == ["reached"] * 4
    assert found["M2 ambitious"] == found["M5 ambitious"] == "missed"
    assert found["M1 must"] == found["M6 must"] == found["M9 must"] == "not measured"


@pytest.mark.parametrize(
    ("domain", "limit"), [("doyle", 0.08), ("war", -0.01), ("darwin", 0.12), ("shakespeare", 0.55)]
)
def test_each_limit_counts(domain, limit):
    above, below = (made(**{**GOOD, domain: limit + change}) for change in (0.001, -0.001))
    assert verdicts([above])["M2 must"] == "reached"
    assert verdicts([below])["M2 must"] == "missed"


def test_two_of_three_bases_decide():
    good, bad = made(**GOOD), made(**{**GOOD, "darwin": 0.0})
    assert verdicts([good, bad, good])["M2 must"] == "reached"
    assert verdicts([good, bad, bad])["M2 must"] == "missed"
    check = next(c for c in checks([good, bad, good]) if c.name == "M2 must")
    assert (check.held, len(check.measured)) == (2, 3)


def test_a_control_that_helps_is_a_miss():
    row = made(**GOOD)
    row["control"]["mlp"]["other"]["python"][-1] -= 0.02
    assert verdicts([row])["M3 must"] == "missed"


def test_the_worst_damage_and_not_the_last_decides():
    row = made(**GOOD)
    row["stream"]["mlp_mean x1"]["general"][0] = 0.11
    assert verdicts([row])["M5 must"] == "missed"


def facts_row(rank, first, darwin):
    return {"rank": [rank], "first": [first], "cost": {"doyle": [0.0], "darwin": [darwin]}}


@pytest.mark.parametrize(
    ("rank", "darwin", "verdict"), [(2.0, 0.03, "reached"), (2.1, 0.0, "missed"), (1.0, 0.04, "missed")]
)
def test_facts_of_a_long_document_are_judged_with_room_for_every_token(rank, darwin, verdict):
    row = {"facts_long": {"slots_room x1": facts_row(rank, 15, darwin), "slots x1": facts_row(9.0, 2, 0.2)}}
    check = next(c for c in checks([row]) if c.name == "M7 ambitious")
    assert check.verdict == verdict
    assert "with 4,096 slots: rank 9.00" in check.measured[0]


def test_short_chunks_are_held_against_long_ones_and_shown_against_their_like():
    row = made(**GOOD)
    row["read"] |= {"mlp_32": row["read"]["all"], "all_32": row["read"]["lora"]}
    check = next(c for c in checks([row]) if c.name == "M4 ambitious")
    assert check.verdict == "reached"
    assert check.measured[0].startswith("doyle 0.000")
    assert "against all weights at chunk 32: doyle -0.025" in check.measured[0]


class TestTexts:
    """The pieces of every role, as the benchmark takes them."""

    def test_a_new_role_moves_no_piece_of_an_older_one(self):
        text = "".join(f"{n:06d}. " for n in range(80_000))
        roles = dict(ROLES["doyle"])
        now = assign("doyle", text, roles)
        del roles["facts_long"]
        before = assign("doyle", text, roles)
        assert all(now[role] == before[role] for role in before)

    def test_every_placement_has_pages_of_its_own(self):
        text = "".join(f"{n:06d}. " for n in range(80_000))
        base = Base(None, Characters(), Texts(Characters(), {"doyle": assign("doyle", text, ROLES["doyle"])}), None)
        seen = [passage(base, placement, "facts_long") for placement in range(3)]
        assert [len(text) for text in seen] == [LONG_FACT_TOKENS] * 3
        assert len({text[:100] for text in seen}) == 3
        assert [len(passage(base, placement, "facts")) for placement in range(3)] == [FACT_TOKENS] * 3
        pages = base.texts.pieces["doyle"]["facts"]
        assert passage(base, 1, "facts") == pages[1].text[:FACT_TOKENS]


def test_a_start_is_trained_once_and_read_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stacking_meta, "FOLDER", tmp_path / "starts")
    for name in BOOKS:
        (tmp_path / f"{name}.txt").write_text("The keeper of the house went out and came in. " * 100)
    recipe = MetaStartRecipe(steps=2, rows=2, length=256)
    trainer = stacking_meta.Trainer(
        tiny(dtype=torch.float32, max_position_embeddings=256),
        Characters(),
        "tiny",
        tmp_path,
        lambda: 0.1,
        lambda kind: 0.01,
        recipe,
    )
    meta, more = trainer("meta"), trainer("more", 0.02)
    assert sorted(path.name for path in (tmp_path / "starts").iterdir()) == ["tiny-meta-0.01", "tiny-more-0.02"]
    assert all(float(start.abs().max()) == pytest.approx(0.015, rel=1e-2) for start in meta.values())
    monkeypatch.setattr(stacking_meta, "meta_start", None)
    again = trainer("meta")
    assert all(torch.equal(again[part], start) for part, start in meta.items())
    assert not any(torch.equal(more[part], start) for part, start in meta.items())
