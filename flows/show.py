"""What the command prints: tables of a cohort, of an evaluation, of the demo, of the systems."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from models.errors import ModelError
from models.registry import systems
from storage.cohort import Cohort
from storage.differences import differences
from tasks.evaluation import SHOWN, said_of_empty_maps, segmented_by, titled_groups, with_interval
from tasks.faithfulness import FAITHFULNESS
from tasks.segmentation import SEGMENTATION


def cohort_info(path: str, snapshot: str | None = None) -> dict[str, Any]:
    """A cohort in numbers, as it is or as it was at `snapshot`."""
    cohort = Cohort.open(path, snapshot)
    table = cohort.table
    return {
        "cohort": path,
        "snapshot": cohort.snapshot,
        "cases": len(cohort),
        "patients": int(table["patient_id"].nunique()),
        "grid": cohort.shown_grid,
        "splits": table["split"].value_counts().to_dict(),
        "labels": {label: table[label].value_counts(dropna=False).sort_index().to_dict() for label in cohort.labels},
        "lesions": list(cohort.lesions),
        "annotated": int(table["has_masks"].sum()),
        "maps": {name: len(cohort.maps(name).indices) for name in cohort.map_names()},
        "snapshots": [f"{state.id} {state.time:%Y-%m-%d %H:%M} {state.message}" for state in cohort.history()[:5]],
        "quarantine": cohort.quarantine[["file", "reason"]].to_dict("records"),
    }


def cohort_diff(path: str, before: str, after: str) -> dict[str, Any]:
    """What changed in a cohort from one snapshot to another."""
    return {"cohort": path, "from": before, "to": after, **differences(path, before, after)}


def show_info(console: Console, answer: dict[str, Any]) -> None:
    """A cohort, a line a fact."""
    facts = [(key, _line(value)) for key, value in answer.items() if key != "quarantine"]
    facts += [("quarantined", f"{row['file']}: {row['reason']}") for row in answer.get("quarantine", [])]
    for key, value in facts:
        console.print(f"{key:12} {value}", soft_wrap=True, highlight=False)


def show_evaluation(console: Console, answer: dict[str, Any]) -> None:
    """Methods, differences and the classifier, with intervals."""
    cases = f"{answer['cases']} cases of {answer['patients']} patients, split {answer['split']}"
    console.print(metric_table(f"Localisation: {cases}", answer["methods"]))
    for title, methods in titled_groups(answer):
        console.print(metric_table(title, methods))
    if said := said_of_empty_maps(answer):
        console.print(said, soft_wrap=True, highlight=False)
    if segmented := segmented_by(answer):
        console.print(metric_table("Segmentation within the field of view", segmented, SEGMENTATION))
    if answer["differences"]:
        console.print(metric_table("Paired differences", answer["differences"]))
    if tested := answer.get("faithfulness"):
        title = f"Faithfulness to the model: {tested['cases']} cases of {tested['patients']} patients"
        console.print(metric_table(title, answer["methods"], FAITHFULNESS))
        for name, reason in tested["left_out"].items():
            console.print(f"{name}: no randomisation test, {reason}", soft_wrap=True, highlight=False)
    show_classifier(console, answer["classifier"])
    console.print(f"report {answer['report']}", soft_wrap=True)


def show_demo(console: Console, summary: dict[str, Any]) -> None:
    """The demo's table and the paths of what it made."""
    cases = summary["cases"]["evaluated"]
    console.print(metric_table(f"Lesion localisation on {cases} held-out simulated cases", summary["methods"]))
    console.print(metric_table("Paired differences", summary["differences"]))
    show_classifier(console, summary["classifier"])
    refinement, features = summary["refinement"], summary["radiomics"]
    console.print(
        f"Refinement: {refinement['refined']} images, {refinement['mean_iterations']:.1f} iterations on average, "
        f"{refinement['stopped_by_score']:.0%} stopped by score. "
        f"Radiomics: {features['rows']} rows, {features['features']} features."
    )
    console.print("Seconds: " + ", ".join(f"{step} {value:g}" for step, value in summary["seconds"].items()))
    for name, path in summary["paths"].items():
        console.print(f"{name:9} {_line(path)}", soft_wrap=True)
    console.print(f"Browse the runs: mlflow ui --backend-store-uri {summary['tracking']}", soft_wrap=True)


def metric_table(title: str, methods: dict[str, dict[str, Any]], keys: Sequence[str] = SHOWN) -> Table:
    """Method · metric [low, high]."""
    table = Table("method", title=title, title_justify="left")
    shown = [key for key in keys if any(key in metrics for metrics in methods.values())]
    for key in shown:
        table.add_column(key)
    for name, metrics in methods.items():
        table.add_row(name, *(with_interval(metrics, key) if key in metrics else "–" for key in shown))
    return table


def show_classifier(console: Console, metrics: dict[str, Any]) -> None:
    """MSE, kappa, AUC … in one line."""
    if metrics:
        parts = [f"{key} {with_interval(metrics, key)}" for key in metrics if f"{key}_interval" in metrics]
        console.print(f"Classifier on {metrics['cases']} cases: " + ", ".join(parts))


def show_systems(console: Console) -> None:
    """Every registered system."""
    table = Table("system", "family", "paper")
    for name, registered in systems().items():
        table.add_row(name, registered.family, registered.paper)
    console.print(table)


def show_system(console: Console, name: str) -> None:
    """A system's reference and its settings."""
    if name not in systems():
        raise ModelError(f"no system {name!r}; there are: {', '.join(systems())}")
    registered = systems()[name]
    console.print(f"{name} ({registered.family}): {registered.paper}\n", soft_wrap=True)
    console.print_json(json.dumps(registered.config().model_dump(mode="json")))


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_line(part)}" for key, part in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def show_decisions(console: Console, answer: dict[str, Any]) -> None:
    """Who leads, the frozen cases, and every decision, newest first."""
    led = [f"{role} {answer[role] or 'none'}" for role in ("champion", "challenger", "previous")]
    console.print(f"{answer['name']}: {', '.join(led)}", soft_wrap=True, highlight=False)
    if frozen := answer["frozen"]:
        counted = ("cases", "patients", "labelled", "annotated")
        facts = ", ".join(f"{key} {frozen[key]}" for key in (*counted, "target", "cohort", "snapshot"))
        console.print(f"frozen: {facts}", soft_wrap=True, highlight=False)
    if answer["decisions"]:
        console.print(decision_table(answer["decisions"]))


def decision_table(decisions: list[dict[str, Any]]) -> Table:
    """A row a decision; * marks one that is not applied yet."""
    table = Table("when", "version", "against", "decision", "gain", "cases", "by", "reason")
    for made in decisions:
        gain = (
            with_interval({"gain": made["gain"], "gain_interval": made["interval"]}, "gain") if made["metric"] else "–"
        )
        table.add_row(
            made["when"][:16].replace("T", " "),
            str(made["challenger"]),
            str(made["champion"] or "–"),
            made["decision"] + ("" if made["applied"] else " *"),
            f"{made['metric']} {gain}" if gain != "–" else gain,
            str(made["cases"] or "–"),
            made["by"],
            made["reason"],
        )
    return table


def show_study(console: Console, answer: dict[str, Any]) -> None:
    """Patients, metrics with intervals, what chance gets to, and where the page is."""
    kind = "with the event" if "harrell_c" in answer["metrics"] else "positive"
    said = f"{answer['patients']} patients, {answer['positive']} {kind}; {answer['features']} features"
    drawn = f"{answer['model']}, {answer['folds']} folds × {answer['repeats']}"
    sources = {answer["features_file"]: answer["metrics"]}
    if compared := answer.get("comparison"):
        sources |= {compared["other"]: compared["metrics"], "difference": compared["difference"]}
    table = Table("metric", *sources, title=f"{answer['outcome']}: {said}; {drawn}", title_justify="left")
    for key in [key for key in answer["metrics"] if not key.endswith("_interval")]:
        table.add_row(key, *(with_interval(metrics, key) for metrics in sources.values()))
    console.print(table)
    for line in study_lines(answer):
        console.print(line, soft_wrap=True, highlight=False)


def study_lines(answer: dict[str, Any]) -> list[str]:
    """The rest of a study, a line a fact."""
    lines = [f"left out: {count} {reason}" for reason, count in answer["left_out"].items()]
    if compared := answer.get("comparison"):
        delong = f", DeLong p {_told(compared['delong_p'])}" if "delong_p" in compared else ""
        lines.append(f"difference: p {_told(compared['p'])}{delong}; {answer['unpaired']} patients of one file only")
    if found := answer.get("permutation"):
        chance = f"{found['permutations']} permutations reach {_told(found['permuted_mean'])} on average"
        lines.append(
            f"{found['metric']} {_told(found['first_repeat'])} (first repeat); {chance}: p {_told(found['p'])}"
        )
    if found := answer.get("risk_groups"):
        sizes = f"{found['high']} high, {found['low']} low"
        lines.append(f"predicted groups: {sizes}; log-rank p {_told(found['log_rank_p'])}")
    shown = ", ".join(f"{row['feature']} {row['share_of_folds']:.0%}" for row in answer["selected"][:5])
    lines.append(f"selected most: {shown}; stability {_told(answer['selection_stability'])}")
    places = ("served_model", "model_left_out", "predictions", "report")
    return lines + [f"{key.replace('_', ' ')} {answer[key]}" for key in places if key in answer]


def _told(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"
