"""The tables of a reproduction, from its answer alone: for the terminal, the page and the document."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tasks.evaluation import SHOWN
from tasks.reproduction.experiment import MASKS, STUDIED
from tasks.segmentation import SEGMENTATION
from tasks.tracking.runs import flattened

HOLDS = {True: "yes", False: "no", None: "–"}
PROTOCOLS = {
    "transductive": "trained and evaluated on the same cases",
    "held_out": "trained and evaluated on different patients",
    "folds": "each seed is a fold, whose patients it does not train on and is evaluated on",
}


def arm_table(answer: dict[str, Any]) -> pd.DataFrame:
    """Arm · ours · the paper's, of each metric that it reports · other metrics; a row an arm, without figures too."""
    compared = compared_metrics(answer)
    measured = set().union(*answer["arms"].values())
    wanted = answer.get("shown") or (*SHOWN, *SEGMENTATION)
    others = [metric for metric in wanted if metric not in compared and metric in measured]
    names = [*answer["arms"], *(arm for arm in failed_arms(answer) if arm not in answer["arms"])]
    rows = []
    for arm in names:
        metrics = answer["arms"].get(arm, {})
        row = {"arm": arm}
        for place, metric in enumerate(compared):
            paper = "paper" if place == 0 else f"paper, {metric}"
            row |= {f"{metric}, ours": with_seeds(metrics.get(metric)), paper: number(reported(answer, arm, metric))}
        rows.append(row | {metric: with_seeds(metrics.get(metric)) for metric in others})
    return pd.DataFrame([*rows, *observer_rows(answer, compared, others)]).fillna("–")


def observer_rows(answer: dict[str, Any], compared: Sequence[str], others: Sequence[str]) -> list[dict[str, str]]:
    """A row a person who marked the cases as well, with intervals over patients."""
    names = {**{metric: f"{metric}, ours" for metric in compared}, **{metric: metric for metric in others}}
    return [
        {"arm": observer}
        | {
            column: with_interval(figures[metric], figures[f"{metric}_interval"])
            for metric, column in names.items()
            if metric in figures
        }
        for observer, figures in answer.get("observers", {}).items()
    ]


def compared_metrics(answer: dict[str, Any]) -> list[str]:
    """The headline and the other metrics of which the paper reports figures."""
    named = [metric for figures in answer["reported"].values() if isinstance(figures, dict) for metric in figures]
    return list(dict.fromkeys([answer["metric"], *named]))


def reported(answer: dict[str, Any], arm: str, metric: str) -> float | None:
    """The paper's figure of an arm; a bare number is of the headline."""
    figures = answer["reported"].get(arm)
    if isinstance(figures, dict):
        return figures.get(metric)
    return figures if metric == answer["metric"] else None


def choice_table(answer: dict[str, Any]) -> pd.DataFrame:
    """Arm · what its settings were chosen among · by which metric · its value on validation · which was taken."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "settings": ", ".join(f"{key} {value}" for key, value in flattened(one["settings"]).items()),
                "chosen by": choice["metric"],
                "on validation": number(one["value"]),
                "taken": "yes" if one["settings"] == choice["chosen"] else "",
            }
            for arm, choice in answer.get("choices", {}).items()
            for one in choice["among"]
        ]
    )


def study_table(answer: dict[str, Any]) -> pd.DataFrame:
    """Study · whose lesions · patients · ours and the paper's of each metric · AUC less that of the true masks."""
    rows = []
    for name, study in answer.get("studies", {}).items():
        papers = [arm for arm in study["reported"] if arm not in study["rows"]]
        for arm in [*study["rows"], *papers]:
            figures, paper = study["rows"].get(arm, {}), study["reported"].get(arm, {})
            row = {"study": study_words(name, study), "lesions of": "the true masks" if arm == MASKS else arm}
            row["patients"] = figures.get("reason") or str(figures.get("patients", "–"))
            for metric in STUDIED:
                row |= {metric: of_patients(figures, metric), f"paper, {metric}": number(paper.get(metric))}
            difference = of_patients(figures.get("difference", {}), "auc", signed=True)
            rows.append(row | {"auc − that of the masks": difference})
    return pd.DataFrame(rows)


def study_words(name: str, study: dict[str, Any]) -> str:
    """`response, oesophagus 1`."""
    return ", ".join([name, *(f"{label} {value:g}" for label, value in study["where"].items())])


def of_patients(figures: dict[str, Any], metric: str, *, signed: bool = False) -> str:
    """A figure with its interval over patients."""
    known = metric in figures
    return with_interval(figures[metric], figures[f"{metric}_interval"], signed=signed) if known else "–"


def failed_arms(answer: dict[str, Any]) -> list[str]:
    """The arms of which a trial failed."""
    return list(dict.fromkeys(one["arm"] for one in answer["failed"]))


def failure_line(answer: dict[str, Any]) -> str:
    """What failed, in one line; empty where nothing did."""
    by_experiment = answer.get("experiments", {"": answer})
    parts = [f"{one['experiment']}: {one['reason']}" for one in answer["failed"] if "experiment" in one]
    for name, of in by_experiment.items():
        where = f"{name}: " if name else ""
        parts += [f"{where}{one['arm']} with seed {one['seed']}: {one['reason']}" for one in of["failed"]]
    more = f" (and {len(parts) - 1} more)" if len(parts) > 1 else ""
    return f"failed: {parts[0]}{more}; the rest is done, and the same command tries again" if parts else ""


def rule_table(answer: dict[str, Any]) -> pd.DataFrame:
    """Expectation · whether it holds, by interval or only by mean · both sides · the margin."""
    return pd.DataFrame(
        [
            {
                "expected": one["rule"],
                "holds": verdict(one),
                "left": number(one.get("left")),
                "right": number(one.get("right")),
                "left − right": with_seeds({**one, "mean": one["margin"]} if "margin" in one else None),
            }
            for one in answer["expect"]
        ]
    )


def verdict(judged: dict[str, Any]) -> str:
    """`yes, by interval`; `no, by mean only`; `– (no figures of cam)`."""
    if judged["holds"] is None:
        return f"– ({judged['reason']})"
    return f"{HOLDS[judged['holds']]}, {'by interval' if judged['by'] == 'interval' else 'by mean only'}"


def gain_table(answer: dict[str, Any]) -> pd.DataFrame:
    """Relative gain over the seeds · the paper's · each seed's difference with its patient-level interval."""
    rows = []
    for gain in answer["gains"]:
        by_seed = {
            f"seed {seed}": with_interval(one["difference"], one["interval"], signed=True)
            for seed, one in gain["by_seed"].items()
        }
        told = {"gain": f"{gain['arm']} over {gain['over']}", "metric": gain["metric"]}
        rows.append({**told, "ours": percent(gain["mean"], gain["interval"]), "paper": reported_gain(gain), **by_seed})
    return pd.DataFrame(rows).fillna("–")


def with_seeds(estimate: dict[str, Any] | None) -> str:
    """`0.412 [0.380, 0.447]`, or the mean alone of one seed."""
    return "–" if estimate is None else with_interval(estimate["mean"], estimate["interval"])


def with_interval(value: float, interval: Any, *, signed: bool = False) -> str:
    """`0.412 [0.380, 0.447]`."""
    form = "+.3f" if signed else ".3f"
    known = interval is not None and None not in tuple(interval)
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]" if known else f"{value:{form}}"


def percent(value: float | None, interval: Any) -> str:
    """`+1.1 % [−0.2, +2.4]`."""
    if value is None:
        return "–"
    bounds = f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval is not None else ""
    return f"{100 * value:+.1f} %{bounds}"


def reported_gain(gain: dict[str, Any]) -> str:
    """`+11.2 ± 2.0 %`."""
    if gain["reported"] is None:
        return "–"
    spread = f" ± {100 * gain['spread']:.1f}" if gain["spread"] is not None else ""
    return f"{100 * gain['reported']:+.1f}{spread} %"


def number(value: float | None) -> str:
    """To three digits."""
    return "–" if value is None else f"{value:.3f}"


def facts(answer: dict[str, Any]) -> dict[str, str]:
    """What the figures stand on, as names and values."""
    versions = ", ".join(f"{name} {number}" for name, number in answer["versions"].items())
    trainings = answer["trainings"]
    sharing = sum(len(arms) > 1 for arms in trainings.values())
    return {
        "protocol": f"{answer['protocol']}: {PROTOCOLS[answer['protocol']]}",
        "cohort": f"{answer['cohort_cases']} cases, {source_words(answer)}; snapshot {answer['snapshot']}",
        "evaluated": evaluated_words(answer),
        "trainings": f"{len(trainings)} for {len(answer['trials'])} trials; {sharing} serve several arms",
        "seconds": f"{answer['seconds']:.0f}",
        "device": answer["device"],
        "date": answer["date"],
        "code": f"{answer['git_commit'] or 'no checkout'}; {versions}",
    }


def effort_table(answer: dict[str, Any]) -> pd.DataFrame:
    """What each arm took: its epochs, and the seconds of its trials, in which a training counts for the first arm."""
    rows = [
        {"arm": arm, "epochs": str(answer["epochs"][arm]), "seconds": f"{took:.0f}"}
        for arm, took in answer["seconds_by_arm"].items()
    ]
    return pd.DataFrame(rows)


def evaluated_words(answer: dict[str, Any]) -> str:
    """`200 cases of 110 patients of split test, those with lesions: EX, HE`."""
    chosen = "those with lesions alone" if answer["evaluated"] == "lesions" else "with and without lesions"
    split = "" if answer["split"] == "all" else f" of split {answer['split']}"
    return f"{answer['cases']} cases of {answer['patients']} patients{split}, {chosen}: {', '.join(answer['lesions'])}"


def source_words(answer: dict[str, Any]) -> str:
    """`fundus: cases 1000, size 128`."""
    given = dict(answer["source"])
    name = given.pop("simulated", None) or given.pop("address", None)
    said = f"{name}: " + ", ".join(f"{key} {value}" for key, value in given.items())
    return said if name else "a cohort of the user's own"
