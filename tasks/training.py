"""Training: a job launched under torch.distributed elastic in processes of its own, followed into MLflow."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from models.config import validated
from models.registry import build
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.errors import TrainingError
from tasks.experiments import merged
from tasks.figures import training_curves
from tasks.model_files import WEIGHTS, describe_model, load_initial
from tasks.progress import progress
from tasks.rank import TrainerSettings, TrainingJob, loading_memory, train_rank
from tasks.reporting import Section, publish_report
from tasks.reuse import file_digest, fingerprint, write_json
from tasks.tracking import TrackedRun, flattened, register_model, tracked_run
from tasks.workspace import current_workspace

logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failure is told once, by TrainingError


def training_job(
    cohort: str,
    system: str,
    target: str,
    settings: dict[str, Any],
    trainer: dict[str, Any],
    seed: int,
    devices: int,
    initial: Path | None,
) -> tuple[str, TrainingJob]:
    """The job that the arguments describe, checked, with its fingerprint.

    Raises:
        CohortError: the cohort has no such label, or no labelled case to train or to validate on.
        ModelError: no such system or setting, or the initial weights do not fit.
    """
    opened = Cohort.open(cohort)
    grid = {"network": {"size": opened.size, "in_channels": len(opened.channels)}}
    settings = merged(grid, settings)
    built = build(system, settings)
    if initial:
        load_initial(built, initial)
    resolved = built.config.model_dump(mode="json")
    check_trainable(opened, target)
    trainer_settings = validated(TrainerSettings, trainer, where="--set trainer")
    key = fingerprint(
        "train",
        cohort=opened.content_digest(),
        system=system,
        config=resolved,
        target=target,
        trainer=trainer_settings.model_dump(mode="json"),
        seed=seed,
        devices=devices,
        initial=initial_digest(initial),
    )
    return key, TrainingJob(
        cohort=str(opened.path),
        snapshot=opened.snapshot,
        system=system,
        config=resolved,
        target=target,
        trainer=trainer_settings,
        seed=seed,
        devices=devices,
        folder=current_workspace().runs / key[:12],
        initial=initial,
    )


def initial_digest(weights: Path | None) -> str | None:
    """SHA-256 of the weights a training starts from."""
    return file_digest(weights / WEIGHTS if weights.is_dir() else weights) if weights else None


def check_trainable(cohort: Cohort, target: str) -> None:
    """Complain in one line where there is nothing to learn from."""
    if target not in cohort.labels:
        raise CohortError(
            f"{cohort.path} has no label {target!r}; it has: {', '.join(cohort.labels) or 'none'}. Choose by --target."
        )
    known = cohort.table[cohort.table[target].notna()]["split"].value_counts()
    for split in ("train", "validation"):
        if not known.get(split):
            raise CohortError(f"{cohort.path} has no case with {target!r} in its {split} split")


@task(name="train-system", task_run_name="{job.system}")
def run_training(key: str, job: TrainingJob) -> dict[str, Any]:
    """Train, or go on where a killed run of the same job stopped; the model's address and its best epoch.

    LoadingError before the start where loading cannot fit into memory.
    """
    memory = loading_memory(job)
    memory.check()
    print(memory.line(), file=sys.stderr, flush=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    job_file = write_json(job.folder / "job.json", job.model_dump(mode="json"))
    known = job.folder / "mlflow_run"
    resume = known.read_text() if known.exists() else None
    tags = {"snapshot": job.snapshot, "cohort": job.cohort, "system": job.system, "fingerprint": key}
    with tracked_run("train", job.model_dump(mode="json"), resume=resume, **tags) as run:
        known.write_text(run.run_id)
        with followed(job, run):
            launch(job, job_file)
        about = describe_model(job.folder / "model")
        best = best_epoch(job.folder)
        run.log_file(job.folder / "model", "model")
        run.log_file(job.folder / "epochs.jsonl")
        run.log_metrics({f"best/{name}": value for name, value in best.items()})
        run.tag(model_version=about["version"])
        version = register_model(run.client, job.system, run.run_id)
        page = publish_training(run, job, best)
    return {
        "run_id": run.run_id,
        "model": str(job.folder / "model"),
        "model_version": about["version"],
        "registered": f"{job.system} version {version}",
        "epochs": len(read_epochs(job.folder)),
        "best": best,
        "report": str(page),
    }


def model_files(job: TrainingJob) -> list[Path]:
    """What a finished job leaves that others build on."""
    return sorted((job.folder / "model").iterdir())


def publish_training(run: TrackedRun, job: TrainingJob, best: dict[str, float]) -> Path:
    """Curves and settings as a page."""
    settings = pd.DataFrame(flattened(job.model_dump(mode="json")).items(), columns=["setting", "value"])
    sections = [
        Section("Best epoch", table=pd.DataFrame([best])),
        Section("Curves", figure=training_curves(read_epochs(job.folder))),
        Section("Settings", table=settings.astype(str)),
    ]
    return publish_report("train", run, f"Training of {job.system}", sections)


def launch(job: TrainingJob, job_file: Path) -> None:
    """Run the ranks to their end.

    Raises:
        TrainingError: with the first failing rank's own exception; its whole traceback is in the run's `logs`.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.devices,
        run_id=job.folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(job.folder / "logs"), redirects=Std.ALL),
    )
    (job.folder / "logs").mkdir(exist_ok=True)
    try:
        elastic_launch(config, train_rank)(str(job_file))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message
        text = message.get("message", message) if isinstance(message, dict) else message
        raise TrainingError(f"rank {rank}: {str(text).splitlines()[0]} (logs in {job.folder / 'logs'})") from error


@contextmanager
def followed(job: TrainingJob, run: TrackedRun) -> Iterator[None]:
    """Show and log epochs as the ranks write them."""
    stop = threading.Event()
    follower = threading.Thread(target=follow_epochs, args=(job, run, stop), daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()


def follow_epochs(job: TrainingJob, run: TrackedRun, stop: threading.Event) -> None:
    """Log every epoch once; after `stop`, what is left."""
    seen = 0
    with progress(f"train {job.system}", job.trainer.max_epochs) as advance:
        while True:
            last_look = stop.wait(0.5)
            epochs = read_epochs(job.folder)
            for epoch in epochs[seen:]:
                run.log_metrics({k: v for k, v in epoch.items() if k != "epoch"}, step=int(epoch["epoch"]))
                advance(1, f"val/loss {epoch.get('val/loss', float('nan')):.3f}")
            seen = len(epochs)
            if last_look:
                return


def read_epochs(folder: Path) -> list[dict[str, float]]:
    """The epochs a run has finished; of one run twice (killed before its checkpoint) the later."""
    file = folder / "epochs.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return list({epoch["epoch"]: epoch for epoch in map(json.loads, filter(_is_whole, lines))}.values())


def best_epoch(folder: Path) -> dict[str, float]:
    """The epoch whose weights the model folder holds: the lowest validation loss."""
    return min(read_epochs(folder), key=lambda epoch: epoch["val/loss"])


def _is_whole(line: str) -> bool:
    return line.endswith("}")
