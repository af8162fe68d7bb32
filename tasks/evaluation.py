"""Evaluation: maps against truth masks on held-out cases, every number with its patient-level interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from prefect import task

from models.metrics import (
    froc_curve,
    grading_metrics,
    localization_metrics,
    paired_difference,
    pr_curve,
)
from models.registry import systems
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.evidence import Evidence, evidence_of
from tasks.failures import Failed, failed_cases, note_failures
from tasks.faithfulness import FAITHFULNESS, Faithfulness, faithfulness_figure, faithfulness_of
from tasks.figures import classification_figure, pr_and_froc
from tasks.kept import Kept, kept_answers
from tasks.maps import (
    annotated_cases,
    find_maps,
    maps_digest,
    own_thresholds,
    short_names,
    validation_evidence,
)
from tasks.model_files import describe_model
from tasks.reporting import Section, publish_report
from tasks.reuse import fingerprint, finished, remember
from tasks.segmentation import SEGMENTATION, segmentation_of
from tasks.shards import raise_error
from tasks.tracking.runs import TrackedRun, tracked_run

SHOWN = ("ap_pooled", "froc_mean", "sensitivity_at_10fp", "energy", "pointing", "dice")
MOST_GROUPS = 12


@task(name="evaluate-maps")
def evaluate_maps(
    cohort: str,
    maps: list[str],
    lesions: list[str],
    split: str,
    resamples: int,
    seed: int,
    workers: int | None = None,
    evaluated: Literal["all", "lesions"] = "all",
    model: str | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """Metrics of each map set on `split`, the difference of the first from each other one, and the grading metrics.

    With `evaluated` "lesions" the maps are compared on the cases that show one of the lesion classes alone. With the
    `model` that made the maps, they are also tested for faithfulness to it, on a sample of these cases. With the label
    `by`, there are also the metrics of the cases of each of its values.
    """
    opened = Cohort.open(cohort)
    names = short_names([find_maps(opened, wanted) for wanted in maps])
    settings = {
        "cohort": cohort,
        "maps": names,
        "lesions": lesions,
        "split": split,
        "seed": seed,
        "resamples": resamples,
    }
    if evaluated != "all":
        settings["evaluated"] = evaluated
    if model is not None:
        settings["model"] = describe_model(Path(model))["version"]
    if by is not None:
        settings["by"] = checked_label(opened, by)
    key = fingerprint(
        "evaluate", **settings, content=opened.content_digest(), made=maps_digest(opened, list(names.values()))
    )
    if known := finished("evaluate", key):
        return {**known, "reused": True}
    keep = kept_answers("evaluate", key)
    tested = gather(opened, names, lesions, split, workers, keep)
    if evaluated == "lesions":
        tested = with_lesions(tested)
    with tracked_run("evaluate", settings) as run:
        answer = {**settings, "snapshot": opened.snapshot, **measured(opened, tested, names, settings)}
        note_failures(run, tested.failed)
        found = faithfulness_of(opened, names, model, tested.cases, seed) if model is not None else None
        answer = with_segmentation(answer, opened, tested, names)
        page = publish_evaluation(run, opened, tested, with_faithfulness(answer, found), found)
    answer |= {"run_id": run.run_id, "report": str(page)}
    if tested.failed:
        return answer
    keep.clear()
    return remember("evaluate", key, answer, [page])


@dataclass(frozen=True)
class Evaluated:
    """The evidence of several map sets on the same cases; their thresholds: their own, or by validation."""

    cases: list[int]
    patients: list[str]
    evidence: Evidence
    thresholds: dict[str, float]
    failed: Failed

    def at(self, places: Sequence[int]) -> "Evaluated":
        """The cases at `places` alone, with the thresholds of all."""
        return replace(
            self,
            cases=[self.cases[place] for place in places],
            patients=[self.patients[place] for place in places],
            evidence={name: [cases[place] for place in places] for name, cases in self.evidence.items()},
        )


def gather(
    cohort: Cohort, names: dict[str, str], lesions: list[str], split: str, workers: int | None, keep: Kept
) -> Evaluated:
    """Evidence on the annotated cases of `split` that every map set has.

    Raises:
        CohortError: there is no such case, or no such lesion class.
        Exception: not one case could be done, for what its error says.
    """
    cases = annotated_cases(cohort, list(names.values()), split)
    if not cases:
        raise CohortError(f"{cohort.path} has no case in split {split!r} with both masks and all of {', '.join(names)}")
    known, evidence, lost = evidence_of(cohort, names, cases, lesions, workers=workers, keep=keep)
    if not known:
        raise_error(lost[0])
    thresholds = own_thresholds(cohort, names)
    if split == "test":
        thresholds, lost_there = validation_evidence(cohort, names, lesions, workers, keep)
        lost += lost_there
    patients = cohort.table.loc[known, "patient_id"].tolist()
    return Evaluated(known, patients, evidence, thresholds, failed_cases(cohort, lost))


def with_lesions(tested: Evaluated) -> Evaluated:
    """The cases with lesion pixels; thresholds stay those of all validation cases.

    Raises:
        CohortError: there is none.
    """
    truth = next(iter(tested.evidence.values()))
    kept = [place for place, case in enumerate(truth) if case.positives.total]
    if not kept:
        raise CohortError(f"none of the {len(tested.cases)} annotated cases shows a lesion; leave out --only-lesions")
    return tested.at(kept)


def measured(cohort: Cohort, tested: Evaluated, names: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """Metrics, paired differences, thresholds and the classifier's own figures."""
    drawn: dict[str, Any] = {"resamples": settings["resamples"], "seed": settings["seed"]}
    thresholds, methods = tested.thresholds, methods_of(tested, **drawn)
    reference, *others = methods
    differences = {
        f"{reference} - {other}": paired_difference(
            tested.evidence[reference],
            tested.evidence[other],
            tested.patients,
            thresholds=(thresholds[reference], thresholds[other]) if {reference, other} <= thresholds.keys() else None,
            **drawn,
        )
        for other in others
    }
    return {
        "cases": len(tested.cases),
        "patients": len(set(tested.patients)),
        "methods": methods,
        **({"groups": groups_of(cohort, tested, settings["by"], **drawn)} if "by" in settings else {}),
        "differences": differences,
        "empty_maps": empty_maps(tested.evidence),
        "dice_threshold": thresholds,
        "classifier": grading(cohort, names, settings["split"], **drawn),
        "failed": tested.failed,
    }


def methods_of(tested: Evaluated, **drawn: int) -> dict[str, dict[str, Any]]:
    """Metrics with intervals by map set."""
    return {
        name: localization_metrics(evidence, tested.patients, threshold=tested.thresholds.get(name), **drawn)
        for name, evidence in tested.evidence.items()
    }


def groups_of(cohort: Cohort, tested: Evaluated, by: str, **drawn: int) -> dict[str, dict[str, Any]]:
    """`{value: {"cases", "patients", "methods"}}` by the values of the label `by`; cases without it are in no group."""
    values = cohort.table.loc[tested.cases, by].to_numpy()
    groups = {}
    for value in sorted(set(values[~pd.isna(values)])):
        group = tested.at(np.flatnonzero(values == value).tolist())
        counts = {"cases": len(group.cases), "patients": len(set(group.patients))}
        groups[f"{value:g}"] = {**counts, "methods": methods_of(group, **drawn)}
    return groups


def titled_groups(answer: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """`scanner 1: 32 cases of 32 patients` and the metrics by map set, of each group."""
    return [
        (f"{answer['by']} {value}: {group['cases']} cases of {group['patients']} patients", group["methods"])
        for value, group in answer.get("groups", {}).items()
    ]


def checked_label(cohort: Cohort, by: str) -> str:
    """`by`, if the cohort has such a label, of a few values.

    Raises:
        CohortError: it has not; the line says which there are.
    """
    if by not in cohort.labels:
        known = ", ".join(cohort.labels) or "none"
        raise CohortError(f"{cohort.path} has no label {by!r} to divide the cases by; labels: {known}")
    if (count := cohort.table[by].nunique()) > MOST_GROUPS:
        raise CohortError(f"{by} has {count} values; cases are divided by labels of at most {MOST_GROUPS}")
    return by


def empty_maps(evidence: Evidence) -> dict[str, dict[str, int]]:
    """Of the cases with lesions, how many have an empty map, by map set: `{"empty": n, "of": N}`."""
    counted = {name: [bool(case.empty) for case in cases if case.has_lesions] for name, cases in evidence.items()}
    return {name: {"empty": sum(cases), "of": len(cases)} for name, cases in counted.items()}


def said_of_empty_maps(answer: dict[str, Any]) -> str:
    """`Empty maps, counted as energy 0: high 3 of 20.`, or nothing where no map is empty."""
    some = [
        f"{name} {count['empty']} of {count['of']}" for name, count in answer["empty_maps"].items() if count["empty"]
    ]
    return f"Empty maps, counted as energy 0: {', '.join(some)}." if some else ""


def with_faithfulness(answer: dict[str, Any], found: Faithfulness | None) -> dict[str, Any]:
    """`answer`, its methods and differences with the metrics of `found`, and `faithfulness` with the mean curves."""
    if found is None:
        return answer
    drawn = {"resamples": answer["resamples"], "seed": answer["seed"]}
    reference, *others = answer["methods"]
    for name, metrics in answer["methods"].items():
        metrics.update(found.metrics(name, **drawn))
    for other in others:
        answer["differences"][f"{reference} - {other}"].update(found.difference(reference, other, **drawn))
    answer["faithfulness"] = found.summary()
    return answer


def with_segmentation(
    answer: dict[str, Any], cohort: Cohort, tested: Evaluated, names: dict[str, str]
) -> dict[str, Any]:
    """`answer`, its methods with what is said of segmentation, and `observers` with another observer's figures."""
    drawn = {"resamples": answer["resamples"], "seed": answer["seed"]}
    found = segmentation_of(cohort, names, answer["lesions"], tested.cases, tested.patients, **drawn)
    for name, metrics in found.methods.items():
        answer["methods"][name].update(metrics)
    if found.methods:
        answer["segmented"], answer["observers"] = list(found.methods), found.observers
    return answer


def segmented_by(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The map sets of `answer` that a segmentation system made, and observers beside them."""
    methods = {name: answer["methods"][name] for name in answer.get("segmented", [])}
    return {**methods, **answer.get("observers", {})}


def grading(cohort: Cohort, names: dict[str, str], split: str, resamples: int, seed: int) -> dict[str, Any]:
    """How well the model's score tells the label it was trained on, over the labelled cases of `split`.

    Nothing of a system that learns no label.
    """
    maps = cohort.maps(next(iter(names.values())))
    target, known = maps.attrs.get("target"), systems().get(maps.attrs.get("system", ""))
    if target not in cohort.labels or (known is not None and "label" not in known.system.inputs):
        return {}
    scores = maps.table["score"]
    table = cohort.table.loc[scores.index]
    chosen = table[table[target].notna() & (table["split"].eq(split) | (split == "all"))]
    if chosen.empty:
        return {}
    labels, scored = chosen[target].to_numpy(float), scores.loc[chosen.index].to_numpy(float)
    patients, decides_from = chosen["patient_id"].tolist(), maps.attrs.get("decides_from")
    metrics = grading_metrics(labels, scored, patients, abnormal_from=decides_from, resamples=resamples, seed=seed)
    return {**metrics, "cases": len(chosen)}


def result_table(methods: dict[str, dict[str, Any]], keys: Sequence[str] = SHOWN) -> pd.DataFrame:
    """Method · metric [low, high], as printed and reported."""
    rows = []
    for name, metrics in methods.items():
        shown = {key: with_interval(metrics, key) for key in keys if key in metrics}
        rows.append({"method": name, **shown})
    return pd.DataFrame(rows)


def with_interval(metrics: dict[str, Any], key: str) -> str:
    """`0.412 [0.380, 0.447]`."""
    value, interval = metrics[key], metrics[f"{key}_interval"]
    if value is None or not np.isfinite(value):
        return "–"
    known = all(bound is not None and np.isfinite(bound) for bound in interval)
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]" if known else f"{value:.3f}"


def publish_evaluation(
    run: TrackedRun, cohort: Cohort, tested: Evaluated, answer: dict[str, Any], found: Faithfulness | None = None
) -> Path:
    """Metrics, curves and tables, in MLflow and as a page."""
    for name, metrics in answer["methods"].items():
        run.log_metrics({f"{name}/{key}": value for key, value in metrics.items()})
    run.log_metrics({f"classifier/{key}": value for key, value in answer["classifier"].items()})
    run.log_json(answer, "evaluation.json")
    run.tag(snapshot=answer["snapshot"])
    pr = {name: pr_curve(evidence) for name, evidence in tested.evidence.items()}
    froc = {name: froc_curve(evidence) for name, evidence in tested.evidence.items()}
    prevalence = lesion_share(tested)
    sections = [
        Section(
            f"Localisation on {answer['cases']} {answer['split']} cases of {answer['patients']} patients",
            "95 % intervals by resampling patients. Dice at the system's own threshold, else the best on validation. "
            + said_of_empty_maps(answer),
            table=result_table(answer["methods"]),
        ),
        Section("Precision-recall (pooled pixels) and FROC", figure=pr_and_froc(pr, froc, prevalence)),
    ]
    if answer["differences"]:
        sections.insert(1, Section("Paired differences", table=result_table(answer["differences"])))
    for title, methods in titled_groups(answer):
        sections.insert(-1, Section(title, table=result_table(methods)))
    if segmented := segmented_by(answer):
        sections.insert(
            1, Section("Segmentation within the field of view", table=result_table(segmented, SEGMENTATION))
        )
    if found is not None:
        sections += faithfulness_sections(found, answer)
    if answer["classifier"]:
        sections += grading_sections(cohort, tested, answer)
    return publish_report("evaluate", run, f"Evaluation of {cohort.path}", sections)


def lesion_share(tested: Evaluated) -> float:
    """The mean share of lesion pixels in a case, which is the precision of chance."""
    pixels = [(case.positives.total, case.negatives.total) for case in next(iter(tested.evidence.values()))]
    return float(np.mean([lesion / (lesion + other) for lesion, other in pixels]))


def faithfulness_sections(found: Faithfulness, answer: dict[str, Any]) -> list[Section]:
    """Whether the maps follow the model, and which of them could not be put to the randomisation test."""
    left_out = [f"{name} was not put to the randomisation test: {reason}." for name, reason in found.left_out.items()]
    text = f"{len(found.cases)} cases of {len(set(found.patients))} patients. " + " ".join(left_out)
    return [
        Section("Faithfulness to the model", text, result_table(answer["methods"], FAITHFULNESS)),
        Section("Deletion, insertion, ROAD and randomisation", figure=faithfulness_figure(found)),
    ]


def grading_sections(cohort: Cohort, tested: Evaluated, answer: dict[str, Any]) -> list[Section]:
    """The classifier behind the maps."""
    maps = cohort.maps(next(iter(answer["maps"].values())))
    labels = cohort.table.loc[tested.cases, maps.attrs["target"]].to_numpy(float)
    scores = maps.table.loc[tested.cases, "score"].to_numpy(float)
    known = np.isfinite(labels)
    metrics = answer["classifier"]
    shown = pd.DataFrame([{key: with_interval(metrics, key) for key in metrics if f"{key}_interval" in metrics}])
    return [Section("The classifier", table=shown, figure=classification_figure(labels[known], scores[known]))]
