import pytest
import torch

from models.localization.iterative_refinement import grade_loss
from models.registry import build

SMALL = {"network": {"size": 64, "stem_stride": 1, "width": 0.05, "head": [8], "normalisation": "batch"}}
PREDICTED, GRADE, WEIGHT = torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 2.0], [0.5, 1.0, 2.5]])


def test_each_case_s_error_counts_by_its_weight():
    assert grade_loss(PREDICTED, GRADE, WEIGHT).item() == pytest.approx((0.5 * 1 + 1 * 9 + 2.5 * 4) / 3)
    assert grade_loss(PREDICTED, GRADE, WEIGHT.double()).dtype == torch.float32


def test_weights_of_one_are_no_weights():
    assert grade_loss(PREDICTED, GRADE, torch.ones(3)).item() == grade_loss(PREDICTED, GRADE).item()


def test_parts_of_a_batch_have_the_batch_s_mean_loss():
    parts = [grade_loss(PREDICTED[i : i + 1], GRADE[i : i + 1], WEIGHT[i : i + 1]) for i in range(3)]
    assert torch.stack(parts).mean().item() == pytest.approx(grade_loss(PREDICTED, GRADE, WEIGHT).item())


def test_weights_count_in_training_alone(monkeypatch):
    torch.manual_seed(0)
    model = build("iterative-refinement", SMALL).eval()
    batch = {"image": torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8), "label": GRADE}
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value.item()}))
    with torch.no_grad():
        score = model.target(model(model.to_input(batch["image"])))
        model.training_step({**batch, "weight": WEIGHT}, 0)
        model.validation_step({**batch, "weight": WEIGHT}, 0)
    assert logged["train/loss"] == pytest.approx(((score - GRADE) ** 2 * WEIGHT).sum().item() / 3)
    assert logged["val/loss"] == pytest.approx(((score - GRADE) ** 2).mean().item())
