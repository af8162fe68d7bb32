"""`train`: a system on a cohort's labels, in processes of its own."""

from typing import Any

from prefect import flow

from tasks.engine.launcher import Node
from tasks.experiments import merged, preset
from tasks.notifications import notified
from tasks.tracking.registry import locate_weights
from tasks.training.train import run_training, training_job


@notified
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
    nodes: int = 1,
    node_rank: int = 0,
    rendezvous: str = "",
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
        nodes=nodes,
    )
    return run_training(key, job, Node(rank=node_rank, rendezvous=rendezvous))
