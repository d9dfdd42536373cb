"""The weights that come with the code are those of their card, and read and learn as it says."""

import hashlib
import zlib
from pathlib import Path

import pytest

from everlearn import Learner
from everlearn.models import load_model

FOLDERS = sorted((Path(__file__).resolve().parents[1] / "checkpoints").iterdir())
# prose that nobody trained on, in the books' manner; the second part has the names of the first
FIRST = (
    "Mrs. Ravelston had never forgiven the miller of Thornby for the loss of her garden wall, and she said so to "
    "everybody who would drink tea with her. The miller, for his part, was heard to declare that Mrs. Ravelston's "
    "wall had fallen by itself, as the walls of Thornby commonly did, after the great rains in the spring. "
)
SECOND = (
    "When the spring came again, Mrs. Ravelston sent to the miller of Thornby for his cart, and the miller, who was "
    "a kind man, went to Mrs. Ravelston himself and looked at what was left of the wall."
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_card_is_of_these_weights(folder):
    weights = (folder / "model.safetensors").read_bytes()
    assert f"`{hashlib.sha256(weights).hexdigest()}`" in (folder / "README.md").read_text()
    model, _ = load_model(folder)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_knows_english_and_learns_what_it_reads(folder):
    learner = Learner(load_model(folder)[0])
    before = learner.score(SECOND).bits_per_byte
    packed = 8 * (len(zlib.compress((FIRST + SECOND).encode(), 9)) - len(zlib.compress(FIRST.encode(), 9)))
    assert before < 2.5 < packed / len(SECOND)
    learner.read(FIRST, user="ada")
    assert learner.score(SECOND, user="ada").bits_per_byte < before - 0.05
    assert learner.score(SECOND).bits_per_byte == before
