"""What becomes of models that lead no longer: their maps and copies go, what the registry holds of them stays."""

import shutil
from pathlib import Path

from prefect import task

from storage.check import expire
from storage.cohort import Cohort
from tasks.promotion.ledger import champion_version, decisions
from tasks.retraining.settings import Retention
from tasks.tracking.runs import tracking_client
from tasks.workspace import current_workspace


def features_file(cohort: str, name: str) -> Path:
    """Where the features of a cohort go that nobody named a file for."""
    file = current_workspace().root / "features" / f"{Path(cohort).name}-{name.replace('/', '-')}.parquet"
    file.parent.mkdir(exist_ok=True)
    return file


@task(name="retire-models", task_run_name="retire models of {name}")
def retire(cohort: str, name: str, retention: Retention) -> list[str]:
    """Drop the maps of versions that are neither champion nor one of the last before it; the sets that went."""
    client = tracking_client()
    kept = standing_versions(name, retention.former)
    runs = {int(version.version): version.run_id for version in client.search_model_versions(f"name = '{name}'")}
    weights = {version: client.get_run(run_id).data.tags.get("model_version") for version, run_id in runs.items()}
    standing = {weights[version] for version in kept}
    retired = {version: run_id for version, run_id in runs.items() if weights[version] not in standing}
    opened = Cohort.open(cohort)
    outdated = {weights[version] for version in retired}
    gone = [each for each in opened.map_names() if opened.maps(each).attrs.get("model") in outdated]
    for each in gone:
        opened.drop_maps(each)
    for run_id in retired.values():
        forget_copies(run_id)
    if retention.snapshot_days is not None and gone:
        expire(cohort, retention.snapshot_days)
    return gone


def standing_versions(name: str, former: int) -> list[int]:
    """The champion, and the `former` ones that led before it, newest first."""
    leaders = [champion_version(name)]
    leaders += [entry["challenger"] for entry in decisions(name) if entry["decision"] != "refused"]
    distinct = list(dict.fromkeys(version for version in leaders if version is not None))
    return distinct[: 1 + former]


def forget_copies(run_id: str) -> None:
    """Remove what lies here of a run's model beside the registry: the fetched copy, its checkpoints and sample maps."""
    workspace = current_workspace()
    shutil.rmtree(workspace.root / "models" / run_id, ignore_errors=True)
    for noted in workspace.runs.glob("*/mlflow_run"):
        if noted.read_text() == run_id:
            for part in ("stages", "samples"):
                shutil.rmtree(noted.parent / part, ignore_errors=True)
