"""The page of a finished training: what was trained, its curves and samples, and how its scores agree with labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.metrics.bootstrap import mean_draws, patient_resamples, with_intervals
from models.metrics.scores import label_kind, score_metrics
from storage.cohort import Cohort
from tasks.engine.data import training_cases
from tasks.engine.job import TrainingJob
from tasks.engine.samples import VALIDATION
from tasks.evaluation import with_interval
from tasks.reporting import Section, publish_report
from tasks.tracking.runs import TrackedRun, flattened
from tasks.training.figures import by_stage, logged_curves, outcome_figure, outcome_kind, pace_curves
from tasks.training.samples import Sample, common_scale, read_sample, sample_figure, samples_by_epoch

RESAMPLES = 1000
CURVES = "Solid: validation cases; dotted: training cases. The grey line marks the epoch that was kept."
PACE = "Epochs are counted on from stage to stage; a dotted line is where the next stage begins."
OPTIMISTIC = "validation, used to choose the epoch: optimistic"
METRIC_NAMES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "kappa": "quadratic kappa (score rounded)",
    "auc": "AUC (the greater label)",
    "auc_referable": "AUC (label > 1)",
    "brier": "Brier score",
}


def publish_training(
    run: TrackedRun, job: TrainingJob, epochs: Sequence[Mapping[str, Any]], best: Mapping[str, Any]
) -> Path:
    """The page, its figures and the validation metrics, in MLflow too; `best` is the epoch that was kept."""
    cohort = Cohort.open(job.cohort, job.snapshot)
    sections = [
        Section("What was trained", table=two_columns(facts(job, cohort, epochs))),
        Section("The epoch that was kept", "Epochs count from 0.", table=two_columns(best)),
        Section("Losses and other logged values", CURVES, figure=logged_curves(epochs, best)),
        Section("Learning rate and pace", PACE if len(by_stage(epochs)) > 1 else "", figure=pace_curves(epochs)),
        *sample_sections(job, cohort, list(by_stage(epochs))),
        *validation_sections(run, job, cohort),
        Section("Settings", table=two_columns(flattened(job.model_dump(mode="json")))),
    ]
    return publish_report("train", run, f"Training of {job.system}", sections)


def two_columns(values: Mapping[str, Any]) -> pd.DataFrame:
    """Names and values; numbers to four digits."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return pd.DataFrame({"": list(shown), "value": list(shown.values())})


def facts(job: TrainingJob, cohort: Cohort, epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was trained on what, where, and how fast."""
    seconds = np.array([line["seconds"] for line in epochs])
    counts = {split: len(training_cases(cohort, job, split)) for split in ("train", "validation")}
    stages = {stage: len(lines) for stage, lines in by_stage(epochs).items()}
    return {
        "system": job.system,
        "cohort": job.cohort,
        "snapshot": job.snapshot,
        "target": job.target,
        "training cases": counts["train"],
        "validation cases": counts["validation"],
        "epochs": ", ".join(f"{count} {stage}" if len(stages) > 1 else f"{count}" for stage, count in stages.items()),
        "optimiser steps": epochs[-1]["step"],
        "seconds": f"{seconds.sum():.0f}",
        "images a second": f"{weighted(epochs, 'images_per_second', seconds):.4g}",
        "time spent waiting for data": f"{weighted(epochs, 'waiting', seconds):.1%}",
        "device": device(job),
        "seed": job.seed,
        **({"started from": job.initial} if job.initial else {}),
    }


def weighted(epochs: Sequence[Mapping[str, Any]], name: str, seconds: np.ndarray) -> float:
    """The mean of a value over the time of the training."""
    return float(np.average([line[name] for line in epochs], weights=seconds if seconds.any() else None))


def device(job: TrainingJob) -> str:
    """How many of which, on the machine that follows the training."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU process"
    return f"{job.world_size} × {name}" + (f" on {job.nodes} nodes" if job.nodes > 1 else "")


def sample_sections(job: TrainingJob, cohort: Cohort, stages: Sequence[str]) -> list[Section]:
    """Every kind of answer by epoch, for each stage; of a system that has only a score, the cases with their scores."""
    known = [sample for file in sorted((job.folder / "samples").glob("[!.]*.npz")) if (sample := read_sample(file))]
    parts = []
    for stage in stages:
        samples = sorted((sample for sample in known if sample.stage == stage), key=lambda sample: sample.epoch)
        of = f" of stage {stage}" if len(stages) > 1 else ""
        for name in dict.fromkeys(name for sample in samples for name in sample.answers):
            heading = f"Validation cases by epoch: {name.replace('_', ' ')}{of}"
            parts.append(Section(heading, scale_words(samples, name), figure=samples_by_epoch(samples, name, cohort)))
        if samples and not samples[-1].answers:
            parts.append(Section(f"Validation cases{of}", figure=sample_figure(samples[-1], cohort)))
    return parts


def scale_words(samples: Sequence[Sample], name: str) -> str:
    """How the colours of an answer are to be read."""
    outlined = "Blue outlines on the images: true lesions, where they are known. "
    if name == "predicted_image":
        return outlined + "The answers have the grey values of their image."
    scale = common_scale(samples, name)
    return outlined + f"All maps share one scale: clear at 0 and below, full heat at {scale:.3g}."


def validation_sections(run: TrackedRun, job: TrainingJob, cohort: Cohort) -> list[Section]:
    """How the final scores agree with the labels of the validation cases, where the system gives scores."""
    if not (job.folder / VALIDATION).exists():
        return []
    with np.load(job.folder / VALIDATION) as arrays:
        case, label, score = arrays["case"], arrays["label"].astype(float), arrays["score"].astype(float)
    usable = np.isfinite(label) & np.isfinite(score)
    if not usable.any():
        return []
    case, label, score = case[usable], label[usable], score[usable]
    known = cohort.label(job.target)
    known = known[np.isfinite(known)]
    metrics = validation_metrics(label, score, cohort.table["patient_id"].iloc[case].tolist(), known)
    run.log_metrics({f"validation/{name}": value for name, value in metrics.items()})
    words = f"{len(label)} cases ({OPTIMISTIC}). 95 % intervals by resampling patients."
    lost = "" if usable.all() else f" Left out for want of a finite label or score: {np.count_nonzero(~usable)}."
    table = pd.DataFrame(
        [
            {"metric": METRIC_NAMES[name], OPTIMISTIC: with_interval(metrics, name)}
            for name in METRIC_NAMES
            if name in metrics
        ]
    )
    return [Section("Agreement with the labels", words + lost, table, outcome_figure(label, score, known))]


def validation_metrics(
    label: np.ndarray, score: np.ndarray, patients: Sequence[str], known: np.ndarray
) -> dict[str, Any]:
    """The metrics of the label's kind, which its `known` values tell, with their intervals.

    Probabilities have the Brier score, mean (label − score)², too.
    """
    metrics: dict[str, Any] = score_metrics(label, score, patients, label_kind(known), resamples=RESAMPLES)
    if outcome_kind(known, score) == "probability":
        metrics |= with_intervals(
            {"brier": mean_draws((label - score) ** 2, patient_resamples(patients, RESAMPLES, 0))}
        )
    return metrics
