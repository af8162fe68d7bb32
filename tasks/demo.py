"""The demo's folder and its summary."""

from pathlib import Path
from typing import Any

from prefect import task

from tasks.reuse import write_json
from tasks.workspace import current_workspace


def demo_folder() -> Path:
    """Where the demo's cohort and results lie."""
    return current_workspace().root / "demo"


@task(name="write-summary")
def write_summary(folder: Path, steps: dict[str, dict[str, Any]], seconds: dict[str, float]) -> dict[str, Any]:
    """`summary.json`: the figures of every step, the seconds they took, and where the reports are."""
    evaluated, refined, features = steps["evaluate"], steps["localize"], steps["radiomics"]
    summary = {
        "methods": evaluated["methods"],
        "differences": evaluated["differences"],
        "classifier": evaluated["classifier"],
        "refinement": {
            key: refined[key] for key in ("mean_iterations", "stopped_by_score", "stopped_by_cap", "refined")
        },
        "radiomics": {key: features[key] for key in ("rows", "features")},
        "cases": {"ingested": steps["ingest"]["cases"], "evaluated": evaluated["cases"]},
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "tracking": current_workspace().tracking_uri,
        "paths": {
            "cohort": steps["ingest"]["cohort"],
            "model": steps["train"]["model"],
            "features": features["file"],
            "reports": {step: answer["report"] for step, answer in steps.items() if "report" in answer},
        },
    }
    write_json(folder / "summary.json", summary)
    return summary
