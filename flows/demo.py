"""`demo`: the whole chain on a simulated fundus cohort, from ingestion to radiomics."""

import time
from collections.abc import Callable
from typing import Any

from prefect import flow

from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.localize import localize
from flows.radiomics import radiomics
from flows.train import train
from tasks.demo import demo_folder, write_summary
from tasks.experiments import experiment

MAPS = ["S", "s_0", "grad_cam", "gradient"]


@flow(name="demo")
def demo() -> dict[str, Any]:
    """Ingest, train, localise four ways, evaluate, measure as experiments/demo.yaml says; finished steps are reused."""
    settings, folder = experiment("demo"), demo_folder()
    seconds: dict[str, float] = {}

    def timed(step: str, run: Callable[..., dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, Any]:
        started = time.monotonic()
        answer = run(*arguments, **options)
        seconds[step] = round(seconds.get(step, 0.0) + time.monotonic() - started, 1)
        return answer

    cohort = str(folder / "cohort")
    splits = ["validation", "test"]
    ingested = timed("ingest", ingest, settings["source"], cohort, fractions=tuple(settings["fractions"]))
    model = timed("train", train, settings["system"], cohort, **settings["train"])
    refined = timed("localize", localize, cohort, model["model"], splits=splits)
    for saliency in ("grad_cam", "gradient"):
        timed("localize", localize, cohort, model["model"], "saliency", saliency, splits=splits)
    evaluated = timed("evaluate", evaluate, cohort, maps=MAPS)
    out, found = str(folder / "features.parquet"), settings["radiomics"]
    features = timed("radiomics", radiomics, cohort, out, maps="S", splits=["test"], settings=found)
    steps = {"ingest": ingested, "train": model, "localize": refined, "evaluate": evaluated, "radiomics": features}
    return write_summary(folder, steps, seconds)
