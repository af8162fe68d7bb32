"""The page of a reproduction: its tables, how the trainings went, curves, and maps of all arms side by side."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from models.metrics import CaseEvidence, froc_curve, pr_curve
from models.registry import build, registered
from models.system import System
from storage.cohort import Cohort
from tasks.engine.epoch_log import read_epochs
from tasks.maps import annotated_cases, gather_evidence
from tasks.model_files import describe_model
from tasks.reporting import Section, publish_report
from tasks.reproduction.figures import arm_curves, gallery, made_gallery, spread_cases, training_curves
from tasks.reproduction.plan import Plan
from tasks.reproduction.tables import arm_table, choice_table, effort_table, facts, gain_table, rule_table, study_table
from tasks.tracking.runs import TrackedRun
from tasks.training.report import two_columns

SEEDS = (
    "Mean over the seeds of the training with Student's 95 % interval; every other draw and the cohort are the same. "
    "The paper's figures stand beside as they were printed."
)
STUDIES = (
    "By `study` on radiomics of the lesions that an arm finds in patients it was not trained on: nested "
    "cross-validation, 95 % intervals over patients. The difference is on the patients that both have."
)
RULES = (
    "Judged by left − right, taken seed by seed: by interval where the 95 % interval of its mean leaves out 0, else by "
    "mean only."
)
GAINS = (
    "(arm − over) / over, seed by seed, with Student's 95 % interval of the mean; for each seed the difference itself, "
    "with the 95 % interval of resampling patients."
)
CHOICES = "Settings of an arm's maps, chosen on split validation with a training that no figure above comes from."
MADE = 6  # references shown
CURVES = "Seed {seed}. Pooled pixels of raw maps; FROC with connected components as candidates."
GALLERY = "Seed {seed}. Each arm has one scale over all cases shown, which stands above its maps: clear at 0."
MADE_BY = (
    "Seed {seed}. Each image is made after the vessels of the reference in its row; beside it the evidence of compact "
    "features that the arm's own classifier finds in it, one scale an arm."
)
EFFORT = "Seconds of an arm's trainings, maps and figures; a training that several share counts for the first of them."


@task(name="reproduce-report", cache_policy=NO_CACHE)
def publish_reproduction(run: TrackedRun, plan: Plan, answer: dict[str, Any]) -> Path:
    """The page, its figures and the answer, in MLflow too."""
    run.log_json(answer, "reproduction.json")
    run.tag(snapshot=answer["snapshot"], protocol=answer["protocol"], failed=str(len(answer["failed"])))
    for arm, metrics in answer["arms"].items():
        run.log_metrics({f"{arm}/{metric}": value["mean"] for metric, value in metrics.items()})
    return publish_report(
        "reproduce", run, f"Reproduction of {plan.name}, preset {plan.preset}", sections(plan, answer)
    )


def sections(plan: Plan, answer: dict[str, Any]) -> list[Section]:
    """All parts of the page."""
    paper = f" The paper: {answer['reported_on']}." if answer["reported_on"] else ""
    parts = [Section(f"Arms: {answer['metric']}", SEEDS + paper, table=arm_table(answer))]
    if answer["failed"]:
        parts.append(Section("What failed", table=pd.DataFrame(answer["failed"])))
    if answer["studies"]:
        parts.append(Section("What their lesions say of outcomes", STUDIES, table=study_table(answer)))
    if answer["expect"]:
        parts.append(Section("What was expected", RULES, table=rule_table(answer)))
    if answer["gains"]:
        parts.append(Section("Relative gains", GAINS, table=gain_table(answer)))
    if answer["choices"]:
        parts.append(Section("What was chosen", CHOICES, table=choice_table(answer)))
    return [
        *parts,
        *figure_sections(plan, answer),
        Section("What it took", EFFORT, table=effort_table(answer)),
        Section("What it stands on", answer["command"], table=two_columns(facts(answer))),
    ]


def figure_sections(plan: Plan, answer: dict[str, Any]) -> list[Section]:
    """Trainings by system; of the first seed that has any, curves and maps, and images that were synthesised."""
    seed = min(trial["seed"] for trial in answer["trials"])
    maps = {trial["arm"]: trial["maps"][0] for trial in answer["trials"] if trial["seed"] == seed}
    judged = {arm: name for arm, name in maps.items() if not system_of(plan, arm).measures}
    made = {arm: name for arm, name in maps.items() if system_of(plan, arm).synthesize is not System.synthesize}
    cohort = Cohort.open(plan.cohort)
    return [
        *training_sections(answer),
        *(map_sections(plan, cohort, judged, seed, answer["lesions"]) if judged else []),
        *([made_section(plan, cohort, made, seed)] if made else []),
    ]


def system_of(plan: Plan, arm: str) -> type[System]:
    """What an arm trains."""
    return registered(plan.system_of(arm)).system


def map_sections(plan: Plan, cohort: Cohort, maps: dict[str, str], seed: int, lesions: Sequence[str]) -> list[Section]:
    """Curves of each arm's maps, and the maps themselves."""
    evidence, cases = evidence_by_arm(plan, cohort, maps)
    curves = arm_curves(
        {arm: pr_curve(found) for arm, found in evidence.items()},
        {arm: froc_curve(found) for arm, found in evidence.items()},
        lesion_share(next(iter(evidence.values()))),
    )
    return [
        Section("Precision-recall and FROC", CURVES.format(seed=seed), figure=curves),
        Section("Image, truth, maps", GALLERY.format(seed=seed), figure=gallery(cohort, maps, cases, lesions)),
    ]


def made_section(plan: Plan, cohort: Cohort, maps: dict[str, str], seed: int) -> Section:
    """References, and what each arm makes after them."""
    lesions = plan.experiment.apart or cohort.lesions
    cases = [
        case for case in annotated_cases(cohort, list(maps.values()), plan.split) if cohort.mask(case, lesions).any()
    ]
    shown = spread_cases(cases, [], count=MADE)
    return Section("Synthesised images", MADE_BY.format(seed=seed), figure=made_gallery(cohort, maps, shown, lesions))


def evidence_by_arm(
    plan: Plan, cohort: Cohort, maps: dict[str, str]
) -> tuple[dict[str, list[CaseEvidence]], list[int]]:
    """Each arm's evidence on the cases that are evaluated, and some cases to show."""
    cases = annotated_cases(cohort, list(maps.values()), plan.split)
    evidence = gather_evidence(cohort, maps, cases, list(plan.experiment.lesions))
    has_lesions = [one.has_lesions for one in next(iter(evidence.values()))]
    wanted = [found or plan.experiment.evaluated == "all" for found in has_lesions]
    shown = spread_cases(
        [case for case, found in zip(cases, has_lesions, strict=True) if found],
        [case for case, found in zip(cases, has_lesions, strict=True) if not found],
    )
    kept = {
        arm: [one for one, is_wanted in zip(found, wanted, strict=True) if is_wanted] for arm, found in evidence.items()
    }
    return kept, shown


def lesion_share(evidence: Sequence[CaseEvidence]) -> float:
    """The share of lesion pixels among all, which is the precision of chance."""
    pixels = np.array([(case.positives.total, case.negatives.total) for case in evidence]).sum(axis=0)
    return float(pixels[0] / pixels.sum())


def training_sections(answer: dict[str, Any]) -> list[Section]:
    """A figure a system, a line a training, however many arms it serves."""
    by_system: defaultdict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    monitors: dict[str, str | None] = {}
    first = {trial["training"]: trial for trial in reversed(answer["trials"])}
    for key, trial in reversed(first.items()):
        about = describe_model(Path(trial["model"]))
        system = str(about["system"])
        name = training_name(trial, answer["trainings"][key])
        by_system[system][name] = read_epochs(Path(trial["model"]).parent)
        if system not in monitors:
            monitors[system] = list(build(system, about["config"]).stages().values())[-1].monitor
    return [
        Section(f"Trainings of {system}", figure=training_curves(trainings, monitors[system]))
        for system, trainings in by_system.items()
    ]


def training_name(trial: dict[str, Any], arms: Sequence[str]) -> str:
    """`gdc seed 0`, or `guided_backprop seed 0 and 11 more arms`."""
    more = f" and {len(arms) - 1} more" if len(arms) > 1 else ""
    return f"{trial['arm']}{more}, seed {trial['seed']}"
