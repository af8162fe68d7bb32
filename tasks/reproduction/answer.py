"""The figures of a reproduction over its seeds: by arm, rule and gain, with what they stand on."""

import math
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.cohort import Cohort
from tasks.reproduction.arms import compared
from tasks.reproduction.experiment import Gain
from tasks.reproduction.folds import parts
from tasks.reproduction.loop import Outcomes
from tasks.reproduction.plan import Plan
from tasks.reproduction.rules import judged
from tasks.reproduction.runs import Answer
from tasks.reproduction.statistics import BySeedValues, estimate, relative_gains
from tasks.reproduction.studies import study_values
from tasks.tracking.provenance import git_commit
from tasks.tracking.runs import TrackedRun

PACKAGES = ("lesionflow", "torch", "monai", "lightning")


@task(name="reproduce-summary", cache_policy=NO_CACHE)
def summarised(plan: Plan, outcomes: Outcomes, studies: Answer, run: TrackedRun) -> Answer:
    """What `--json` holds: arms, reported figures, rules, gains and studies, what they were measured on and with."""
    experiment, values = plan.experiment, values_of(outcomes.done)
    return {
        "system": experiment.system,
        "experiment": plan.name,
        "preset": plan.preset,
        "seconds": round(sum(effort(outcomes.done).values()), 1),
        "metric": experiment.metric,
        "shown": list(experiment.shown),
        "arms": {arm: figures(values[arm]) for arm in plan.chosen if arm in values},
        "reported": experiment.reported,
        "reported_on": experiment.reported_on,
        "expect": [judged(rule, with_studies(values, studies)) for rule in experiment.rules],
        "gains": [gain_of(plan, gain, values, outcomes.done, run) for gain in experiment.gains],
        "studies": studies,
        "failed": outcomes.failed,
        "observers": observers(outcomes.done),
        "seeds": experiment.seeds,
        **grounds(plan, outcomes.done),
        **circumstances(),
        "run_id": run.run_id,
    }


def values_of(done: Sequence[Answer]) -> BySeedValues:
    """The finite figures by arm, metric and seed."""
    values: BySeedValues = defaultdict(lambda: defaultdict(dict))
    for trial in done:
        for metric, value in trial["metrics"].items():
            if isinstance(value, int | float) and math.isfinite(value):
                values[trial["arm"]][metric][trial["seed"]] = float(value)
    return {arm: dict(metrics) for arm, metrics in values.items()}


def with_studies(values: BySeedValues, studies: Answer) -> BySeedValues:
    """The figures by arm, metric and seed, with those of the studies."""
    of_studies = study_values(studies)
    return {arm: {**values.get(arm, {}), **of_studies.get(arm, {})} for arm in {**values, **of_studies}}


def figures(metrics: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Mean, 95 % interval and number of seeds of each metric, and the value of each seed."""
    return {
        metric: {**estimate(list(by_seed.values()))._asdict(), "values": by_seed} for metric, by_seed in metrics.items()
    }


def observers(done: Sequence[Answer]) -> dict[str, Any]:
    """Figures, with intervals over patients, of further people who marked the cases: what arms are held beside."""
    return next((trial["observers"] for trial in done if trial.get("observers")), {})


def gain_of(plan: Plan, gain: Gain, values: BySeedValues, done: Sequence[Answer], run: TrackedRun) -> dict[str, Any]:
    """(arm − over) / over over the seeds, and each seed's difference with its patient-level paired interval."""
    asked = gain.model_dump(mode="json")
    maps = {(trial["arm"], trial["seed"]): trial["maps"][0] for trial in done}
    first, second = (values.get(arm, {}).get(gain.metric, {}) for arm in (gain.arm, gain.over))
    relative = relative_gains(first, second)
    if not relative:
        return {**asked, "mean": None, "interval": None, "seeds": 0, "by_seed": {}}
    by_seed = {}
    for seed, share in relative.items():
        pair = [maps[gain.arm, seed], maps[gain.over, seed]]
        [difference] = compared(plan, pair, run)["differences"].values()
        interval = difference[f"{gain.metric}_interval"]
        by_seed[seed] = {"relative": share, "difference": difference[gain.metric], "interval": interval}
    return {**asked, **estimate(list(relative.values()))._asdict(), "by_seed": by_seed}


def grounds(plan: Plan, done: Sequence[Answer]) -> dict[str, Any]:
    """The cohort and the protocol, and the trials with their trainings."""
    experiment, cohort = plan.experiment, Cohort.open(plan.cohort)
    trainings: defaultdict[str, list[str]] = defaultdict(list)
    for trial in done:
        trainings[trial["training"]].append(f"{trial['arm']} seed {trial['seed']}")
    kept = ("arm", "seed", "run_id", "training", "training_run", "model", "model_version", "epochs", "maps", "seconds")
    return {
        "protocol": experiment.protocol,
        "evaluated": experiment.evaluated,
        "split": plan.split,
        "target": experiment.target,
        "lesions": list(experiment.lesions or cohort.lesions),
        "source": experiment.source,
        "fractions": list(cohort.fractions),
        "cohort": plan.cohort,
        "snapshot": cohort.snapshot,
        "content": plan.content,
        "cohort_cases": len(cohort),
        "cases": sum(trial["cases"] for trial in parts(plan, done, done[0]["arm"])),
        "patients": sum(trial["patients"] for trial in parts(plan, done, done[0]["arm"])),
        "seconds_by_arm": {arm: round(took, 1) for arm, took in effort(done).items()},
        "epochs": {trial["arm"]: trial["epochs"] for trial in done},
        "trainings": dict(trainings),
        "trials": [{key: trial[key] for key in kept} for trial in done],
    }


def effort(done: Sequence[Answer]) -> dict[str, float]:
    """Seconds by arm: its maps and figures, and the epochs of those trainings that it was the first to need."""
    seconds: defaultdict[str, float] = defaultdict(float)
    counted: set[str] = set()
    for trial in done:
        seconds[trial["arm"]] += trial["seconds"] - trial["training_seconds"]
        if trial["training"] not in counted:
            seconds[trial["arm"]] += trial["training_took"]
        counted.add(trial["training"])
    return seconds


def circumstances() -> dict[str, Any]:
    """When, on which machine, with which code."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": device_name(),
        "versions": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "git_commit": git_commit(),
    }


def device_name() -> str:
    """The GPU, or the processor and how many of its cores there are for this process."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{next(iter(models), platform.machine())}, {len(os.sched_getaffinity(0))} cores"
