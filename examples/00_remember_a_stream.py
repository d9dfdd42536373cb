"""A model reads a text, learns from it, stops, starts again, and still knows it.

    python examples/00_remember_a_stream.py

Trains a tiny byte model on this Python's own `json` package, lets it read an unseen module, and shows what reading
changed. Takes about fifteen seconds on a CPU.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import everlearn as el
from everlearn.levels import Level
from everlearn.models import Decoder, preset
from everlearn.models.text import encode
from everlearn.train import TrainConfig, train

torch.set_num_threads(1)
torch.manual_seed(0)
levels = [Level("fast", 32, eta=0.3), Level("slow", 128, eta=0.3)]
model = Decoder(preset("delta_net", dim=32, num_layers=2, hidden_dim=64, levels=levels, chunk_size=32))

package = Path(json.__file__).parent
known = b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))
train(model, encode(known), TrainConfig(steps=120, batch_size=8, length=128, lr=8e-3, adamw_lr=1e-2, warmup=10))

unseen = Path(argparse.__file__).read_bytes()
chapter_1, chapter_2 = unseen[:16000], unseen[16000:24000]

with tempfile.TemporaryDirectory() as folder:
    reader = el.Learner(model, store=folder)
    before = reader.score(chapter_2).bits_per_byte
    reader.read(chapter_1, user="ada")
    after = reader.score(chapter_2, user="ada").bits_per_byte

    again = el.Learner(model, store=folder)  # a new process would do the same
    restarted = again.score(chapter_2, user="ada").bits_per_byte

print(f"chapter 2, chapter 1 not read: {before:.3f} bits per byte")
print(f"chapter 2, chapter 1 read:     {after:.3f}")
print(f"the same after a restart:      {restarted:.3f}")
assert restarted == after
