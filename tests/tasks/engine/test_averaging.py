"""The average of the weights by its closed form, put in and taken out again."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule

from tasks.engine.averaging import WeightAverage


class Scalar(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_the_average_forgets_by_its_decay_and_counts_optimiser_steps_only():
    module, average = Scalar(), WeightAverage(0.9)
    average.setup(None, module, "fit")
    average.on_train_start(None, module)
    for step in (1, 2, 2, 3):  # the second of two parts of a batch comes without a step
        module.weight.data.fill_(step)
        average.on_train_batch_end(SimpleNamespace(global_step=step))
    expected = 0.1 * (3 + 2 * 0.9 + 1 * 0.9**2)
    with average.in_use():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 3


def test_the_average_goes_on_from_a_checkpoint():
    module, average = Scalar(), WeightAverage(0.5)
    average.setup(None, module, "fit")
    average.load_state_dict({"average": [torch.full((1,), 8.0, dtype=torch.float64)], "steps": 4})
    average.on_train_start(None, module)
    average.on_train_batch_end(SimpleNamespace(global_step=5))
    assert average.state_dict()["average"][0].item() == 4.0
