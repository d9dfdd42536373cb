"""Our optimizers in the Trainer of transformers, where accelerate is installed."""

import pytest
import torch
from torch import nn

from tests.optim.cases import CASES, batch, groups_of, model, weights


@pytest.mark.parametrize("case", [CASES["m3"], CASES["muon"]], ids=["m3", "muon"])
def test_it_works_in_the_trainer_of_transformers(case, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model(torch.float32)

        def forward(self, x, labels=None):
            said = self.layers(x)
            return {"loss": (said - labels).square().mean(), "logits": said}

    data = [{"x": x, "labels": y} for step in range(20) for x, y in zip(*batch(step, dtype=torch.float32), strict=True)]
    network = Network()
    optimizer = case.make(groups_of(network, case), lr=0.05)
    arguments = TrainingArguments(
        tmp_path, max_steps=15, per_device_train_batch_size=8, report_to=[], use_cpu=True, save_steps=7
    )
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 15)
    before = weights(network)
    Trainer(network, arguments, train_dataset=data, optimizers=(optimizer, scheduler)).train()
    assert not torch.equal(weights(network), before)
