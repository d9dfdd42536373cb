"""Measure a language model that is shown the nearest labelled texts, beside a vote of the same texts.

    python benchmarks/prompts.py --data FOLDER --encoder NAME_OR_FOLDER --model NAME_OR_FOLDER [--set banking]

FOLDER holds the files of the set that `continual/text_sets.py` names; the model is a causal language model of Hugging
Face or a decoder that everlearn has saved. Nothing is chosen: all k are shown. The texts asked are the first of each
class that has come, so many that there are `ASKED` of them. Rows are kept in `results/rows/`, so an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tables
import torch
from rows import ROOT, Row, row
from torch import Tensor

from everlearn.continual.encoders import HFEncoder
from everlearn.continual.feature_cache import FeatureCache
from everlearn.continual.strategies.in_context import InContext, LabelScorer
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours, nearest
from everlearn.continual.streams import Experience, Split, Stream
from everlearn.evals.class_incremental.scenario import encoded, read_texts, tasks
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
SHOWN = (1, 4, 8)
AFTER = (1, 2)  # experiences, and the last
ASKED = 200
SEED = 0


@dataclass(frozen=True)
class Texts:
    """A stream of numbers, and what they stand for.

    Args:
        stream: whose records are row numbers.
        texts: all of them.
        features: of each, [N, D].
        names: how each class is written in a prompt.
    """

    stream: Stream
    texts: tuple[str, ...]
    features: Tensor
    names: tuple[str, ...]

    def read(self, rows: Tensor) -> list[str]:
        """Return the texts of numbers, [B]."""
        return [self.texts[i] for i in rows.tolist()]

    def encode(self, rows: Tensor) -> Tensor:
        """Return the features of numbers, [B, D]."""
        return self.features[rows]


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="folder or name of a sentence encoder of Hugging Face")
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--set", choices=("banking", "clinc", "dbpedia"), default="banking")
    parser.add_argument("--features", type=Path, default=ROOT / "results" / "features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scorer = LabelScorer.from_pretrained(options.model)
    texts = numbered(options.set, options.data, FeatureCache(HFEncoder(options.encoder), options.features))
    name = f"prompts-{options.set}-{Path(options.model).name}"
    rows = [row(f"{name}-{k}", partial(measure, texts, scorer, k)) for k in SHOWN]
    text = tables.put(PAGE.read_text(), f"prompts {options.set}", lambda: table(rows, Path(options.model).name))
    atomic_write(PAGE, text.encode(), private=False)
    print(f"wrote {PAGE}")


def numbered(name: str, folder: Path, encode: Callable[[Sequence[str]], Tensor]) -> Texts:
    """Return the stream of a set with numbers for texts."""
    found, places, features, texts = read_texts(name, folder), itertools.count(), list[Tensor](), list[str]()

    def number(words: Sequence[str]) -> Tensor:
        features.append(encode(words))
        texts.extend(words)
        return torch.tensor([next(places) for _ in words])

    scenario = encoded(name, found, number)
    names = tuple(label.replace("_", " ") for label in scenario.labels)
    return Texts(tasks(scenario, SEED), tuple(texts), torch.cat(features), names)


def measure(texts: Texts, scorer: LabelScorer, k: int) -> Row:
    """Learn the stream and ask after some of the experiences.

    Returns:
        "k", and lists over the times of asking: "prompts", "vote": accuracy; "shown": share of texts whose class is
        among those of the examples; "random": accuracy of picking one of these at random; "labels": how many there are
        on average; "unlike": accuracies of prompts and vote on the texts whose examples have several labels, and the
        number of these texts; "classes": how many have come; "asked": how many texts; "seconds_each" of the processor.
    """
    prompts = InContext(texts.encode, texts.read, texts.names, scorer, k=k)
    vote = NearestNeighbours(texts.encode, len(texts.names), k=k)
    moments: list[Row] = []
    experiences = texts.stream.experiences
    for count, experience in enumerate(experiences, 1):
        for strategy in (prompts, vote):
            strategy.observe(experience.records.x, experience.records.y)
        if count in AFTER or count == len(experiences):
            moments.append(ask(prompts, vote, texts, asked(texts.stream.test, experiences[:count])))
            moments[-1]["classes"] = sum(len(e.classes) for e in experiences[:count])
    return {"k": k, **{key: [moment[key] for moment in moments] for key in moments[0]}}


def ask(prompts: InContext, vote: NearestNeighbours, texts: Texts, test: Split) -> Row:
    """Ask both ways the same texts; see `measure`."""
    near = nearest(texts.encode(test.x), torch.cat(prompts.features), prompts.k)
    labels = [set(row) for row in torch.tensor(prompts.labels)[near].tolist()]
    held = [y in among for y, among in zip(test.y.tolist(), labels, strict=True)]
    start = time.process_time()
    by_prompts = prompts.predict(test.x) == test.y
    seconds = time.process_time() - start
    by_vote = vote.predict(test.x) == test.y
    several = torch.tensor([len(among) > 1 for among in labels])
    return {
        "prompts": share(by_prompts),
        "vote": share(by_vote),
        "shown": sum(held) / len(held),
        "random": sum(yes / len(among) for yes, among in zip(held, labels, strict=True)) / len(held),
        "labels": sum(map(len, labels)) / len(labels),
        "unlike": [*(share(right[several]) for right in (by_prompts, by_vote) if several.any()), int(several.sum())],
        "asked": len(held),
        "seconds_each": seconds / len(held),
    }


COLUMNS = {
    "prompts": "the language model",
    "vote": "a vote of the same texts",
    "random": "one of their labels at random",
    "shown": "the label is among them",
}


def asked(test: Split, experiences: Sequence[Experience]) -> Split:
    """Return the first test records of each class that has come, about `ASKED` in all and as many of each."""
    classes = [c for experience in experiences for c in experience.classes]
    each = max(1, ASKED // len(classes))
    return test.take(torch.cat([(test.y == c).nonzero().squeeze(1)[:each] for c in classes]))


def share(yes: Tensor) -> float:
    """Return the share that is true."""
    return yes.double().mean().item()


def table(rows: list[Row], model: str) -> str:
    """One line for each number of examples and each number of classes."""
    heads = ["classes", "examples", *COLUMNS.values(), "texts with several labels: model, vote", "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for at, classes in enumerate(rows[0]["classes"]):
        for one in rows:
            shares = [f"{100 * one[key][at]:.1f}" for key in COLUMNS]
            *both, count = one["unlike"][at]
            unlike = f"{count}: {', '.join(f'{100 * value:.0f}' for value in both)}" if count else "0"
            lines.append(
                f"| {classes} | {one['k']} | {' | '.join(shares)} | {unlike} | {one['seconds_each'][at]:.2f} |"
            )
    chance = ", ".join(f"{100 / classes:.1f}" for classes in rows[0]["classes"])
    count = ", ".join(str(some) for some in rows[0]["asked"])
    command = f"prompts.py --data FOLDER --encoder all-MiniLM-L6-v2 --model {model}"
    facts = f"{count} test texts, one order of classes; any class at random is right in {chance} percent."
    return "\n".join([*lines, "", f"{facts} {tables.stamp(rows[-1]).replace('results.py', command)}"])


if __name__ == "__main__":
    main()
