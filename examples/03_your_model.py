"""Your own Hugging Face model learns your notes, stops, starts again, and still knows them.

    python examples/03_your_model.py [MODEL] [NOTES]

MODEL is a folder that `save_pretrained` wrote, or the name of a model on the hub; NOTES is a text file. Without them
a tiny Llama, trained here in a few seconds, reads a module of this Python that it has not seen.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import everlearn as el

scratch = tempfile.TemporaryDirectory()  # removed when this program ends
work = Path(scratch.name)
name = sys.argv[1] if len(sys.argv) > 1 else tiny_llama(work / "model")
notes = Path(sys.argv[2] if len(sys.argv) > 2 else argparse.__file__).read_text()[:24000]
read, later = notes[: len(notes) * 2 // 3], notes[len(notes) * 2 // 3 :]

# from here on it is ten lines
model = AutoModelForCausalLM.from_pretrained(name)
model = el.stack_levels(model, AutoTokenizer.from_pretrained(name))  # the same logits, bit for bit
reader = el.Learner(model, store=work / "memory")
before = reader.score(later).bits_per_byte
reader.read(read, user="ada")
after = reader.score(later, user="ada").bits_per_byte

reader = el.Learner(model, store=work / "memory")  # a new process would do the same
again = reader.score(later, user="ada").bits_per_byte

print(f"the last third of the notes, nothing read:    {before:.3f} bits per byte")
print(f"the same, after reading the first two thirds: {after:.3f}")
print(f"the same, after a restart:                    {again:.3f}")
print(f"without a user the model is what it was:      {reader.score(later).bits_per_byte:.3f}")
