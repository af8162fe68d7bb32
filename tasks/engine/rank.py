"""What one training process does: every stage of the job in turn, from where a killed process left it."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy

from models.errors import ModelError
from models.registry import build
from models.system import Stage, System
from storage.cohort import Cohort
from storage.loading import explained_failures
from tasks.engine.averaging import WeightAverage
from tasks.engine.checkpoint_files import FINISHED, newest_whole
from tasks.engine.checkpoints import Checkpoints, WholeFiles, load_weights
from tasks.engine.data import CohortData, channels_last
from tasks.engine.epoch_log import EpochLog
from tasks.engine.interruption import die_with_parent
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.engine.samples import Samples, predict_validation
from tasks.model_files import load_initial, save_model

PRECISION = {"64": "64-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train_rank(job_file: str, launcher: int, accumulate: int) -> None:
    """Train the job's system on this rank's share; rank 0 writes the model folder."""
    die_with_parent(launcher, signal.SIGKILL)
    job = job_with(job_file, accumulate)
    torch.set_num_threads(threads_of(job))
    seed_everything(job.seed, verbose=False)
    system = build(job.system, job.config)
    if job.initial:
        load_initial(system, job.initial)
    names = list(system.stages())
    for number, name in enumerate(names):
        finished = stage_folder(job, name) / FINISHED
        if finished.exists():
            load_weights(system, finished)
        else:
            fit_stage(job, system, name, number, len(names))
    if int(os.environ["RANK"]) == 0:
        leave_model(job, system)


def threads_of(job: TrainingJob) -> int:
    """What OMP_NUM_THREADS says, or this rank's share of the cores that the process may use."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, len(os.sched_getaffinity(0)) // job.devices)


def job_with(job_file: str, accumulate: int) -> TrainingJob:
    """The job, with its batches in as many parts as the launcher found to fit into memory."""
    job = TrainingJob.model_validate_json(Path(job_file).read_text())
    return job.model_copy(update={"trainer": job.trainer.in_parts(accumulate)})


def stage_folder(job: TrainingJob, stage: str) -> Path:
    """Where a stage keeps its checkpoints and what it hands on."""
    return job.folder / "stages" / stage


def fit_stage(job: TrainingJob, system: System, name: str, number: int, stages: int) -> None:
    """Train one stage to its end; the system has the weights that it hands on."""
    settings, stage = job.trainer.of_stage(name), system.stages()[name]
    folder, rank = stage_folder(job, name), int(os.environ["RANK"])
    prepare_networks(stage, settings)
    data = CohortData(job, settings, derived_seed(job.seed, number), rank)
    average = WeightAverage(settings.ema) if settings.ema else None
    keeper = Checkpoints(folder, system, stage.monitor, stage.monitor_mode, settings.checkpoint_minutes, average)
    callbacks: list[Callback] = [Reseed(job.seed, number, rank), *filter(None, [average])]
    callbacks.append(EpochLog(job, settings, name, number, stages))
    if settings.patch is None:
        callbacks.append(Samples(job, system, name, settings.max_epochs, average, data.indices["validation"]))
    if settings.patience and stage.monitor:
        callbacks.append(EarlyStopping(stage.monitor, patience=settings.patience, mode=stage.monitor_mode))
    trainer = stage_trainer(job, settings, stage, [*callbacks, keeper])
    data.position = lambda: position(trainer)
    known = newest_whole(folder)
    with explained_failures():
        trainer.fit(stage, data, ckpt_path=known, weights_only=True)
    keeper.finish(trainer)


def stage_trainer(job: TrainingJob, settings: TrainerSettings, stage: Stage, callbacks: list[Callback]) -> Trainer:
    """Lightning's Trainer for one stage; one that steps its optimisers by itself clips gradients by itself, too.

    Raises:
        ModelError: such a stage would take each part of a batch as a batch.
    """
    by_itself = not stage.automatic_optimization
    if by_itself and settings.accumulate > 1:
        raise ModelError(
            f"{job.system} alternates its optimisers, so its batches cannot come in parts: lower batch_size"
        )
    on_gpu = torch.cuda.is_available()
    return Trainer(
        accelerator="auto",
        devices=job.devices,
        num_nodes=job.nodes,
        strategy=DDPStrategy(find_unused_parameters=by_itself) if job.world_size > 1 else "auto",
        precision=PRECISION[settings.precision],
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=None if by_itself else settings.gradient_clip,
        deterministic=settings.deterministic,
        sync_batchnorm=on_gpu and job.world_size > 1,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=job.folder,
    )


def prepare_networks(stage: Stage, settings: TrainerSettings) -> None:
    """Channels last and compilation, where asked."""
    for network in stage.children():
        if settings.channels_last:
            dimensions = max((weight.ndim for weight in network.parameters()), default=0)
            if dimensions in (4, 5):
                network.to(memory_format=channels_last(dimensions))
        if settings.compile:
            network.compile()


def position(trainer: Trainer) -> tuple[int, int]:
    """The epoch, and how many parts of its batches a checkpoint says are done."""
    loop = trainer.fit_loop
    done = loop.epoch_loop.batch_progress.current.processed
    inside = loop.restarting and done < len(trainer.datamodule.batches())
    return loop.epoch_progress.current.processed, done if inside else 0


class Reseed(Callback):
    """What is random inside a step (dropout, noise) is drawn from (seed, stage, epoch, batch, rank) alone."""

    def __init__(self, seed: int, stage: int, rank: int) -> None:
        self.key = (seed, stage, rank)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Stage, batch: object, batch_idx: int) -> None:
        """Before each part of a batch."""
        self._seed(trainer.current_epoch, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: Stage) -> None:
        """Before each validation."""
        self._seed(trainer.current_epoch, 0)

    def _seed(self, *place: int) -> None:
        seed = derived_seed(*self.key, *place)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 what others' code may draw from


def derived_seed(*key: int) -> int:
    """One number out of several."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def leave_model(job: TrainingJob, system: System) -> None:
    """The model folder, and the final scores of the validation cases."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    cohort = Cohort.open(job.cohort, job.snapshot)
    image = {"dtype": str(cohort.dtype), "channels": cohort.channels, "dims": cohort.dims, "grid": cohort.grid}
    about = {"target": job.target, "seed": job.seed, "snapshot": job.snapshot, "image": image}
    save_model(job.folder / "model", job.system, job.config, system.state_dict(), **about)
    if job.trainer.patch is None:
        data = CohortData(job, job.trainer, job.seed)
        predict_validation(job, system.float(), data.indices["validation"], device)
