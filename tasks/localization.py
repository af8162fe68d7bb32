"""Localisation: one raw saliency map a case, by a trained model and a method, written to the cohort shard by shard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from prefect import task

from models.config import validated
from models.errors import ModelError
from models.localization.refinement import Refinement, RefinementConfig, refine
from models.saliency import SALIENCY, Sign, default_sign
from models.saliency.streaming import saliency_maps
from models.system import System
from storage.cohort import Cohort
from tasks.figures import refinement_gallery
from tasks.maps import selected_cases
from tasks.model_files import describe_model, load_model
from tasks.progress import progress
from tasks.reporting import Section, publish_report
from tasks.reuse import code_digest, fingerprint, finished, remember
from tasks.shards import shards
from tasks.tracking.runs import TrackedRun, tracked_run

REFINED, INITIAL = "S", "s_0"
SHARD = 64
Method = Literal["iterative-refinement", "saliency"]
PlainMap = tuple[int, float, np.ndarray]


def map_name(model: dict[str, Any], name: str) -> str:
    """`<system>/<model version>/<name>`: where a map set lies in a cohort."""
    return f"{model['system']}/{model['version']}/{name}"


@task(name="localize-refined", task_run_name="{cohort}")
def localize_refined(
    cohort: str, model: str, splits: list[str], settings: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    """Refine every chosen case that has no map from this model and these settings; S and s_0 are kept."""
    opened, about = Cohort.open(cohort), describe_model(Path(model))
    system = load_model(Path(model), about).to(best_device())
    config = refinement_config(system, settings)
    names = [map_name(about, REFINED), map_name(about, INITIAL)]
    attributes = _attributes(about, {"method": "iterative-refinement", **config.model_dump(mode="json")})
    cases = selected_cases(opened, splits)
    todo = prepare(opened, names, attributes, cases)
    key = fingerprint("localize", cohort=opened.content_digest(), names=names, cases=cases, **attributes)
    if not todo and (known := finished("localize", key)):
        return {**known, "new": 0, "reused": True}
    with tracked_run("localize", {**attributes, "cohort": cohort, "splits": splits}) as run:
        images = ((case, opened.image(case)) for case in todo)
        found = refine(
            system,
            system.to_input,
            images,
            config,
            target=system.target,
            batch_size=batch_size,
            device=best_device(),
            threads=torch.get_num_threads(),
        )
        with progress("localize", len(todo)) as advance:
            for shard in shards(found, SHARD):
                write_refined(opened, names, shard, config, attributes)
                advance(len(shard), "")
        summary = refinement_summary(opened, names[0], cases)
        page = publish_refinement(run, opened, names, cases, summary, config)
    answer = {"maps": names, "cases": len(cases), "new": len(todo), **summary}
    return remember("localize", key, {**answer, "run_id": run.run_id, "report": str(page)}, [page])


@task(name="localize-saliency", task_run_name="{saliency}")
def localize_saliency(
    cohort: str, model: str, splits: list[str], saliency: str, settings: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    """One map of a plain saliency method for every chosen case that has none yet."""
    if saliency not in SALIENCY:
        raise ModelError(f"no saliency method {saliency!r}; there are: {', '.join(sorted(SALIENCY))}")
    opened, about = Cohort.open(cohort), describe_model(Path(model))
    system = load_model(Path(model), about).to(best_device())
    sign = refinement_config(system, settings).sign or default_sign(saliency)
    name = map_name(about, saliency)
    attributes = _attributes(about, {"method": "saliency", "saliency": saliency, "sign": sign})
    cases = selected_cases(opened, splits)
    todo = prepare(opened, [name], attributes, cases)
    if not todo:
        return {"maps": [name], "cases": len(cases), "new": 0, "reused": True}
    with tracked_run("localize", {**attributes, "cohort": cohort, "splits": splits}) as run:
        found = plain_maps(system, opened, todo, saliency, sign, batch_size)
        with progress(f"localize {saliency}", len(todo)) as advance:
            for shard in shards(found, SHARD):
                write_plain(opened, name, shard, attributes)
                advance(len(shard), "")
        run.log_metrics({"cases": len(cases), "new": len(todo)})
        run.tag(snapshot=opened.snapshot, model_version=about["version"])
    return {"maps": [name], "cases": len(cases), "new": len(todo), "run_id": run.run_id}


def plain_maps(
    system: System, cohort: Cohort, cases: Sequence[int], saliency: str, sign: Sign, batch_size: int
) -> Iterator[PlainMap]:
    """Score and map of each case by a plain saliency method, on the accelerator where there is one."""
    device = best_device()
    images = ((case, cohort.image(case)) for case in cases)
    yield from saliency_maps(
        system.to(device),
        system.to_input,
        images,
        saliency,
        target=system.target,
        sign=sign,
        batch_size=batch_size,
        device=device,
    )


def refinement_config(system: System, settings: dict[str, Any]) -> RefinementConfig:
    """The system's own refinement settings with the user's on top."""
    own = getattr(system.config, "refinement", RefinementConfig())
    return validated(RefinementConfig, {**own.model_dump(), **settings}, where="--set")


def prepare(cohort: Cohort, names: list[str], attributes: dict[str, Any], cases: list[int]) -> list[int]:
    """The cases without maps; maps made with other settings are dropped first."""
    done: set[int] | None = None
    for name in names:
        if name in cohort.map_names() and cohort.maps(name).attrs != attributes:
            cohort.drop_maps(name)
        have = set(map(int, cohort.maps(name).indices)) if name in cohort.map_names() else set()
        done = have if done is None else done & have
    return [case for case in cases if case not in (done or set())]


def write_refined(
    cohort: Cohort, names: list[str], shard: list[Refinement], config: RefinementConfig, attributes: dict[str, Any]
) -> None:
    """One shard of refinements: S with its trajectory and inpainted image, and s_0."""
    cases = [result.case for result in shard]
    scores = np.full((len(shard), config.max_iterations + 1), np.nan, np.float32)
    for row, result in zip(scores, shard, strict=True):
        row[: len(result.scores)] = result.scores
    table = pd.DataFrame(
        {
            "score": scores[:, 0],
            "final_score": [float(result.scores[-1]) for result in shard],
            "iterations": [result.iterations for result in shard],
            "stop_reason": [result.stop_reason for result in shard],
        }
    )
    arrays = {"scores": scores, "inpainted": np.stack([result.inpainted for result in shard])}
    initial = np.stack([result.initial_saliency for result in shard])
    refined = np.stack([result.saliency for result in shard])
    cohort.write_maps(names[1], cases, initial, table[["score"]], attrs=attributes)
    cohort.write_maps(names[0], cases, refined, table, arrays, attrs=attributes)


def write_plain(cohort: Cohort, name: str, shard: list[PlainMap], attributes: dict[str, Any], **noted: Any) -> None:
    """One shard of a plain saliency method; `noted` are further columns of its table, one value for all its cases."""
    cases, scores, maps = zip(*shard, strict=True)
    table = pd.DataFrame({"score": scores, **noted})
    cohort.write_maps(name, list(cases), maps, table, attrs=attributes)


def refinement_summary(cohort: Cohort, name: str, cases: list[int]) -> dict[str, float]:
    """Whether the loop did its job: of the cases above the stop score at first, how many came down, and how soon."""
    table = cohort.maps(name).table.loc[cases]
    referable = table[table["iterations"] > 0]
    count = max(len(referable), 1)
    return {
        "refined": len(referable),
        "mean_iterations": float(referable["iterations"].mean()) if len(referable) else 0.0,
        "stopped_by_score": float((referable["stop_reason"] == "score").sum() / count),
        "stopped_by_cap": float((referable["stop_reason"] == "cap").sum() / count),
        "mean_score_drop": float((referable["score"] - referable["final_score"]).mean()) if len(referable) else 0.0,
    }


def publish_refinement(
    run: TrackedRun,
    cohort: Cohort,
    names: list[str],
    cases: list[int],
    summary: dict[str, float],
    config: RefinementConfig,
) -> Path:
    """Metrics and the gallery of the most severe cases, in MLflow and as a page."""
    run.log_metrics(summary)
    run.tag(snapshot=cohort.snapshot, maps=names[0])
    table = cohort.maps(names[0]).table.loc[cases].sort_values("iterations", ascending=False)
    shown = [int(case) for case in table.index[:: max(1, len(table) // 16)][:8]]
    sections = [
        Section("The loop", table=pd.DataFrame([summary]), text=" ".join(map(str, config.model_dump().items()))),
        Section(
            "Image, truth, first and refined map, inpainted image, score",
            "Maps share one scale over all cases: a faint map is faint, not rescaled.",
            figure=refinement_gallery(cohort, names[0], names[1], shown, config.stop_score),
        ),
    ]
    return publish_report("localize", run, f"Lesions of {cohort.path}", sections)


def best_device() -> str:
    """The accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _attributes(about: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """What made a set of maps; another model, method or `models` code makes them anew."""
    made_by = {"model": about["version"], "system": about["system"], "code": code_digest(("models",))[:12]}
    return {**made_by, "target": about["target"], **method}
