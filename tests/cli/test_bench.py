"""`everlearn bench speed`: the tables, the JSON document, and what it refuses."""

import json

import pytest

from everlearn.cli.main import main
from everlearn.evals import speed
from everlearn.evals.speed import Sizes

TINY = Sizes(dim=12, num_layers=1, num_heads=1, hidden_dim=12, length=64, contexts=(64, 128))


def test_the_tables_are_printed_and_every_number_is_in_the_document(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "QUICK", TINY)
    monkeypatch.setattr("everlearn.evals.speed.report.peak_bytes", lambda *what: None)  # as where no system tells
    target = tmp_path / "speed.json"
    assert main(["bench", "speed", "--quick", "--rounds", "1", "--presets", "delta_net", "--json", str(target)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("device: ") and f"wrote {target}" in said and "next: everlearn" in said
    document = json.loads(target.read_text())
    assert set(document["parameters"]) == {"transformer++", "delta_net"}, "the baseline is always there"
    assert document["rounds"] == 1 and document["sizes"]["dim"] == 12
    shown = f"{document['steps']['train']['delta_net']['median']:.2f}"
    assert f"| delta_net | {document['parameters']['delta_net'] / 1e6:.2f} M | {shown} (" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["speed", "--presets", "hop"], "preset 'hop' is unknown; choose one of"),
        (["speed", "--rounds", "0"], "rounds is 0; a ratio needs at least 1"),
        (["speed", "--threads", "0"], "--threads is 0; give a whole number of at least 1"),
        (["taste"], "taste"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, complaint, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert complaint in error and "\n" not in error
