"""The outcome studies of an experiment: what the lesions that its arms find say of the patients' outcomes.

Every patient's lesion is found by the training whose fold held the patient out. Its features are put into one table
with those of all other folds, and `study` judges that table by folds of its own, beside the table of the true masks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from prefect import task
from prefect.cache_policies import NO_CACHE

from models.errors import ModelError
from models.outcome import Asked
from tasks.errors import TrainingError
from tasks.outcomes.study import study_outcome
from tasks.radiomics import extract_features
from tasks.reproduction.experiment import MASKS, STUDIED, Studies, of_study
from tasks.reproduction.folds import parts
from tasks.reproduction.plan import FOLDER, Plan, told
from tasks.reproduction.runs import Answer, nest
from tasks.reproduction.statistics import BySeedValues
from tasks.reuse import fingerprint
from tasks.tracking.runs import TrackedRun
from tasks.workspace import current_workspace

DICTIONARY = ".dictionary.csv"


@task(name="reproduce-studies", cache_policy=NO_CACHE)
def outcome_studies(plan: Plan, done: Sequence[Answer], run: TrackedRun) -> Answer:
    """{study: {"outcome", "where", "reported", "rows": {arm or masks: figures}}}; nothing where none is asked for.

    Figures are `study`'s metrics with intervals over patients, and their `difference` from those of the true masks on
    the same patients. An arm that cannot be studied, because its lesions are too few, has a `reason` instead.

    Raises:
        TrainingError: lesions of some cases could not be measured.
    """
    asked = plan.experiment.studies
    if asked is None:
        return {}
    trials = {arm: parts(plan, done, arm) for arm in asked.arms if arm in plan.chosen}
    if not any(trials.values()):
        return {}
    tables = {arm: found_features(plan, asked, arm, known, run) for arm, known in trials.items() if known}
    tables[MASKS] = measured(plan, asked, None, "", run)
    return {
        name: {**study.model_dump(), "rows": {arm: studied(asked, name, arm, tables, run) for arm in tables}}
        for name, study in asked.outcomes.items()
    }


def found_features(plan: Plan, asked: Studies, arm: str, trials: Sequence[Answer], run: TrackedRun) -> Path:
    """One table of the lesions that an arm found in the patients of all its folds, with its data dictionary."""
    files = [measured(plan, asked, trial["maps"][0], trial["maps_digest"], run) for trial in trials]
    joined = features_file(arm, [str(file) for file in files])
    pq.write_table(pa.concat_tables([pq.read_table(file) for file in files]), joined)
    joined.with_suffix(DICTIONARY).write_text(files[0].with_suffix(DICTIONARY).read_text())
    return joined


def measured(plan: Plan, asked: Studies, maps: str | None, digest: str, run: TrackedRun) -> Path:
    """The features of the lesions in a map set, or of the true masks."""
    told(f"radiomics of {maps or 'the true masks'}")
    out = features_file(maps or MASKS, [plan.cohort, plan.content, digest, asked.radiomics])
    answer = extract_features(plan.cohort, maps, str(out), [], None, asked.radiomics)
    nest(run, answer)
    if failed := answer["failed"]:
        raise TrainingError(f"lesions could not be measured; {failed[0]['cases'][0]}: {failed[0]['reason']}")
    return out


def features_file(name: str, made_of: Sequence[Any]) -> Path:
    """Where a table of what it is `made_of` lies in the workspace."""
    folder = current_workspace().root / FOLDER / "radiomics"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{fingerprint('reproduce-radiomics', made_of=list(made_of))[:12]}.parquet"


def studied(asked: Studies, name: str, arm: str, tables: dict[str, Path], run: TrackedRun) -> dict[str, Any]:
    """The figures of a study with the features of an arm, or of the true masks."""
    told(f"study of {name} by {arm}")
    study = asked.outcomes[name]
    compare = None if arm == MASKS else str(tables[MASKS])
    settings = {**asked.settings, "where": study.where}
    try:
        answer = study_outcome(str(tables[arm]), Asked(study.outcome), compare, None, [], settings)
    except ModelError as error:
        return {"reason": str(error)}
    nest(run, answer)
    figures = {key: answer[key] for key in ("patients", "positive", "features", "model", "folds", "repeats", "report")}
    return {**figures, **answer["metrics"], "difference": answer.get("comparison", {}).get("difference", {})}


def study_values(studies: Answer) -> BySeedValues:
    """What rules read, by arm and metric; all folds together are one sample, and count as the first seed."""
    values: BySeedValues = {}
    for name, study in studies.items():
        for arm, row in study["rows"].items():
            known = {of_study(name, metric): {0: row[metric]} for metric in STUDIED if metric in row}
            values.setdefault(arm, {}).update(known)
    return values
