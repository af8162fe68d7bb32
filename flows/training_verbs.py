"""The verbs that train."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.console import FAILED, WRONG_USE, CohortPath, Json, Seed, Set, console, fail, parsed, save_json, show

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()
FOLDS, NODES = "Cross-validation", "Several machines"


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
    devices: Annotated[int, typer.Option(min=1, help="Processes, one a device; of each node.")] = 1,
    seed: Seed = 0,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; the command runs on each.", rich_help_panel=NODES)] = 1,
    node_rank: Annotated[int, typer.Option(min=0, help="Which of them this is.", rich_help_panel=NODES)] = 0,
    rendezvous: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where they meet: on node 0.", rich_help_panel=NODES)
    ] = "",
    folds: Annotated[
        str | None,
        typer.Option(metavar="K|loo", help="Train K models, or one a patient left out.", rich_help_panel=FOLDS),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="So many draws of the folds.", rich_help_panel=FOLDS)] = 1,
    split: Annotated[
        list[str],
        typer.Option(help="Take cases of this split; default: train, validation. Repeatable.", rich_help_panel=FOLDS),
    ] = [],  # noqa: B006
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Folds at a time; default: as many as GPUs allow, or one.", rich_help_panel=FOLDS),
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a system on a cohort's labels; the same command goes on where a killed one stopped.

    Example: `lesionflow train iterative-refinement cohort --target grade --set network.width=0.5 --epochs 40`

    Example: `lesionflow train iterative-refinement cohort --target grade --folds 5`
    """
    from flows.train import train as flow

    chosen = parsed(settings)
    trainer = {**chosen.pop("trainer", {}), **({"max_epochs": epochs} if epochs else {})}
    if folds:
        from flows.cross_validate import cross_validate

        if nodes > 1:
            fail("--folds trains on one machine; leave --nodes away", WRONG_USE)
        common = (preset, chosen, trainer, seed, devices, initial)
        answer = cross_validate(system, cohort, target, fold_count(folds), repeats, split, *common, parallel)
        show_cross_validation(answer)
        save_json(json_file, answer)
        return
    if repeats > 1 or split or parallel:
        fail("--repeats, --split and --parallel say how to cross-validate; give --folds K, too", WRONG_USE)
    if nodes > 1 and not (rendezvous and node_rank < nodes):
        fail("--nodes N needs --rendezvous HOST:PORT and --node-rank 0 … N-1", WRONG_USE)
    answer = flow(system, cohort, target, preset, chosen, trainer, seed, devices, initial, nodes, node_rank, rendezvous)
    show(answer, ("run_id", "model", "model_version", "registered", "epochs", "best", "reused", "report"))
    save_json(json_file, answer)


def fold_count(text: str) -> int | Literal["loo"]:
    """`--folds 5`, or `loo` for a fold a patient."""
    if text == "loo":
        return "loo"
    if not text.isdigit():
        fail(f"--folds {text!r} is neither a number such as 5 nor loo", WRONG_USE)
    return int(text)


def show_cross_validation(answer: dict[str, Any]) -> None:
    """What held-out cases say, and where all of it lies."""
    from tasks.evaluation import with_interval

    metrics = answer["held_out"]
    values = {key: with_interval(metrics, key) for key in metrics if not key.endswith("_interval")}
    keys = ("run_id", "folds", "repeats", "cases", "patients", "held_out", "maps", "scores")
    show({**answer, "held_out": values}, (*keys, "model", "model_version", "registered", "reused", "report"))


@app.command()
def search(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="`lesionflow systems` lists them.")],
    cohort: CohortPath,
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all, those of earlier commands included.")],
    space: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=LOW:HIGH[:log]|KEY=A,B,C",
            help="What varies, beside or instead of what the experiment file says. Repeatable.",
        ),
    ] = [],  # noqa: B006
    target: Annotated[str, typer.Option(help="The label to learn.")] = "grade",
    preset: Annotated[str, typer.Option(help="Settings of the system's experiment file: small, paper.")] = "small",
    settings: Set = [],  # noqa: B006
    devices: Annotated[int, typer.Option(min=1, help="Processes of a trial, one a device.")] = 1,
    parallel: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Try settings of a system by training it, and keep the best; the same command goes on where a killed one stopped.

    Example: `lesionflow search iterative-refinement cohort --trials 30 --space optimiser.learning_rate=1e-4:1e-2:log`
    """
    from flows.search import search as flow
    from tasks.search.space import parsed_space

    chosen = parsed(settings)
    trainer = chosen.pop("trainer", {})
    answer = flow(system, cohort, trials, parsed_space(space), target, preset, chosen, trainer, seed, devices, parallel)
    keys = ("monitor", "value", "parameters", "trial", "trials", "run_id", "model", "model_version", "registered")
    show(answer, (*keys, "search_run_id", "reused", "report"))
    save_json(json_file, answer)


@app.command()
def reproduce(
    system: Annotated[str, typer.Argument(metavar="SYSTEM|FILE|all", help="An experiment's name, or its YAML file.")],
    preset: Annotated[str, typer.Option(help="Of the experiment: small, paper.")] = "small",
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each arm; default: the experiment's.")] = None,
    arm: Annotated[list[str], typer.Option(metavar="NAME", help="Only this arm. Repeatable.")] = [],  # noqa: B006
    cohort: Annotated[str | None, typer.Option(metavar="PATH", help="A cohort instead of the source.")] = None,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A field of the experiment; dots go deeper. Repeatable."),
    ] = [],  # noqa: B006
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Trainings side by side; default: one a GPU, or one a core.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Run a paper's experiment, every arm with every seed, and show it beside the paper's figures.

    The same command goes on where a killed one stopped.

    Example: `lesionflow reproduce gdc --preset small --seeds 3 --json gdc.json`

    Example: `lesionflow reproduce my_experiment.yaml --set source.cases=200 --set trainer.max_epochs=5`
    """
    from flows.reproduce import reproduce as flow
    from tasks.reproduction.tables import failure_line

    answer = flow(system, preset, seeds, arm or None, cohort, parsed(settings) or None, parallel)
    for one in answer.get("experiments", {"": answer}).values():
        show_reproduction(one)
    save_json(json_file, answer)
    if line := failure_line(answer):
        fail(line, FAILED)


def show_reproduction(answer: dict[str, Any]) -> None:
    """Arms beside the paper's figures, what was expected, gains, and what they stand on."""
    from tasks.reproduction.tables import arm_table, choice_table, facts, gain_table, rule_table, study_table

    over = f"mean over {answer['seeds']} seeds, 95 % interval over them" if answer["seeds"] > 1 else "1 seed"
    print_table(f"{answer['experiment']}, preset {answer['preset']}: {over}", arm_table(answer))
    if answer["reported_on"]:
        console.print(f"The paper: {answer['reported_on']}", soft_wrap=True, highlight=False)
    print_table("What their lesions say of outcomes: nested cross-validation, 95 % over patients", study_table(answer))
    print_table("What was expected", rule_table(answer))
    print_table("Relative gains over the seeds; by seed the difference, 95 % over patients", gain_table(answer))
    print_table("What was chosen, on split validation with a training of its own", choice_table(answer))
    known = facts(answer)
    shown = {key: known[key] for key in ("protocol", "cohort", "evaluated", "trainings", "seconds")}
    show({**shown, "report": answer["report"]}, (*shown, "report"))


def print_table(title: str, table: "pd.DataFrame") -> None:
    """A data frame of texts, unless it is empty."""
    from rich.table import Table

    shown = Table(*map(str, table.columns), title=title, title_justify="left")
    for row in table.astype(str).itertuples(index=False):
        shown.add_row(*row)
    if len(table):
        console.print(shown)
