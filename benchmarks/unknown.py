"""Measure how well a classifier tells that an item is of no class, and how far its confidence can be believed.

    python benchmarks/unknown.py --data FOLDER --encoder NAME_OR_PATH [--features FOLDER]

FOLDER holds clinc150, banking77 and dbpedia70, each with the files that `continual/text_sets.py` names. Everything is
chosen on validation rows, the test rows are measured once. Rows are kept in `results/rows/`, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tables
import torch
from rows import ROOT, Row, row

from everlearn.continual import Classifier, HashedText
from everlearn.continual.encoders import HFEncoder
from everlearn.continual.feature_cache import FeatureCache
from everlearn.continual.features import Encoder
from everlearn.continual.text_sets import TEXT_SETS, TextSet
from everlearn.continual.unknown import SCORES, auroc, calibration_error
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
FOLDERS = {"clinc": "clinc150", "banking": "banking77", "dbpedia": "dbpedia70"}
ENCODERS = ("sentences", "hashed")


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="folder or name of a sentence encoder of Hugging Face")
    parser.add_argument("--features", type=Path, default=ROOT / "results" / "features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoders = {
        "sentences": lambda: FeatureCache(HFEncoder(options.encoder), options.features),
        "hashed": lambda: HashedText(2_000),
    }
    rows = {}
    for kind in ENCODERS:
        for name, folder in FOLDERS.items():
            encoder, read = encoders[kind], TEXT_SETS[name]
            place = options.data / folder
            rows[kind, name] = row(
                f"unknown-{kind}-{name}",
                lambda read=read, place=place, encoder=encoder: measure(read(place), encoder()),
            )
    text = tables.put(PAGE.read_text(), "unknown", lambda: unknown_table(rows))
    text = tables.put(text, "confidence", lambda: confidence_table(rows))
    atomic_write(PAGE, text.encode(), private=False)
    print(f"wrote {PAGE}")


def measure(texts: TextSet, encoder: Encoder) -> Row:
    """Learn the training rows, calibrate on the validation rows, answer the test rows."""
    classifier = Classifier(encoder)
    train, validation, test = ([list(part) for part in zip(*rows, strict=True)] for rows in parts(texts))
    classifier.learn(*train)
    strange = {part: list(rows) for part, rows in texts.unknown.items()}
    calibration = classifier.calibrate(*validation, unknown=strange.get("validation"))
    snapshot, phi = classifier.memory.snapshot(), classifier.memory.features(encoder(test[0]))
    scores = snapshot.scores(phi)
    right = torch.tensor([got == label for got, label in zip(snapshot.best(scores), test[1], strict=True)])
    found: Row = {"calibration": calibration.to_json(), "accuracy": right.double().mean().item(), "test": len(right)}
    for name, temperature in (("ece_before", 1.0), ("ece_after", calibration.temperature)):
        found[name] = calibration_error((scores / temperature).softmax(1).amax(1), right)
    known = calibration.familiarity(snapshot, phi, scores) >= calibration.threshold
    found |= {"kept": share(known), "kept_and_right": share(known & right)}
    if not strange:
        return found
    outside = classifier.memory.features(encoder(strange["test"]))
    others = snapshot.scores(outside)
    found["auroc"] = {
        name: auroc(*(of(snapshot, *pair, calibration.temperature) for pair in ((phi, scores), (outside, others))))
        for name, of in SCORES.items()
    }
    refused = calibration.familiarity(snapshot, outside, others) < calibration.threshold
    return found | {"refused": share(refused), "unknown": len(refused)}


def parts(texts: TextSet) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return the three parts of a set."""
    return texts.train, texts.validation, texts.test


def share(yes: torch.Tensor) -> float:
    """Return the share that is true."""
    return yes.double().mean().item()


def unknown_table(rows: dict[tuple[str, str], Row]) -> str:
    """AUROC of every score on validation and test, and what the threshold does."""
    lines = [
        f"| features | {' | '.join(SCORES)} | chosen | in scope: kept, kept and right | out of scope: refused |",
        "|---" * (len(SCORES) + 4) + "|",
    ]
    for kind in ENCODERS:
        at = rows[kind, "clinc"]
        chosen, validation = at["calibration"]["score"], at["calibration"]["report"]["auroc"]
        cells = [f"{100 * validation[name]:.1f} / {100 * at['auroc'][name]:.1f}" for name in SCORES]
        lines.append(
            f"| {kind} | {' | '.join(cells)} | {chosen} | {100 * at['kept']:.1f}, {100 * at['kept_and_right']:.1f} "
            f"| {100 * at['refused']:.1f} |"
        )
    at = rows[ENCODERS[0], "clinc"]
    return "\n".join([*lines, "", f"{at['test']:,} rows in scope, {at['unknown']:,} out of scope. {stamp(at)}"])


def confidence_table(rows: dict[tuple[str, str], Row]) -> str:
    """Calibration error before and after the temperature."""
    lines = ["| features | set | accuracy | temperature | error before | error after |", "|---|---|---|---|---|---|"]
    for (kind, name), at in rows.items():
        heat = at["calibration"]["temperature"]
        lines.append(
            f"| {kind} | {name} | {100 * at['accuracy']:.1f} | {heat:.2f} | {100 * at['ece_before']:.1f} "
            f"| {100 * at['ece_after']:.1f} |"
        )
    return "\n".join([*lines, "", stamp(rows[ENCODERS[0], "clinc"])])


def stamp(at: Row) -> str:
    """Say how, where and when it was measured."""
    return tables.stamp(at).replace("results.py", "unknown.py --data FOLDER --encoder all-MiniLM-L6-v2")


if __name__ == "__main__":
    main()
