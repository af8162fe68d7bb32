"""`train --folds`: every case predicted by a model that never saw its patient."""

from pathlib import Path
from typing import Any

from prefect import flow

from tasks.experiments import merged, preset
from tasks.folds.draw import FoldCount
from tasks.folds.held_out import predict_held_out
from tasks.folds.plan import plan_folds
from tasks.folds.report import has_maps, made_files, report_folds
from tasks.folds.train import cross_validation_run, train_folds
from tasks.notifications import notified
from tasks.reuse import finished, remember
from tasks.tracking.registry import locate_weights


@notified
@flow(name="cross-validate", flow_run_name="{system} on {cohort}")
def cross_validate(
    system: str,
    cohort: str,
    target: str = "grade",
    folds: FoldCount = 5,
    repeats: int = 1,
    splits: list[str] | None = None,
    preset_name: str = "small",
    settings: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    seed: int = 0,
    devices: int = 1,
    initial: str | None = None,
    parallel: int | None = None,
) -> dict[str, Any]:
    """Train a model a fold, or what is missing of them; write out-of-fold maps and scores; join the models.

    `splits` are those whose cases take part, by default train and validation: test stays frozen.
    """
    chosen = preset(system, preset_name)
    plan = plan_folds(
        cohort,
        system,
        target,
        folds,
        repeats,
        splits or ["train", "validation"],
        merged(chosen["settings"], settings),
        merged(chosen["trainer"], trainer),
        seed,
        devices,
        locate_weights(initial) if initial else None,
    )
    known = finished("cross-validate", plan.key)
    if known and has_maps(plan, known["maps"]):
        return {**known, "reused": True}
    with cross_validation_run(plan) as run:
        trained = train_folds(plan, run.run_id, parallel)
        maps, scores = predict_held_out(plan, [Path(answer["model"]) for answer in trained])
        answer = report_folds(run, plan, trained, maps, scores)
    return remember("cross-validate", plan.key, answer, made_files(answer))
