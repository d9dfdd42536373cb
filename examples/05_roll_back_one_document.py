"""Take back one of three documents, exactly: go back to before it, and read what came after it again.

    python examples/05_roll_back_one_document.py [MODEL]

A neural memory cannot subtract a document. A snapshot is a plain value, so the way back is one line.
"""

import argparse
import calendar
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import everlearn as el

scratch = tempfile.TemporaryDirectory()  # removed when this program ends
name = sys.argv[1] if len(sys.argv) > 1 else tiny_llama(Path(scratch.name))
model = el.stack_levels(AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name))
first, wrong, third = (Path(module.__file__).read_text()[:12000] for module in (argparse, calendar, shlex))

reader = el.Learner(model)
reader.read(first, user="ada")
snapshot = reader.state("ada")
reader.read(wrong, user="ada")
reader.read(third, user="ada")
print(f"the wrong document, with the memory:  {reader.score(wrong, user='ada').bits_per_byte:.3f} bits per byte")

reader.restore("ada", snapshot)
reader.read(third, user="ada")
print(f"the same, after it was taken back:    {reader.score(wrong, user='ada').bits_per_byte:.3f}")

never = el.Learner(model)
never.read(first, user="ada")
never.read(third, user="ada")
pairs = zip(reader.state("ada").memory["stack"].values(), never.state("ada").memory["stack"].values(), strict=True)
print(f"equal to never having read it, bit for bit: {all(torch.equal(one, other) for one, other in pairs)}")
