"""One trial: an arm is trained with one seed, its maps are made and compared with the truth."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.errors import ModelError
from models.registry import registered
from models.system import System
from storage.cohort import Cohort
from storage.copying import copy_cohort
from storage.errors import CohortError
from tasks.case_figures import case_figures
from tasks.engine.epoch_log import read_epochs
from tasks.engine.job import TrainingJob
from tasks.errors import TrainingError
from tasks.evaluation import evaluate_maps
from tasks.localization import localize_own, localize_refined, localize_saliency
from tasks.maps import maps_digest
from tasks.model_files import describe_model
from tasks.reproduction.experiment import CLASSIFIER, Maps, of_group, of_lesion
from tasks.reproduction.folds import fold_of
from tasks.reproduction.plan import FOLDER, Plan, Trial, map_settings, method_of
from tasks.reproduction.runs import TRIAL, Answer, adopt, nest, trial_run
from tasks.reuse import finished, remember
from tasks.synthesis import synthesize_cohort
from tasks.tracking.runs import TrackedRun
from tasks.training.train import Cases, train_tracked, training_job
from tasks.workspace import current_workspace

RESAMPLES = 1000
BATCH_SIZE = 32
INTERVAL = "_interval"


@task(name=TRIAL, task_run_name="{trial.arm} seed {trial.seed}", cache_policy=NO_CACHE)
def run_trial(plan: Plan, trial: Trial, parent: str) -> Answer:
    """What came of an arm with a seed, an MLflow run below `parent`; at once where it is known and its maps are there.

    Raises:
        TrainingError, ModelError, CohortError, LoadingError: a step failed.
    """
    key, started = plan.trial_key(trial), time.monotonic()
    known = finished(TRIAL, key)
    if known and stands(plan, known):
        return {**known, "reused": True}
    with trial_run(plan, trial, key, parent) as run:
        trained = trained_arm(plan, trial, run.run_id)
        adopt(run, trained["run_id"], parent)
        training_seconds = round(time.monotonic() - started, 1)
        maps = made_maps(plan, trial, trained["model"], run)
        has_figures = registered(plan.system_of(trial.arm)).system.measures
        measured = measured_cases(plan, trained["model"]) if has_figures else judged_maps(plan, maps[0], run)
        answer = trial_answer(trial, run, trained, measured)
        answer |= {"maps": maps, "maps_digest": maps_digest(Cohort.open(plan.cohort), maps)}
        answer |= {"training_seconds": training_seconds, "seconds": round(time.monotonic() - started, 1)}
        note_trial(run, answer)
    return remember(TRIAL, key, answer, sorted(Path(trained["model"]).iterdir()))


def stands(plan: Plan, known: Answer) -> bool:
    """Whether the cohort has the trial's maps as they were judged."""
    cohort = Cohort.open(plan.cohort)
    there = set(known["maps"]) <= set(cohort.map_names())
    return there and maps_digest(cohort, known["maps"]) == known["maps_digest"]


def trained_arm(plan: Plan, trial: Trial, parent: str) -> Answer:
    """The arm's model, after those that its training needs; the same training is done once for all arms.

    MLflow has the training below the trial that came first.
    """
    models = {
        before: Path(trained_arm(plan, Trial(arm=before, seed=trial.seed), parent)["model"])
        for before in plan.experiment.arms[trial.arm].after.values()
    }
    key, job = arm_training(plan, trial, models)
    answer = train_tracked(key, job, parent=parent, register=False, tags={"seed": str(trial.seed)})
    return {**answer, "training": key[:12]}


def arm_training(plan: Plan, trial: Trial, models: Mapping[str, Path]) -> tuple[str, TrainingJob]:
    """The training of an arm with a seed, with its fingerprint; `models` are those that it needs, by arm."""
    arm, system = plan.experiment.arms[trial.arm], plan.system_of(trial.arm)
    initial = models[arm.initial] if arm.initial else None
    return training_job(
        with_synthetic(plan, trial, models[arm.synthetic]) if arm.synthetic else plan.cohort,
        system,
        plan.experiment.target,
        arm.settings,
        arm.trainer,
        trial.seed,
        1,
        initial,
        cases=training_cases(plan, system, trial.seed),
    )


def with_synthetic(plan: Plan, trial: Trial, model: Path) -> str:
    """The experiment's cohort with an image that `model` makes after each of its training cases."""
    name = f"{Path(plan.cohort).name}-{plan.content[:8]}-{describe_model(model)['version']}-{trial.seed}"
    enlarged = current_workspace().root / FOLDER / "cohorts" / name
    if not Cohort.exists(enlarged):
        copy_cohort(plan.cohort, enlarged)
    synthesize_cohort(str(model), plan.cohort, str(enlarged), ["train"], 1, trial.seed)
    return str(enlarged)


def training_cases(plan: Plan, system: str, seed: int) -> Cases | None:
    """The cases to train and to validate on: by the protocol all labelled ones, those of a fold, or of the splits."""
    if plan.experiment.protocol == "held_out":
        return None
    if plan.experiment.protocol == "folds":
        fold = fold_of(plan, seed)
        return {"train": fold.train, "validation": fold.validation}
    cohort, target = Cohort.open(plan.cohort), plan.experiment.target
    table = cohort.table
    labelled = "label" in registered(system).system.inputs and target in cohort.labels
    everything = tuple(map(int, table.index[table[target].notna()] if labelled else table.index))
    return {"train": everything, "validation": everything}


def made_maps(plan: Plan, trial: Trial, model: str, run: TrackedRun) -> list[str]:
    """The names of the arm's map sets over the annotated cases that are evaluated; the first is the one to judge.

    Raises:
        TrainingError: some cases could not be done.
    """
    wanted = plan.experiment.arms[trial.arm].localize
    answer = localizer(wanted, registered(plan.system_of(trial.arm)).system)(
        cohort=plan.cohort,
        model=model,
        splits=[] if plan.split == "all" else [plan.split],
        batch_size=BATCH_SIZE,
        cases=annotated_ids(plan, trial.seed),
        name=trial.arm,
    )
    nest(run, answer)
    if failed := answer["failed"]:
        count = sum(len(one["cases"]) for one in failed)
        raise TrainingError(f"{count} cases could not be localised; {failed[0]['cases'][0]}: {failed[0]['reason']}")
    return list(answer["maps"])


def localizer(wanted: Maps, system: type[System]) -> Callable[..., Answer]:
    """The step of `localize` that makes an arm's maps, with the arm's own settings.

    Raises:
        ModelError: the system makes its own maps, and is given settings that they do not take.
    """
    match method_of(wanted, system):
        case "own":
            if wanted.saliency or (wanted.settings and system.map_settings is None):
                raise ModelError(f"{system.name} makes its own maps, which take no settings; name another method")
            return partial(localize_own, settings=wanted.settings)
        case "saliency":
            return partial(localize_saliency, saliency=wanted.saliency, settings=wanted.settings)
        case _:
            return partial(localize_refined, settings=map_settings(wanted))


def annotated_ids(plan: Plan, seed: int) -> list[str]:
    """The cases that are compared with masks; of a fold, those that it holds out."""
    table = Cohort.open(plan.cohort).table
    if plan.experiment.protocol == "folds":
        table = table.loc[list(fold_of(plan, seed).held_out)]
    chosen = table[table["has_masks"] & (table["split"].eq(plan.split) | (plan.split == "all"))]
    if chosen.empty:
        raise CohortError(f"{plan.cohort} has no case with masks in split {plan.split!r} to evaluate on")
    return [str(case) for case in chosen["case_id"]]


def compared(plan: Plan, maps: list[str], run: TrackedRun, lesion: str | None = None) -> Answer:
    """What `evaluate` says of map sets; of one class of lesions, on the cases that show it."""
    experiment = plan.experiment
    lesions = [lesion] if lesion else list(experiment.lesions)
    evaluated, by = ("lesions", None) if lesion else (experiment.evaluated, experiment.by)
    answer: Answer = evaluate_maps(plan.cohort, maps, lesions, plan.split, RESAMPLES, 0, None, evaluated, by=by)
    nest(run, answer)
    if failed := answer["failed"]:
        raise TrainingError(f"some cases could not be evaluated; {failed[0]['cases'][0]}: {failed[0]['reason']}")
    return answer


def judged_maps(plan: Plan, maps: str, run: TrackedRun) -> Answer:
    """What `evaluate` says of a map set, of each class of lesions that is judged apart and each group by itself too."""
    measured = compared(plan, [maps], run)
    figures = of_one(measured)
    figures |= {f"{CLASSIFIER}{key}": value for key, value in measured["classifier"].items() if key != "cases"}
    for lesion in plan.experiment.apart:
        of_class = of_one(compared(plan, [maps], run, lesion))
        figures |= named_figures(of_class, partial(of_lesion, lesion=lesion))
    for value, group in measured.get("groups", {}).items():
        figures |= named_figures(of_one(group), partial(of_group, label=measured["by"], value=value))
    return {**measured, "figures": figures}


def of_one(measured: Answer) -> Answer:
    """The figures of the one map set that was evaluated."""
    [figures] = measured["methods"].values()
    return dict(figures)


def named_figures(figures: Answer, name: Callable[[str], str]) -> Answer:
    """Figures and their intervals by what `name` makes of the metric."""
    return {
        name(key.removesuffix(INTERVAL)) + (INTERVAL if key.endswith(INTERVAL) else ""): value
        for key, value in figures.items()
    }


def measured_cases(plan: Plan, model: str) -> Answer:
    """The figures that the arm's system has of its own, of all cases that are evaluated."""
    found = case_figures(plan.cohort, model, plan.split, resamples=RESAMPLES)
    counts = {key: found.pop(key) for key in ("cases", "patients")}
    found.pop("reused", None)
    return {**counts, "figures": found, "snapshot": Cohort.open(plan.cohort).snapshot, "report": ""}


def trial_answer(trial: Trial, run: TrackedRun, trained: Answer, measured: Answer) -> Answer:
    """What is kept of a trial: its figures with their patient-level intervals, and where they come from."""
    values, intervals = with_intervals_apart(measured["figures"])
    return {
        "arm": trial.arm,
        "seed": trial.seed,
        "run_id": run.run_id,
        "training": trained["training"],
        "training_run": trained["run_id"],
        "model": trained["model"],
        "model_version": trained["model_version"],
        "epochs": trained["epochs"],
        "training_took": round(sum(line["seconds"] for line in read_epochs(Path(trained["model"]).parent)), 1),
        "best_epoch": trained["best"].get("epoch"),
        "cases": measured["cases"],
        "patients": measured["patients"],
        "metrics": values,
        "intervals": intervals,
        "observers": measured.get("observers", {}),
        "snapshot": measured["snapshot"],
        "evaluation": measured["report"],
    }


def with_intervals_apart(figures: Answer) -> tuple[Answer, Answer]:
    """{metric: value} and {metric: interval} of what `evaluate` keeps side by side."""
    values = {key: value for key, value in figures.items() if not key.endswith(INTERVAL)}
    intervals = {key.removesuffix(INTERVAL): value for key, value in figures.items() if key.endswith(INTERVAL)}
    return values, intervals


def note_trial(run: TrackedRun, answer: Answer) -> None:
    """Log a trial's figures."""
    run.log_metrics({**answer["metrics"], "seconds": answer["seconds"]})
    run.tag(training=answer["training"], training_run=answer["training_run"], snapshot=answer["snapshot"])
    run.tag(maps=answer["maps"][0], model_version=answer["model_version"])
    run.log_json(answer, "trial.json")
