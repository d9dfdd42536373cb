"""everlearn: models that go on learning after training, and keep what they knew."""

__version__ = "0.1.0"
