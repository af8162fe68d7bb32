"""The verbs that keep it running: retrain, promote, ui."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.console import (
    WRONG_USE,
    CohortPath,
    Json,
    Set,
    console,
    fail,
    fail_for_cases,
    pair,
    parsed,
    save_json,
    show,
)

app = typer.Typer()
GATE, TRAINING, UPKEEP = "Promotion", "Training", "Upkeep"


@app.command()
def retrain(
    cohort: CohortPath,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Where new cases come from, as for `ingest`.")],
    system: Annotated[str, typer.Option(help="What to train; `lesionflow systems` lists them.")] = (
        "iterative-refinement"
    ),
    target: Annotated[str, typer.Option(help="The label to learn.")] = "grade",
    name: Annotated[str | None, typer.Option(help="Registered model; default: the system's name.")] = None,
    new_cases: Annotated[int, typer.Option(min=1, help="New labelled cases that are reason to train.")] = 50,
    force: Annotated[bool, typer.Option("--force", help="Train even where little is new.")] = False,
    if_running: Annotated[
        Literal["wait", "leave"], typer.Option(help="What to do while another retraining of it runs.")
    ] = "wait",
    preset: Annotated[str, typer.Option(help="small or paper.", rich_help_panel=TRAINING)] = "small",
    settings: Set = [],  # noqa: B006
    epochs: Annotated[int | None, typer.Option(min=1, help="As of `train`.", rich_help_panel=TRAINING)] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes, one a device.", rich_help_panel=TRAINING)] = 1,
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=TRAINING)] = 0,
    metric: Annotated[
        str, typer.Option(help="What decides; auto: ap_pooled with masks, else of the score.", rich_help_panel=GATE)
    ] = "auto",
    margin: Annotated[
        float, typer.Option(help="The lower 95 % bound of the gain must exceed it.", rich_help_panel=GATE)
    ] = 0.0,
    min_cases: Annotated[int, typer.Option(min=1, help="Frozen test cases needed.", rich_help_panel=GATE)] = 20,
    min_patients: Annotated[int, typer.Option(min=2, help="And their patients.", rich_help_panel=GATE)] = 20,
    guard: Annotated[
        list[str], typer.Option(metavar="METRIC=FALL", help="May not fall by more. Repeatable.", rich_help_panel=GATE)
    ] = [],  # noqa: B006
    localize_settings: Annotated[
        list[str],
        typer.Option("--localize", metavar="KEY=VALUE", help="As --set of `localize`.", rich_help_panel=UPKEEP),
    ] = [],  # noqa: B006
    radiomics_settings: Annotated[
        list[str],
        typer.Option("--radiomics", metavar="KEY=VALUE", help="As --set of `radiomics`.", rich_help_panel=UPKEEP),
    ] = [],  # noqa: B006
    features: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.parquet", help="Table of features.")
    ] = None,
    former: Annotated[int, typer.Option(min=0, help="Former champions whose maps stay.", rich_help_panel=UPKEEP)] = 1,
    snapshot_days: Annotated[
        int | None, typer.Option(min=0, help="Forget older states of the cohort.", rich_help_panel=UPKEEP)
    ] = None,
    json_file: Json = None,
) -> None:
    """Take in what is new, train a challenger where there is reason to, keep the better model, and its maps up to date.

    The source is read with the options of the `ingest` that first filled the cohort from it. A run that was killed is
    completed by the next one.

    Example: `lesionflow retrain cohort photos --target grade --new-cases 100 --guard auc_referable=0.02`
    """
    from flows.retrain import retrain as flow
    from models.config import validated
    from tasks.promotion.gate import Gate
    from tasks.retraining.settings import Localisation, Retention, Training, Trigger

    chosen = parsed(settings)
    trainer = {**chosen.pop("trainer", {}), **({"max_epochs": epochs} if epochs else {})}
    rule = {"metric": metric, "margin": margin, "min_cases": min_cases, "min_patients": min_patients}
    guards = {key: number(value, "--guard") for key, value in (pair(text, "--guard") for text in guard)}
    found = {"settings": parsed(localize_settings), "radiomics": parsed(radiomics_settings)}
    answer = flow(
        cohort,
        source,
        system,
        target,
        name,
        training=Training(preset=preset, settings=chosen, trainer=trainer, seed=seed, devices=devices),
        trigger=Trigger(new_cases=new_cases),
        gate=validated(Gate, {**rule, "guards": guards}, where="gate"),
        localisation=Localisation(**found, features=str(features) if features else None),
        retention=Retention(former=former, snapshot_days=snapshot_days),
        force=force,
        if_running=if_running,
    )
    show(answer, ("status", "why", "champion", "added", "updated", "localized", "maps", "features", "run_id", "report"))
    save_json(json_file, answer)
    fail_for_cases(answer)


def number(text: str, option: str) -> float:
    """A number, or one line."""
    try:
        return float(text)
    except ValueError:
        fail(f"{option} {text!r} is not a number such as 0.02", WRONG_USE)
        raise


@app.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION|previous", help="Make this version the champion, whatever the gate says."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    freeze: Annotated[
        str | None, typer.Option(metavar="COHORT", help="Judge by this cohort's test cases from now on.")
    ] = None,
    target: Annotated[str, typer.Option(help="With --freeze: the label to judge by.")] = "grade",
    json_file: Json = None,
) -> None:
    """Who leads, and every decision with its figures; make another version the champion, or roll back.

    Example: `lesionflow promote iterative-refinement`

    Example: `lesionflow promote iterative-refinement --to previous --reason "misses drusen"`
    """
    from flows.promote import promote as flow
    from flows.show import show_decisions

    answer = flow(name, to, reason, freeze, target)
    show_decisions(console, answer)
    save_json(json_file, answer)


@app.command()
def ui(
    cohorts: Annotated[
        list[str] | None, typer.Argument(metavar="[COHORT]…", help="Shown beside those that the workspace knows.")
    ] = None,
    prefect_port: Annotated[int, typer.Option(help="Prefect's: flows, schedules, runs.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's: metrics, models.")] = 5000,
    browser_port: Annotated[int, typer.Option(help="That of the results.")] = 8080,
) -> None:
    """Prefect, MLflow and the results on loopback, with workers that run what is scheduled; Ctrl-C ends them.

    Example: `lesionflow ui`
    """
    from tasks.services.run import run_services

    run_services(prefect_port, mlflow_port, browser_port, [str(Path(cohort).resolve()) for cohort in cohorts or []])
