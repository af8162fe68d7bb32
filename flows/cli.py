"""The `lesionflow` command: each verb is a thin call of the flow of the same name.

Flows are imported inside the verbs, after the workspace is entered (Prefect and MLflow read their settings as they
load) and so that `--help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console

from tasks.reuse import write_json
from tasks.workspace import enter_workspace

app = typer.Typer(
    help="Weakly-supervised lesion localisation: from labelled images to lesion maps, metrics and radiomics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console() if sys.stdout.isatty() else Console(width=160)
FAILED, WRONG_USE = 1, 2
Method = Literal["iterative-refinement", "saliency"]

CohortPath = Annotated[str, typer.Argument(metavar="COHORT", help="The cohort's folder.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting; dots go deeper. Repeatable.")]
Split = Annotated[list[str], typer.Option(help="Only cases of this split (train, validation, test). Repeatable.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what the table shows as JSON.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]


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


@app.command()
def ingest(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder of photographs, or `sim:fundus?cases=200`.")
    ],
    cohort: CohortPath,
    labels: Annotated[Path | None, typer.Option(help="CSV file with a row a photograph.")] = None,
    file_column: Annotated[str, typer.Option(help="Its column of file names.")] = "file",
    label: Annotated[list[str], typer.Option(metavar="NAME=COLUMN", help="A label and its column. Repeatable.")] = [],  # noqa: B006
    patient_column: Annotated[
        str | None, typer.Option(help="Its column of patients; without it a case is one.")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Its column of splits: train, validation, test.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of lesion masks.")] = None,
    mask_pattern: Annotated[str, typer.Option(help="How mask files are named.")] = "{stem}_{lesion}.png",
    lesions: Annotated[str | None, typer.Option(help="Lesion classes, by comma; default: those found.")] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of the square grid, pixels.")] = 512,
    crop: Annotated[bool, typer.Option(help="Crop to the field of view.")] = True,
    fractions: Annotated[
        str | None,
        typer.Option(help="Share of patients: train,validation,test; default 0.7,0.15,0.15, or the cohort's."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Bring a cohort up to date with a folder of photographs or a simulator.

    Example: `lesionflow ingest photos cohort --labels grades.csv --file-column image --label grade=dr_grade`
    """
    from flows.ingest import ingest as flow

    answer = flow(
        source,
        cohort,
        labels=str(labels) if labels else None,
        file_column=file_column,
        label=dict(pair(text, "--label") for text in label),
        patient_column=patient_column,
        split_column=split_column,
        masks=str(masks) if masks else None,
        mask_pattern=mask_pattern,
        lesions=listed(lesions) or None,
        size=size,
        crop=crop,
        fractions=three_fractions(fractions) if fractions else None,
    )
    show(answer, ("cohort", "cases", "added", "updated", "known", "quarantined", "snapshot", "report"))
    save_json(json_file, answer)
    if answer["broken"]:
        fail(f"{answer['broken']} file(s) set aside; `lesionflow info {cohort}` lists them", FAILED)


@app.command()
def info(cohort: CohortPath, json_file: Json = None) -> None:
    """What a cohort holds: cases by split and label, lesion classes, maps, snapshots, quarantine.

    Example: `lesionflow info cohort`
    """
    from flows.show import cohort_info, show_info

    answer = cohort_info(cohort)
    show_info(console, answer)
    save_json(json_file, answer)


@app.command()
def train(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="`lesionflow systems` lists them.")],
    cohort: CohortPath,
    target: Annotated[str, typer.Option(help="The label to learn.")] = "grade",
    preset: Annotated[str, typer.Option(help="Settings of the system's experiment file: small, paper.")] = "small",
    settings: Set = [],  # noqa: B006
    epochs: Annotated[int | None, typer.Option(min=1, help="Same as --set trainer.max_epochs=N.")] = None,
    initial: Annotated[
        str | None,
        typer.Option("--init", help="Start from a model (as --model of localize), or from a weights file."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes, one a device.")] = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Train a system on a cohort's labels; the same command goes on where a killed one stopped.

    Example: `lesionflow train iterative-refinement cohort --target grade --set network.width=0.5 --epochs 40`
    """
    from flows.train import train as flow

    chosen = parsed(settings)
    trainer = {**chosen.pop("trainer", {}), **({"max_epochs": epochs} if epochs else {})}
    answer = flow(system, cohort, target, preset, chosen, trainer, seed, devices, initial)
    show(answer, ("run_id", "model", "model_version", "registered", "epochs", "best", "reused", "report"))
    save_json(json_file, answer)


@app.command()
def localize(
    cohort: CohortPath,
    model: Annotated[str, typer.Option(help="Model folder, MLflow run id, NAME or NAME@alias.")],
    method: Annotated[Method, typer.Option(help="The loop, or one plain saliency map.")] = "iterative-refinement",
    saliency: Annotated[str | None, typer.Option(help="guided_backprop, gradient, grad_cam, smoothgrad.")] = None,
    inpainter: Annotated[str | None, typer.Option(help="navier_stokes, telea, harmonic.")] = None,
    split: Split = [],  # noqa: B006
    settings: Set = [],  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Images on the device at once.")] = 32,
    json_file: Json = None,
) -> None:
    """Write a lesion map for every case that has none from this model and method.

    Example: `lesionflow localize cohort --model iterative-refinement --split test --set decay=0.5`
    """
    from flows.localize import localize as flow

    chosen = parsed(settings) | ({"inpainter": inpainter} if inpainter else {})
    answer = flow(cohort, model, method, saliency, split, chosen, batch_size)
    show(answer, ("maps", "cases", "new", "mean_iterations", "stopped_by_score", "mean_score_drop", "report"))
    save_json(json_file, answer)


@app.command()
def evaluate(
    cohort: CohortPath,
    maps: Annotated[list[str], typer.Option(metavar="NAME", help="A map set, or the end of its name. Repeatable.")],
    lesions: Annotated[str | None, typer.Option(help="Lesion classes that count, by comma; default: all.")] = None,
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of patients.")] = 1000,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Compare maps with truth masks: metrics with 95 % intervals, and the first map set against the others.

    Example: `lesionflow evaluate cohort --maps S --maps s_0 --lesions EX,HE --json metrics.json`
    """
    from flows.evaluate import evaluate as flow
    from flows.show import show_evaluation

    answer = flow(cohort, maps, listed(lesions), split, resamples, seed)
    show_evaluation(console, answer)
    save_json(json_file, answer)


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
    json_file: Json = None,
) -> None:
    """Radiomics features of every lesion and of each case's whole lesion mask.

    Example: `lesionflow radiomics cohort --maps S --split test -o features.parquet`
    """
    from flows.radiomics import radiomics as flow

    if masks == bool(maps):
        fail("say either --maps NAME or --masks", WRONG_USE)
    answer = flow(cohort, str(out), maps, split, threshold, parsed(settings))
    show(answer, ("file", "rows", "cases", "features", "rows_with_gaps", "threshold", "threshold_rule", "report"))
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
    try:
        app(standalone_mode=True)
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        fail(str(error), status)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from here", FAILED)


def exit_status(error: Exception) -> int | None:
    """The exit status of an error meant for a person; none for a bug, which shows its traceback."""
    from models.errors import ModelError
    from storage.errors import CohortError, SourceError
    from tasks.errors import TrainingError

    if isinstance(error, ModelError | CohortError | SourceError):
        return WRONG_USE
    return FAILED if isinstance(error, TrainingError) else None


def fail(message: str, status: int) -> None:
    """One line on standard error, and out."""
    print(f"lesionflow: {message}", file=sys.stderr)
    raise SystemExit(status)


def show(answer: dict[str, Any], keys: tuple[str, ...]) -> None:
    """The named parts of an answer, a line each."""
    for key in [key for key in keys if key in answer]:
        console.print(f"{key.replace('_', ' '):18} {readable(answer[key])}", soft_wrap=True, highlight=False)


def readable(value: Any) -> str:
    """Numbers to four digits, lists and tables in one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {readable(part)}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def save_json(file: Path | None, answer: dict[str, Any]) -> None:
    """`--json FILE`."""
    if file:
        write_json(file, answer)


def parsed(settings: list[str]) -> dict[str, Any]:
    """`["network.width=16", "decay=0.3"]` as nested settings; values are YAML."""
    nested: dict[str, Any] = {}
    for text in settings:
        key, value = pair(text, "--set")
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = yaml.safe_load(value)
    return nested


def pair(text: str, option: str) -> tuple[str, str]:
    """`key=value` split."""
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        fail(f"{option} {text!r} is not of the form KEY=VALUE", WRONG_USE)
    return key, value


def listed(text: str | None) -> list[str]:
    """`EX,HE` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def three_fractions(text: str) -> tuple[float, float, float]:
    """`0.7,0.15,0.15` as numbers that add up to one."""
    try:
        train_share, validation_share, test_share = (float(part) for part in text.split(","))
    except ValueError:
        fail(f"--fractions {text!r} is not three numbers such as 0.7,0.15,0.15", WRONG_USE)
    if (
        min(train_share, validation_share, test_share) < 0
        or abs(train_share + validation_share + test_share - 1) > 1e-6
    ):
        fail(f"--fractions {text!r} do not add up to 1", WRONG_USE)
    return train_share, validation_share, test_share


if __name__ == "__main__":
    main()
