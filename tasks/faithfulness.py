"""Faithfulness of maps to the model that they explain, on a sample of cases: what `evaluate --model` adds.

Deletion, insertion and ROAD take any map; the model-randomisation test makes maps anew and takes those that a saliency
method makes alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.errors import ModelError
from models.localization.refinement import RefinementConfig
from models.metrics.bootstrap import Floats, mean_draws, patient_resamples, with_intervals
from models.metrics.faithfulness import (
    ROAD_SHARES,
    STEPS,
    area,
    deletion_curve,
    insertion_curve,
    road,
    road_curves,
)
from models.metrics.randomisation import SHARES, cascade, layers_from_output, rank_correlation, structural_similarity
from models.saliency.streaming import explained
from models.system import System
from storage.cohort import Cohort
from storage.maps import Maps
from tasks.clusters import shared_path
from tasks.localization import INITIAL, SALIENCY_FIELDS
from tasks.map_making import best_device, loaded
from tasks.model_files import describe_model
from tasks.progress import progress

SAMPLE, BATCH = 64, 16
FAITHFULNESS = ("deletion", "insertion", "road", "randomised_rank", "randomised_ssim")
PerCase = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """`values` (N,) and `curves` (N, K) of each map set by name, of the same cases in the same order.

    `randomised` (K,): shares of the model's layers, for the curves `rank` and `ssim`. `left_out`: why a map set was not
    put to the randomisation test.
    """

    cases: list[int]
    patients: list[str]
    values: dict[str, PerCase]
    curves: dict[str, PerCase]
    randomised: list[float]
    left_out: dict[str, str]

    def draws(self, name: str, resamples: int, seed: int) -> dict[str, Floats]:
        """Each metric of a map set, and of the patients' resamples (1 + R,)."""
        resampled = patient_resamples(self.patients, resamples, seed)
        return {key: mean_draws(values, resampled) for key, values in self.values[name].items()}

    def metrics(self, name: str, resamples: int, seed: int) -> dict[str, Any]:
        """`{metric: value, metric_interval: [low, high]}` of a map set."""
        return with_intervals(self.draws(name, resamples, seed))

    def difference(self, one: str, other: str, resamples: int, seed: int) -> dict[str, Any]:
        """The metrics that both have, those of `one` minus those of `other`, resampled together."""
        a, b = self.draws(one, resamples, seed), self.draws(other, resamples, seed)
        return with_intervals({key: a[key] - b[key] for key in a if key in b})

    def summary(self) -> dict[str, Any]:
        """What the answer of `evaluate` says beside the metrics: the mean curves, and what was left out."""
        return {
            "cases": len(self.cases),
            "patients": len(set(self.patients)),
            "removed": np.linspace(0, 1, STEPS + 1).tolist(),
            "road_removed": list(ROAD_SHARES),
            "layers_randomised": self.randomised,
            "curves": {
                name: {key: curve.mean(axis=0).tolist() for key, curve in curves.items()}
                for name, curves in self.curves.items()
            },
            "left_out": self.left_out,
        }


def faithfulness_of(
    cohort: Cohort, names: dict[str, str], model: str, cases: Sequence[int], seed: int, sample: int = SAMPLE
) -> Faithfulness:
    """The metrics of each map set, by short name, on at most `sample` of `cases`, drawn by `seed`.

    Raises:
        ModelError: the model gives no score, or a map set was made by another one.
    """
    system = explained_system(cohort, names, model)
    chosen = sorted(np.random.default_rng(seed).permutation(np.asarray(cases))[:sample].tolist())
    values: dict[str, PerCase] = {}
    curves: dict[str, PerCase] = {}
    left_out: dict[str, str] = {}
    randomised: list[float] = []
    for short, name in names.items():
        maps = cohort.maps(name)
        values[short], curves[short] = replaced(system, cohort, maps, chosen, seed)
        if reason := no_randomisation(maps):
            left_out[short] = reason
            continue
        randomised, likeness = randomisation(system, cohort, maps, chosen, seed)
        curves[short] |= likeness
        values[short] |= {f"randomised_{key}": curve[:, -1] for key, curve in likeness.items()}
    patients = cohort.table.loc[chosen, "patient_id"].tolist()
    return Faithfulness(chosen, patients, values, curves, randomised, left_out)


def explained_system(cohort: Cohort, names: dict[str, str], model: str) -> System:
    """The model of a folder on this process's device; ModelError where it is not what the maps explain."""
    about = describe_model(Path(model))
    for short, name in names.items():
        if (made_by := cohort.maps(name).attrs.get("model")) != about["version"]:
            raise ModelError(f"the maps {short} were made by model version {made_by}; {model} is {about['version']}")
    system = loaded(shared_path(model), about["version"])
    if "label" not in system.inputs or type(system).forward is System.forward:
        raise ModelError(f"{about['system']} gives no score, so its maps cannot be tested for faithfulness")
    return system


def no_randomisation(maps: Maps) -> str:
    """Why maps like these cannot be made anew by a saliency method alone; '' where they can."""
    method = maps.attrs.get("method")
    end = maps.name.rsplit("/", 1)[-1]
    if method == "saliency" or (method == "iterative-refinement" and end.rsplit(".", 1)[-1] == INITIAL):
        return ""
    return f"not made by a saliency method alone, but by: {method}"


@torch.no_grad()
def replaced(system: System, cohort: Cohort, maps: Maps, cases: Sequence[int], seed: int) -> tuple[PerCase, PerCase]:
    """Deletion, insertion and ROAD of each case (N,), and their curves (N, K)."""
    generator = torch.Generator(best_device()).manual_seed(seed)
    found: list[dict[str, Tensor]] = []
    with progress(f"delete and insert {maps.name}", len(cases)) as advance:
        for batch, stored in batches(cohort, cases):
            image, saliency = system.to_input(stored), saliency_of(maps, batch)
            deleted, inserted = (
                curve(score_of(system), image, saliency) for curve in (deletion_curve, insertion_curve)
            )
            most, least = road_curves(score_of(system), image, saliency, generator)
            found.append({"deletion": deleted, "insertion": inserted, "road_most": most, "road_least": least})
            advance(len(batch), "")
    joined = {key: torch.cat([part[key] for part in found]).double().cpu() for key in found[0]}
    values = {
        "deletion": area(joined["deletion"]),
        "insertion": area(joined["insertion"]),
        "road": road(joined["road_most"], joined["road_least"]),
    }
    return as_arrays(values), as_arrays(joined)


def randomisation(
    system: System, cohort: Cohort, maps: Maps, cases: Sequence[int], seed: int
) -> tuple[list[float], PerCase]:
    """Shares of layers randomised, and the likeness of each case's maps to the stored ones: `rank`, `ssim` (N, K)."""
    config = RefinementConfig(**{key: maps.attrs[key] for key in SALIENCY_FIELDS if key in maps.attrs})
    _, first = next(batches(cohort, cases[:1]))
    layers = layers_from_output(system, lambda: system(system.to_input(first)))
    shares: list[float] = []
    rank: list[Tensor] = []
    ssim: list[Tensor] = []
    with progress(f"randomise the model of {maps.name}", len(SHARES) + 1) as advance:
        for share, model in cascade(system, layers, seed):
            pairs = [
                (saliency_of(maps, batch), anew(model, stored, config)) for batch, stored in batches(cohort, cases)
            ]
            shares.append(share)
            rank.append(torch.cat([rank_correlation(*pair) for pair in pairs]))
            ssim.append(torch.cat([structural_similarity(*pair) for pair in pairs]))
            advance(1, "")
    return shares, as_arrays({"rank": torch.stack(rank, dim=1), "ssim": torch.stack(ssim, dim=1)})


def anew(model: System, stored: Tensor, config: RefinementConfig) -> Tensor:
    """Maps (B, *spatial) of stored images by the saliency method; what is no number counts as 0."""
    _, maps = explained(
        model,
        model.to_input,
        stored.cpu().numpy(),
        config.method,
        target=model.target,
        sign=config.map_sign,
        device=stored.device,
    )
    return torch.nan_to_num(torch.from_numpy(maps)).to(stored.device)


def batches(cohort: Cohort, cases: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Some cases and their stored images (B, C, *spatial) on the device; one by one where their shapes differ."""
    size = BATCH if cohort.grid is not None else 1
    for start in range(0, len(cases), size):
        batch = list(cases[start : start + size])
        yield batch, torch.from_numpy(np.stack([cohort.image(case) for case in batch])).to(best_device())


def saliency_of(maps: Maps, cases: Sequence[int]) -> Tensor:
    """(B, *spatial) on the device."""
    return torch.from_numpy(np.stack([maps.saliency(case) for case in cases])).to(best_device())


def score_of(system: System) -> Callable[[Tensor], Tensor]:
    """The score (B,) of the model's input."""
    return lambda image: system.target(system(image)).double()


def as_arrays(tensors: dict[str, Tensor]) -> PerCase:
    """On the host."""
    return {key: tensor.double().cpu().numpy() for key, tensor in tensors.items()}


def faithfulness_figure(found: Faithfulness) -> Figure:
    """Scores as pixels go, come and are imputed, and the likeness of maps as layers are randomised."""
    figure = Figure(figsize=(15, 3.6))
    deletion, insertion, removed, layers = figure.subplots(1, 4)
    shown = found.summary()
    for place, (name, curves) in enumerate(shown["curves"].items()):
        colour = f"C{place}"
        deletion.plot(shown["removed"], curves["deletion"], color=colour, label=name)
        insertion.plot(shown["removed"], curves["insertion"], color=colour, label=name)
        removed.plot(ROAD_SHARES, curves["road_most"], color=colour, label=name)
        removed.plot(ROAD_SHARES, curves["road_least"], color=colour, linestyle="--")
        if "rank" in curves:
            layers.plot([0, *found.randomised], [1, *curves["rank"]], color=colour, marker="o", label=f"{name} rank")
            layers.plot(
                [0, *found.randomised], [1, *curves["ssim"]], color=colour, linestyle="--", label=f"{name} SSIM"
            )
    _labelled(deletion, "share of pixels deleted", "score")
    _labelled(insertion, "share of pixels inserted", "score")
    _labelled(removed, "share imputed: most (—), least salient (- -)", "score")
    _labelled(layers, "share of layers randomised", "likeness to the map")
    figure.tight_layout()
    return figure


def _labelled(axes: Axes, across: str, up: str) -> None:
    axes.set(xlabel=across, ylabel=up)
    if axes.lines:
        axes.legend(fontsize=8)
