"""`reproduce`: a paper's experiment, every arm with every seed, beside the figures that the paper reports."""

from typing import Any

from prefect import flow
from pydantic import PositiveInt

from tasks.notifications import notified
from tasks.reproduction.ahead import parallel_by_default, train_ahead
from tasks.reproduction.answer import summarised
from tasks.reproduction.choice import settled
from tasks.reproduction.experiment import loaded_experiment, title
from tasks.reproduction.loop import run_trials
from tasks.reproduction.plan import command_line, planned, source_cohort
from tasks.reproduction.report import publish_reproduction
from tasks.reproduction.runs import known_answer, remember_answer, reproduction_run
from tasks.reproduction.several import each_experiment
from tasks.reproduction.studies import outcome_studies


@notified
@flow(name="reproduce", flow_run_name="{system} {preset_name}")
def reproduce(
    system: str,
    preset_name: str = "small",
    seeds: PositiveInt | None = None,
    arms: list[str] | None = None,
    cohort: str | None = None,
    settings: dict[str, Any] | None = None,
    parallel: PositiveInt | None = None,
) -> dict[str, Any]:
    """Train and judge what is missing of an experiment's arms and seeds; the figures of all, or those known before.

    `parallel` trainings run side by side, by default as many as there are GPUs, or cores where there is none.
    `system` is a system's name, a path of an experiment file, or `all`; `cohort` replaces the experiment's source, and
    `settings` lie on top of the experiment and its preset.
    """
    if system == "all":
        return each_experiment(reproduce, preset_name, seeds, arms, cohort, settings, parallel)
    changes = {**(settings or {}), **({"seeds": seeds} if seeds else {})}
    experiment = loaded_experiment(system, preset_name, changes)
    place = cohort or source_cohort(experiment)
    plan = planned(title(system), preset_name, experiment, place, arms or [])
    if known := known_answer(plan):
        return {**known, "reused": True}
    with reproduction_run(plan) as run:
        train_ahead(plan, run.run_id, parallel or parallel_by_default())
        whole, choices = settled(plan, run.run_id)
        outcomes = run_trials(whole, run.run_id)
        studies = outcome_studies(whole, outcomes.done, run)
        answer = summarised(whole, outcomes, studies, run) | {"choices": choices}
        answer["command"] = command_line(system, preset_name, experiment.seeds, arms, cohort, settings)
        answer["report"] = str(publish_reproduction(run, whole, answer))
    return remember_answer(plan, answer)
