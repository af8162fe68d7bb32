"""`train`: a system on a cohort's labels, in processes of its own."""

from typing import Any

from prefect import flow

from tasks.experiments import merged, preset
from tasks.reuse import finished, remember
from tasks.tracking import locate_weights
from tasks.training import model_files, run_training, training_job


@flow(name="train", flow_run_name="{system} on {cohort}")
def train(
    system: str,
    cohort: str,
    target: str = "grade",
    preset_name: str = "small",
    settings: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    seed: int = 0,
    devices: int = 1,
    initial: str | None = None,
) -> dict[str, Any]:
    """Train, go on where a killed run stopped, or hand back the model of the same job done before."""
    chosen = preset(system, preset_name)
    key, job = training_job(
        cohort,
        system,
        target,
        merged(chosen["settings"], settings),
        merged(chosen["trainer"], trainer),
        seed,
        devices,
        locate_weights(initial) if initial else None,
    )
    if known := finished("train", key):
        return {**known, "reused": True}
    return remember("train", key, run_training(key, job), model_files(job))
