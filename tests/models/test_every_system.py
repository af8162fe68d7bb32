"""One integration test over every registered system: fit two steps, predict, save, load, predict the same."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from models.registry import build, systems
from tasks.model_files import load_model, save_model

SIZE = 64
SMALL = {
    "iterative-refinement": {
        "network": {"size": SIZE, "stem_stride": 1, "width": 0.1, "normalisation": "batch", "head": [8], "head_pool": 1}
    }
}


def cases(count: int) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return [{"image": image, "label": torch.tensor(float(i % 5)), "case": i} for i, image in enumerate(images)]


OWN = [name for name, entry in systems().items() if entry.system.__module__.startswith("models.")]


@pytest.mark.parametrize("name", OWN)
def test_system_fits_predicts_saves_and_predicts_the_same_when_loaded(name, tmp_path):
    torch.manual_seed(0)
    trained = build(name, SMALL[name])
    trainer = Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    before = [parameter.clone() for parameter in trained.parameters()]
    trainer.fit(trained, DataLoader(cases(8), batch_size=4), DataLoader(cases(4), batch_size=4))
    assert any(not torch.equal(old, new) for old, new in zip(before, trained.parameters(), strict=True))

    save_model(tmp_path, name, trained.config.model_dump(mode="json"), trained.state_dict())
    batch = next(iter(DataLoader(cases(4), batch_size=4)))
    predicted, again = trained.eval().predict_step(batch, 0), load_model(tmp_path).predict_step(batch, 0)
    assert predicted.keys() == again.keys()
    for key in predicted:
        assert torch.equal(predicted[key], again[key]), key
