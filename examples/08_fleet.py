"""Three machines learn apart, each what it sees, and become one that has seen everything: exactly, in any order.

python examples/08_fleet.py
"""

import tempfile
from pathlib import Path

import torch

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RandomReLU
from everlearn.continual.streams import digits

torch.set_num_threads(1)
train, _, test = digits()


def machine():
    """Return a classifier that knows nothing; the seed is part of the features, so all machines have the same."""
    return Classifier(RandomReLU(64, 500, scale=1 / 16, seed=0))


def accuracy(classifier):
    """Return the share of all test images that are read right."""
    return (torch.tensor(classifier.predict(test.x)) == test.y).float().mean().item()


# every machine meets other digits: two have never seen a seven
seen = [(0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9)]
fleet = []
for number, classes in enumerate(seen):
    mine = torch.isin(train.y, torch.tensor(classes)) & (torch.arange(len(train.y)) % 3 == number)
    one = machine()
    one.learn(train.x[mine], train.y[mine])
    fleet.append((one, mine))
    print(f"machine {number}: {int(mine.sum())} images of {classes}, reads {accuracy(one):.1%} of all digits")


def merged(order):
    """Return one classifier that took over the machines in this order."""
    whole = machine()
    for number in order:
        whole.merge(fleet[number][0])
    return whole


together = machine()
anywhere = torch.stack([mine for _, mine in fleet]).any(0)
together.learn(train.x[anywhere], train.y[anywhere])
with tempfile.TemporaryDirectory() as folder:
    files = [Path(folder, name) for name in ("one", "other", "together")]
    for file, classifier in zip(files, (merged((0, 1, 2)), merged((2, 0, 1)), together), strict=True):
        classifier.save(file)
    contents = {file.read_bytes() for file in files}
print(f"merged: reads {accuracy(merged((0, 1, 2))):.1%} of all digits")
print(f"Merged in two orders, or learned in one place, the files are the same: {len(contents) == 1}")
