"""The `lesionflow` command: each verb is a thin call of the flow of the same name.

Flows are imported inside the verbs, after the workspace is entered (Prefect and MLflow read their settings as they
load) and so that `--help` answers at once.
"""

import os
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import cohort_verbs, operating_verbs, training_verbs
from flows.console import (
    FAILED,
    WRONG_USE,
    CohortPath,
    Json,
    Seed,
    Set,
    Split,
    console,
    fail,
    fail_for_cases,
    listed,
    parsed,
    save_json,
    show,
)
from tasks.workspace import enter_workspace

app = typer.Typer(
    help="Weakly-supervised lesion localisation: from labelled images to lesion maps, metrics and radiomics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
Method = Literal["iterative-refinement", "saliency", "own"]
METHODS = (
    "gradient, guided_backprop, smoothgrad, cam, grad_cam, grad_cam_plus_plus, guided_grad_cam, "
    "integrated_gradients, deeplift, occlusion, rise, pathology_aware."
)
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of a local cluster; default: as many as are worth it.")
]
INTERRUPTED = 130  # what typer makes of Ctrl-C


@app.callback()
def _workspace(
    workspace: Annotated[
        Path, typer.Option(envvar="LESIONFLOW_WORKSPACE", help="Folder of Prefect's and MLflow's state and of reports.")
    ] = Path(".lesionflow"),
) -> None:
    enter_workspace(workspace)


@app.command()
def demo(json_file: Json = None) -> None:
    """The whole chain on a simulated fundus cohort.

    Example: `lesionflow demo`
    """
    from flows.demo import demo as flow
    from flows.show import show_demo

    summary = flow()
    show_demo(console, summary)
    save_json(json_file, summary)


app.add_typer(cohort_verbs.app)
app.add_typer(training_verbs.app)
app.add_typer(operating_verbs.app)


@app.command()
def localize(
    cohort: CohortPath,
    model: Annotated[str, typer.Option(help="Model folder, MLflow run id, NAME or NAME@alias.")],
    method: Annotated[
        Method | None,
        typer.Option(help="The loop, one plain saliency map, or what the system predicts; default: its way."),
    ] = None,
    saliency: Annotated[str | None, typer.Option(help=METHODS)] = None,
    inpainter: Annotated[str | None, typer.Option(help="navier_stokes, telea, harmonic.")] = None,
    split: Split = [],  # noqa: B006
    settings: Set = [],  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Images on the device at once.")] = 32,
    workers: Workers = None,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="What to call the map set.")] = None,
    json_file: Json = None,
) -> None:
    """Write a lesion map for every case that has none from this model and method.

    Example: `lesionflow localize cohort --model iterative-refinement --split test --set decay=0.5`
    """
    from flows.localize import localize as flow

    chosen = parsed(settings) | ({"inpainter": inpainter} if inpainter else {})
    answer = flow(cohort, model, method, saliency, split, chosen, batch_size, workers=workers, name=name)
    show(answer, ("maps", "cases", "new", "mean_iterations", "stopped_by_score", "mean_score_drop", "report"))
    save_json(json_file, answer)
    fail_for_cases(answer)


@app.command()
def evaluate(
    cohort: CohortPath,
    maps: Annotated[list[str], typer.Option(metavar="NAME", help="A map set, or the end of its name. Repeatable.")],
    lesions: Annotated[str | None, typer.Option(help="Lesion classes that count, by comma; default: all.")] = None,
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of patients.")] = 1000,
    seed: Seed = 0,
    workers: Workers = None,
    only_lesions: Annotated[bool, typer.Option("--only-lesions", help="Leave out cases without a lesion.")] = False,
    by: Annotated[str | None, typer.Option(metavar="LABEL", help="Also judge each of its values by itself.")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The model folder that made the maps: are they faithful to it?")
    ] = None,
    json_file: Json = None,
) -> None:
    """Compare maps with truth masks: metrics with 95 % intervals, and the first map set against the others.

    Example: `lesionflow evaluate cohort --maps S --maps s_0 --lesions EX,HE --json metrics.json`
    """
    from flows.evaluate import evaluate as flow
    from flows.show import show_evaluation

    evaluated: Literal["all", "lesions"] = "lesions" if only_lesions else "all"
    answer = flow(
        cohort, maps, listed(lesions), split, resamples, seed, workers, evaluated, str(model) if model else None, by
    )
    show_evaluation(console, answer)
    save_json(json_file, answer)
    fail_for_cases(answer)


@app.command()
def radiomics(
    cohort: CohortPath,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.parquet", help="The table to write.")],
    maps: Annotated[str | None, typer.Option(metavar="NAME", help="Measure the lesions found in this map set.")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Measure the cohort's own masks.")] = False,
    split: Split = [],  # noqa: B006
    threshold: Annotated[
        float | None, typer.Option(help="Where a found lesion begins; default: by validation.")
    ] = None,
    settings: Set = [],  # noqa: B006
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Settings by name: ibsi-A … ibsi-E.")] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Perturb a sample of the lesions: how stable is each feature?")
    ] = False,
    workers: Workers = None,
    json_file: Json = None,
) -> None:
    """Radiomics features of every lesion and of each case's whole lesion mask.

    Example: `lesionflow radiomics cohort --maps S --split test -o features.parquet`
    """
    from flows.radiomics import radiomics as flow

    if masks == bool(maps):
        fail("say either --maps NAME or --masks", WRONG_USE)
    chosen = parsed(settings) | ({"preset": preset} if preset else {})
    answer = flow(cohort, str(out), maps, split, threshold, chosen, workers, stability)
    counts = ("rows", "cases", "features", "rows_with_gaps", "stable", "perturbed_lesions")
    show(answer, ("file", *counts, "threshold", "threshold_rule", "report"))
    save_json(json_file, answer)
    fail_for_cases(answer)


@app.command()
def study(
    features: Annotated[str, typer.Argument(metavar="FEATURES.parquet", help="What `radiomics` wrote.")],
    outcome: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Two classes: the greater value, or --set positive_from=NUMBER.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER.parquet", help="Features of other masks of the same patients.")
    ] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="A survival time …")] = None,
    event: Annotated[str | None, typer.Option(metavar="COLUMN", help="… and whether it ended in the event.")] = None,
    harmonise: Annotated[str | None, typer.Option(metavar="COLUMN", help="ComBat across its values: scanners.")] = None,
    stability: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Only features with a large enough icc in it.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Outer folds, by patient.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="So many draws of the folds.")] = 3,
    split: Split = [],  # noqa: B006
    settings: Set = [],  # noqa: B006
    seed: Seed = 0,
    workers: Workers = None,
    json_file: Json = None,
) -> None:
    """What lesion features say of an outcome, by nested cross-validation that keeps patients apart.

    Example: `lesionflow study features.parquet --outcome response --compare found.parquet --json study.json`

    Example: `lesionflow study features.parquet --time survival_days --event death --harmonise scanner`
    """
    from flows.show import show_study
    from flows.study import study as flow

    chosen = {"folds": folds, "repeats": repeats, "seed": seed, **parsed(settings)}
    answer = flow(features, outcome, compare, time, event, harmonise, stability, split, chosen, workers)
    show_study(console, answer)
    save_json(json_file, answer)


@app.command()
def systems(system: Annotated[str | None, typer.Argument(help="Show one, with its settings.")] = None) -> None:
    """The published systems that can be trained.

    Example: `lesionflow systems iterative-refinement`
    """
    from flows.show import show_system, show_systems

    show_system(console, system) if system else show_systems(console)


def main() -> None:
    """Run the command; a user's mistake is one line and status 2, a failed step one line and status 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    try:
        app(standalone_mode=True)
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        fail(one_line(error), status)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            fail("stopped; the same command goes on from here", FAILED)
        raise


def one_line(error: Exception) -> str:
    """What to say of it; where a server has gone, which one."""
    from httpx import ConnectError

    if not isinstance(error, ConnectError):
        return str(error)
    where = os.environ.get("PREFECT_API_URL", "its temporary server")
    return f"Prefect does not answer at {where} ({error}); the same command goes on from here"


def exit_status(error: Exception) -> int | None:
    """The exit status of an error meant for a person; none for a bug, which shows its traceback."""
    from httpx import ConnectError

    from models.errors import ModelError
    from storage.errors import CohortError, SourceError
    from tasks.errors import PromotionError, TrainingError
    from tasks.services.errors import ServicesError

    if isinstance(error, ModelError | CohortError | SourceError | PromotionError):
        return WRONG_USE
    return FAILED if isinstance(error, TrainingError | ServicesError | ConnectError) else None


if __name__ == "__main__":
    main()
