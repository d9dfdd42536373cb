"""Two users read with one model, in one batch, and neither learns from the other.

    python examples/04_two_users.py [MODEL]

Each memory predicts the rest of its own user's text best; forgetting one leaves the other as it was, bit for bit.
"""

import argparse
import calendar
import sys
import tempfile
from pathlib import Path

from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import everlearn as el

scratch = tempfile.TemporaryDirectory()  # removed when this program ends
work = Path(scratch.name)
name = sys.argv[1] if len(sys.argv) > 1 else tiny_llama(work / "model")
model = el.stack_levels(AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name))
reader = el.Learner(model, store=work / "memory")

texts = {"ada": Path(argparse.__file__).read_text(), "bob": Path(calendar.__file__).read_text()}
reader.read({user: text[:16000] for user, text in texts.items()})

print("bits per byte of the next pages of:   ada's text   bob's text")
for memory in (None, "ada", "bob"):
    bits = [reader.score(text[16000:24000], user=memory).bits_per_byte for text in texts.values()]
    print(f"  with the memory of {memory or 'nobody':<8}        {bits[0]:>10.3f}   {bits[1]:>10.3f}")

before = [path.read_bytes() for path in (work / "memory").iterdir()]
reader.forget("ada")
after = [path.read_bytes() for path in (work / "memory").iterdir()]
print(f"files of memories: {len(before)}, and {len(after)} after forgetting ada")
print(f"bob's file is the same, bit for bit: {after[0] in before}")
