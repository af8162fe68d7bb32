"""The champion's scores of cases that it has never seen."""

import numpy as np
import torch

from storage.cohort import Cohort
from tasks.map_making import best_device
from tasks.model_files import describe_model, load_model
from tasks.tracking.registry import locate_model

BATCH = 32


def champion_scores(
    cohort: Cohort, champion: str, reference: list[int], new: list[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores (R,) of held-out known cases and (N,) of new ones; None for a system that has no score.

    Those of known cases are read from the champion's maps where it has written them.
    """
    folder = locate_model(champion)
    about = describe_model(folder)
    system = load_model(folder, about).to(best_device())
    known = noted_scores(cohort, about["version"])
    noted = [known[case] for case in reference if case in known]
    old = np.array(noted) if noted else scored(cohort, system, reference[:200])
    recent = scored(cohort, system, new)
    return None if old is None or recent is None else (old, recent)


def noted_scores(cohort: Cohort, version: str) -> dict[int, float]:
    """What a model's maps note of each case's score."""
    for name in cohort.map_names():
        maps = cohort.maps(name)
        if maps.attrs.get("model") == version and "score" in maps.table:
            return dict(zip(map(int, maps.indices), maps.table["score"].astype(float), strict=True))
    return {}


@torch.no_grad()
def scored(cohort: Cohort, system: torch.nn.Module, cases: list[int]) -> np.ndarray | None:
    """Scores (N,) by one forward pass a batch."""
    found = []
    for start in range(0, len(cases), BATCH):
        images = torch.from_numpy(cohort.images(cases[start : start + BATCH])).to(best_device())
        score = system.score(images)  # type: ignore[operator]
        if score is None:
            return None
        found.append(score.float().cpu().numpy())
    return np.concatenate(found) if found else np.empty(0)
