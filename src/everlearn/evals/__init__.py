"""Yardsticks: what stands beside a model's numbers so that they mean something."""
