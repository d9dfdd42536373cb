"""Intents of customers' messages: a new one at any time, reasons for an answer, and a record taken back by its id.

python examples/07_intents.py [ENCODER]

ENCODER is a sentence encoder of Hugging Face, as a folder or a name; without it, features are hashed spelling, which
need no download and know no meaning.
"""

import sys
import tempfile
from pathlib import Path

import torch

from everlearn.continual import Classifier, HashedText
from everlearn.continual.encoders import HFEncoder
from everlearn.memory.precision import PrecisionMemory

torch.set_num_threads(1)
encoder = HFEncoder(sys.argv[1]) if len(sys.argv) > 1 else HashedText(512)
MESSAGES = {
    "refund": ["I want my money back", "please refund my order", "a refund for the broken lamp, please"],
    "crash": ["the app crashes at start", "it crashed when I logged in", "the program crashes all the time"],
}
LATER = {"delivery": ["where is my parcel", "the parcel has not arrived", "when will my parcel come"]}

with tempfile.TemporaryDirectory() as folder:
    ledger, state = Path(folder, "ledger.sqlite"), Path(folder, "intents.safetensors")
    # so few records say little about how messages differ: a prior that all features do so equally helps
    classifier = Classifier(encoder, PrecisionMemory(encoder.dim, shrinkage=0.9), ledger=ledger)
    ids = {}
    for messages in (MESSAGES, LATER):
        for intent, texts in messages.items():
            ids |= zip(texts, classifier.learn(texts, [intent] * len(texts)), strict=True)
        print(f"knows {', '.join(classifier.labels)}")

    question = "my parcel is late"
    (why,) = classifier.explain([question], top=2)
    first, second = why.classes
    text_of = {one: text for text, one in ids.items()}
    print(f"{question!r} is {first.label}, and rather {second.label} than the third")
    print(f"because of {text_of[why.records[0][0]]!r}")

    # someone withdraws a message: by its id, without the message
    classifier.forget_records([ids["when will my parcel come"]])
    classifier.save(state)
    back = Classifier.load(state, encoder, ledger=ledger)
    print(f"after forgetting one, delivery has {back.counts['delivery']} records: {back.predict([question])[0]}")
    print(
        f"bytes of sums: {back.nbytes['state']:,}; of the ledger, which holds every record: {back.nbytes['ledger']:,}"
    )
