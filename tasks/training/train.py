"""Training: what is to be trained, checked; the training processes followed into MLflow; the model they leave."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from prefect import task

from models.config import validated
from models.errors import ModelError
from models.registry import build, registered
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.engine.data import learnt_lesions, loading_memory, part_size, training_cases
from tasks.engine.epoch_log import read_epochs
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.engine.launcher import ONLY_NODE, Node
from tasks.errors import TrainingError
from tasks.experiments import merged
from tasks.model_files import WEIGHTS, describe_model, load_initial
from tasks.reuse import file_digest, fingerprint, finished, remember, write_json
from tasks.tracking.registry import register_model
from tasks.tracking.runs import TrackedRun, tracked_run
from tasks.training.follow import followed
from tasks.training.launch import run_job
from tasks.training.report import publish_training
from tasks.workspace import current_workspace

SIDE_BY_SIDE = ("repeat", "fold", "trial", "arm", "seed")  # tags that tell trainings of one flow apart
Cases = Mapping[Literal["train", "validation"], tuple[int, ...]]
OnEpoch = Callable[[dict[str, Any]], None]


def training_job(
    cohort: str,
    system: str,
    target: str,
    settings: dict[str, Any],
    trainer: dict[str, Any],
    seed: int,
    devices: int,
    initial: Path | None,
    *,
    cases: Cases | None = None,
    nodes: int = 1,
) -> tuple[str, TrainingJob]:
    """The job that the arguments describe, checked, with its fingerprint.

    Raises:
        CohortError: the cohort has no such label, or no labelled case to train or to validate on.
        ModelError: no such system or setting, the batch cannot be divided, or the initial weights do not fit or are
            missing.
    """
    opened = Cohort.open(cohort)
    settings = merged({"network": network_of(opened)}, settings)
    built = build(system, settings)
    if initial:
        load_initial(built, initial)
    elif built.starts_from:
        raise ModelError(f"{system} starts from a trained model of {built.starts_from}: give one by --init MODEL")
    trainer_settings = validated(TrainerSettings, trainer, where="--set trainer")
    described = TrainingJob(
        cohort=str(opened.path),
        snapshot=opened.snapshot,
        system=system,
        config=built.config.model_dump(mode="json"),
        target=target,
        trainer=trainer_settings,
        seed=seed,
        devices=devices,
        nodes=nodes,
        folder=current_workspace().runs,
        initial=initial,
        cases=None if cases is None else {split: tuple(chosen) for split, chosen in cases.items()},
    )
    check_trainable(opened, described, list(built.stages()))
    key = job_key(opened, described)
    return key, described.model_copy(update={"folder": current_workspace().runs / key[:12]})


def network_of(cohort: Cohort) -> dict[str, Any]:
    """What a network has to know of the cohort it is trained on."""
    size = {"size": cohort.size} if cohort.grid and len(set(cohort.grid)) == 1 else {}
    return {**size, "in_channels": len(cohort.channels)}


def job_key(cohort: Cohort, job: TrainingJob) -> str:
    """The job's fingerprint: what is learnt, from what, and by how many processes; not where it lies."""
    described = job.model_dump(mode="json", exclude={"cohort", "snapshot", "folder", "initial"})
    return fingerprint("train", content=cohort.content_digest(), initial=initial_digest(job.initial), **described)


def initial_digest(weights: Path | None) -> str | None:
    """SHA-256 of the weights a training starts from."""
    return file_digest(weights / WEIGHTS if weights.is_dir() else weights) if weights else None


def check_trainable(cohort: Cohort, job: TrainingJob, stages: list[str]) -> None:
    """Complain in one line where there is nothing to learn from, or where the settings do not fit together."""
    keys = registered(job.system).system.inputs
    if "label" in keys and job.target not in cohort.labels:
        known = ", ".join(cohort.labels) or "none"
        raise CohortError(f"{cohort.path} has no label {job.target!r}; it has: {known}. Choose by --target.")
    if "mask" in keys:
        learnt_lesions(cohort, job)
    counts = {split: len(training_cases(cohort, job, split)) for split in ("train", "validation")}
    missing = [split for split, count in counts.items() if not count]
    if missing:
        what = f"with {job.target!r} " if "label" in keys else ""
        raise CohortError(f"{cohort.path} has no case {what}in its {missing[0]} split")
    if unknown := sorted(set(job.trainer.stages) - set(stages)):
        raise ModelError(f"{job.system} has no stage {unknown[0]!r}; it has: {', '.join(stages)}")
    for stage in stages:
        settings = job.trainer.of_stage(stage)
        patches = settings.patches_per_case if settings.patch else 1
        part_size(settings, job.world_size, counts["train"] * patches)


def job_monitor(job: TrainingJob) -> tuple[str, Literal["min", "max"]]:
    """The value that tells the best epoch of the job's last stage, and which way is better.

    Raises:
        ModelError: its last epoch counts, whatever it logs.
    """
    _, last = list(build(job.system, job.config).stages().items())[-1]
    if last.monitor is None:
        raise ModelError(f"{job.system} does not say by which value its epochs are compared")
    return last.monitor, last.monitor_mode


@task(name="train-system", task_run_name="{job.system}")
def run_training(key: str, job: TrainingJob, node: Node = ONLY_NODE) -> dict[str, Any]:
    """Train, or go on where a killed run of the same job stopped; the model's address and its best epoch."""
    return follow_node(job, node) if node.rank else train_tracked(key, job, node=node)


def train_tracked(
    key: str,
    job: TrainingJob,
    *,
    parent: str | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    register: bool = True,
    tags: Mapping[str, str] | None = None,
    node: Node = ONLY_NODE,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train in processes of their own with an MLflow run, nested under run `parent`; a finished job answers at once.

    `on_epoch` gets each epoch as it ends and may raise: the training then writes a checkpoint and stops. Safe in
    several threads. LoadingError before the start where loading cannot fit into memory.
    """
    if known := finished("train", key):
        return {**known, "reused": True}
    memory = loading_memory(job)
    memory.check()
    print(memory.line(), file=sys.stderr, flush=True)
    write_json(job.file, job.model_dump(mode="json"))
    marks = {"snapshot": job.snapshot, "cohort": job.cohort, "system": job.system, "fingerprint": key, **(tags or {})}
    known_run = job.folder / "mlflow_run"
    resume = known_run.read_text() if known_run.exists() else None
    with tracked_run(
        "train", job.model_dump(mode="json"), resume=resume, parent=parent, system_metrics=True, **marks
    ) as run:
        known_run.write_text(run.run_id)
        run.log_dataset(Cohort.open(job.cohort, job.snapshot), "training")
        which = "".join(f", {name} {value}" for name, value in (tags or {}).items() if name in SIDE_BY_SIDE)
        with followed(job, run, on_epoch, which) as look:
            run_job(job, look, node, environment)
        answer = leave(run, job, register)
    return remember("train", key, answer, model_files(job))


def leave(run: TrackedRun, job: TrainingJob, register: bool) -> dict[str, Any]:
    """Log the model and the report of a finished training; what its command answers."""
    about, epochs, best = describe_model(job.folder / "model"), read_epochs(job.folder), best_epoch(job)
    run.log_model(job.folder / "model")
    run.log_file(job.folder / "epochs.jsonl")
    run.log_metrics({f"best/{name}": value for name, value in best.items()})
    run.tag(model_version=about["version"])
    version = register_model(run.client, job.system, run.run_id) if register else None
    return {
        "run_id": run.run_id,
        "model": str(job.folder / "model"),
        "model_version": about["version"],
        **({"registered": f"{job.system} version {version}"} if register else {}),
        "epochs": len(epochs),
        "best": best,
        "report": str(publish_training(run, job, epochs, best)),
    }


def follow_node(job: TrainingJob, node: Node) -> dict[str, Any]:
    """This node's share of a training that the node of rank 0 keeps track of."""
    if not job.file.exists():
        raise TrainingError(f"{job.file} is not there: start node 0 first, with the same command and workspace folder")
    run_job(job, node=node)
    return {"model": str(job.folder / "model")}


def model_files(job: TrainingJob) -> list[Path]:
    """What a finished job leaves that others build on."""
    return sorted((job.folder / "model").iterdir())


def best_epoch(job: TrainingJob) -> dict[str, Any]:
    """The epoch of the last stage whose weights the model folder holds."""
    epochs = read_epochs(job.folder)
    last = [epoch for epoch in epochs if epoch["stage"] == epochs[-1]["stage"]]
    stage = build(job.system, job.config).stages()[last[0]["stage"]]
    name = stage.monitor
    if name is None:
        return last[-1]
    choose = min if stage.monitor_mode == "min" else max
    return choose(last, key=lambda epoch: float(epoch[name]))
