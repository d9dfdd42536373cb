"""A classifier of digits takes new classes at any time, and forgets one image exactly.

python examples/02_new_class.py
"""

import tempfile
from pathlib import Path

import torch

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RandomReLU
from everlearn.continual.streams import digits, week_of_digits

torch.set_num_threads(1)
train, _, test = digits()


def new_classifier():
    """Return a classifier of 8x8 images that knows nothing yet."""
    return Classifier(RandomReLU(64, 500, scale=1 / 16))


def accuracy(classifier):
    """Return the share of test images of the known classes that are read correctly."""
    known = torch.isin(test.y, torch.tensor(classifier.labels))
    answers = torch.tensor(classifier.predict(test.x[known]))
    return (answers == test.y[known]).float().mean().item()


# two new digits a day, each image once; nobody announces how many classes there will be
classifier = new_classifier()
for day in week_of_digits(0, train, test).experiences:
    for images, labels in day.batches(10):
        classifier.learn(images, labels)
    print(f"{day.name:<9} + {day.classes}: knows {len(classifier.labels):>2} digits, reads {accuracy(classifier):.1%}")

image, label = train.x[:1], train.y[:1]
classifier.forget(image, label)

# the other way to not know an image: never to have seen it
never = new_classifier()
never.learn(train.x[1:], train.y[1:])
with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder, name) for name in ("forgot", "never")]
    for path, one in zip(paths, (classifier, never), strict=True):
        one.save(path)
    same = paths[0].read_bytes() == paths[1].read_bytes()
print(f"After forgetting one image of a {label.item()}, the file equals one that never saw it: {same}")
