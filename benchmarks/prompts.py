"""Measure a language model that is shown the nearest labelled texts, beside a vote of the same texts.

    python benchmarks/prompts.py --data FOLDER --encoder NAME_OR_FOLDER --model NAME_OR_FOLDER [--set banking]

FOLDER holds the files of the set that `continual/text_sets.py` names; the model is a causal language model of Hugging
Face or a decoder that everlearn has saved. Nothing is chosen: all k are shown. The texts asked are the first of each
class that has come, so many that there are `ASKED` of them. Rows are kept in `results/rows/`, so an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import tables
import torch
from rows import ROOT, Row, row
from torch import Tensor

from everlearn.continual.encoders import HFEncoder
from everlearn.continual.strategies.in_context import InContext, LabelScorer
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours, nearest
from everlearn.continual.streams import Experience, Split, Stream
from everlearn.evals.class_incremental.scenario import encoded, read_texts, tasks
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
SHOWN = (1, 4, 8)
EXPERIENCES = 2
ASKED = 200
SEED = 0


class Encoded:
    """Texts by their number, encoded when they are first asked for.

    Args:
        texts: all of them.
        encode: texts -> features.
    """

    def __init__(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> None:
        self.texts, self.encode = tuple(texts), encode
        self.known: dict[int, Tensor] = {}

    def read(self, rows: Tensor) -> list[str]:
        """Return the texts of numbers, [B]."""
        return [self.texts[i] for i in rows.tolist()]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the features of numbers, [B, D]."""
        new = [i for i in dict.fromkeys(rows.tolist()) if i not in self.known]
        if new:
            self.known.update(zip(new, self.encode([self.texts[i] for i in new]), strict=True))
        return torch.stack([self.known[i] for i in rows.tolist()])


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="folder or name of a sentence encoder of Hugging Face")
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--set", choices=("banking", "clinc", "dbpedia"), default="banking")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scorer = LabelScorer.from_pretrained(options.model)
    stream, texts, names = numbered(options.set, options.data, cache(lambda: HFEncoder(options.encoder)))
    name = f"prompts-{options.set}-{Path(options.model).name}"
    rows = [row(f"{name}-{k}", partial(measure, stream, texts, names, scorer, k)) for k in SHOWN]
    text = tables.put(PAGE.read_text(), f"prompts {options.set}", lambda: table(rows, Path(options.model).name))
    atomic_write(PAGE, text.encode(), private=False)
    print(f"wrote {PAGE}")


def numbered(name: str, folder: Path, encoder: Callable[[], HFEncoder]) -> tuple[Stream, Encoded, tuple[str, ...]]:
    """Return the stream of a set with numbers for texts, the texts, and how each class is written in a prompt."""
    found = read_texts(name, folder)
    places = iter(range(len(found.train) + len(found.validation) + len(found.test)))
    scenario = encoded(name, found, lambda words: torch.tensor([next(places) for _ in words]))
    texts = [text for part in (found.train, found.validation, found.test) for text, _ in part]
    names = tuple(label.replace("_", " ") for label in scenario.labels)
    return tasks(scenario, SEED), Encoded(texts, lambda words: encoder()(words)), names


def measure(stream: Stream, texts: Encoded, names: tuple[str, ...], scorer: LabelScorer, k: int) -> Row:
    """Learn the first experiences and ask after each.

    Returns:
        "k"; "prompts", "vote": accuracy after each experience; "shown": share of texts whose class is among those of
        the examples; "random": accuracy of picking one of these at random; "labels": how many there are on average;
        "classes": how many have come; "seconds_each" of the processor for a prompt.
    """
    prompts = InContext(texts, texts.read, names, scorer, k=k)
    vote = NearestNeighbours(texts, len(names), k=k)
    result: Row = {"k": k, **{key: [] for key in (*COLUMNS, "labels", "classes", "seconds_each", "asked")}}
    for count, experience in enumerate(stream.experiences[:EXPERIENCES], 1):
        for strategy in (prompts, vote):
            strategy.observe(experience.records.x, experience.records.y)
        test = asked(stream.test, stream.experiences[:count])
        near = nearest(texts(test.x), torch.cat(prompts.features), k)
        labels = [set(row) for row in torch.tensor(prompts.labels)[near].tolist()]
        held = [y in among for y, among in zip(test.y.tolist(), labels, strict=True)]
        start = time.process_time()
        result["prompts"].append(share(prompts.predict(test.x) == test.y))
        result["seconds_each"].append((time.process_time() - start) / len(test.y))
        result["vote"].append(share(vote.predict(test.x) == test.y))
        result["shown"].append(sum(held) / len(held))
        chances = [yes / len(among) for yes, among in zip(held, labels, strict=True)]
        result["random"].append(sum(chances) / len(chances))
        result["labels"].append(sum(map(len, labels)) / len(labels))
        result["classes"].append(sum(len(e.classes) for e in stream.experiences[:count]))
        result["asked"].append(len(test.y))
    return result


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
    heads = ["classes", "examples", *COLUMNS.values(), "labels among them", "seconds for an answer"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for at, classes in enumerate(rows[0]["classes"]):
        for one in rows:
            shares = [f"{100 * one[key][at]:.1f}" for key in COLUMNS]
            counts = f"{one['labels'][at]:.1f} | {one['seconds_each'][at]:.2f}"
            lines.append(f"| {classes} | {one['k']} | {' | '.join(shares)} | {counts} |")
    chance = " and ".join(f"{100 / classes:.1f}" for classes in rows[0]["classes"])
    count = " and ".join(str(some) for some in rows[0]["asked"])
    command = f"prompts.py --data FOLDER --encoder all-MiniLM-L6-v2 --model {model}"
    facts = f"{count} test texts, one order of classes; any class at random is right in {chance} percent."
    return "\n".join([*lines, "", f"{facts} {tables.stamp(rows[-1]).replace('results.py', command)}"])


if __name__ == "__main__":
    main()
