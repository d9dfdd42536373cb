"""Read with levels in a chain, side by side and nested: `python benchmarks/cms_kinds.py`.

The demo's model is trained once for each way to put its three levels together; nested levels share one MLP, which gets
the width that makes the number of parameters equal. Printed, per step size, for eight validation files: bits per byte
at the late positions without and with learning, and the damage to held-out text after reading two of the files.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from everlearn.demo import reading
from everlearn.demo.base import join
from everlearn.demo.corpus import standard_library, validation_files
from everlearn.layout import CONFIG
from everlearn.models import Decoder, load_model, save_model
from everlearn.models.text import encode
from everlearn.recipes import byte_reader
from everlearn.train import train

WIDTHS = {"sequential": 128, "independent": 128, "nested": 384}
RATES = (0.1, 0.3, 0.7)
LATE = slice(4096, None)


def base(folder: Path, word: str, seed: int, text: torch.Tensor) -> Decoder:
    """Return the trained model of one kind; train it when the folder has none."""
    if not (folder / CONFIG).exists():
        torch.manual_seed(seed)
        model = Decoder(replace(byte_reader.model(), cms=word, hidden_dim=WIDTHS[word]))
        train(model, text, byte_reader.training(seed))
        save_model(model, folder)
    return load_model(folder)[0]


def main() -> None:
    """Train, read, and print one row for each kind and step size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/cms-kinds"), help="where the models are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known, heldout = standard_library(byte_reader.TRAIN_BYTES, 150_000)
    texts = reading.Texts(known, heldout, validation_files(known, 8))
    ids = reading._rows(texts.files, reading.LENGTH)
    print("| kind | parameters | eta | frozen | learning | damage |\n|---|---|---|---|---|---|", flush=True)
    for word in WIDTHS:
        model = base(options.folder / f"{word}-{options.seed}", word, options.seed, encode(join(known)))
        size = sum(p.numel() for p in model.parameters())
        frozen = float(reading._frozen(model, ids)[:, LATE].mean())
        for eta in RATES:
            learner = model.with_levels([replace(level, eta=eta) for level in model.config.levels])
            bits, opened = reading._learn(learner, ids)
            kept = reading._kept(learner, texts, ids, opened, {"learning": bits, "frozen": bits})["kept"]
            late, damage = float(bits[:, LATE].mean()), kept["after"] - kept["before"]
            print(f"| {word} | {size:,} | {eta} | {frozen:.3f} | {late:.3f} | {damage:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
