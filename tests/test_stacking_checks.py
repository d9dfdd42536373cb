"""The requirements of level stacking are judged as they were written: on rows made by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from stacking_checks import ALL, checks

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
