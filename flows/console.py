"""What the verbs share: their common options, what they print, and how they fail."""

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console

from tasks.reuse import write_json

console = Console() if sys.stdout.isatty() else Console(width=160)
FAILED, WRONG_USE = 1, 2
Number = TypeVar("Number", int, float)
CohortPath = Annotated[str, typer.Argument(metavar="COHORT", help="The cohort's folder.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting; dots go deeper. Repeatable.")]
Split = Annotated[list[str], typer.Option(help="Only cases of this split (train, validation, test). Repeatable.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what the table shows as JSON.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]


def fail(message: str, status: int) -> None:
    """One line on standard error, and out."""
    print(f"lesionflow: {message}", file=sys.stderr)
    raise SystemExit(status)


def fail_for_cases(answer: dict[str, Any]) -> None:
    """Exit 1 with one line where some cases could not be done."""
    if failed := answer.get("failed"):
        cases = [case for one in failed for case in one["cases"]]
        count = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
        first = f"{cases[0]}: {failed[0]['reason']}"
        fail(f"{count} failed ({first}); the others are done, and the same command tries again", FAILED)


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


def numbers(text: str | None, option: str, kind: type[Number]) -> tuple[Number, Number, Number] | None:
    """`4,4,4` as three numbers z, y, x."""
    if text is None:
        return None
    try:
        z, y, x = (kind(part) for part in text.split(","))
    except ValueError:
        fail(f"{option} {text!r} is not three numbers z,y,x such as 4,4,4", WRONG_USE)
    return z, y, x
