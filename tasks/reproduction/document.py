"""docs/reproductions.md from docs/reproductions/*.json: a section a reproduction, as its tables came out.

lesionflow reproduce gdc --json docs/reproductions/gdc-small.json
python -m tasks.reproduction.document
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.reproduction.tables import arm_table, choice_table, facts, failure_line, gain_table, rule_table, study_table
from tasks.reuse import PROJECT

FOLDER, PAGE = PROJECT / "docs" / "reproductions", PROJECT / "docs" / "reproductions.md"
HEAD = """# Reproductions

Every paper's experiment as `lesionflow reproduce` ran it, beside the figures that the paper prints. Means over the
seeds of the training, with Student's 95 % interval over them; the cohort is the same for all seeds. A number that did
not come out stands here as it came out. `make reproductions` writes this page from `docs/reproductions/*.json`, each of
which is what `--json` gave.
"""
NOTHING = "\nNone has been kept yet.\n"


def document(answers: list[dict[str, Any]]) -> str:
    """The page of some answers, by experiment and preset."""
    ordered = sorted(answers, key=lambda answer: (answer["experiment"], answer["preset"], answer["device"]))
    return HEAD + ("".join(map(section, ordered)) or NOTHING)


def section(answer: dict[str, Any]) -> str:
    """One reproduction: where and how it was made, its arms, what was expected, gains, what failed."""
    known = facts(answer)
    parts = [
        f"\n## {answer['experiment']}, preset {answer['preset']}, on {answer['device']}\n",
        f"`{answer['command']}` on {answer['date']}.\n",
        markdown(arm_table(answer)),
        f"The paper: {answer['reported_on']}.\n" if answer["reported_on"] else "",
        markdown(study_table(answer)),
        markdown(rule_table(answer)),
        markdown(gain_table(answer)),
        markdown(choice_table(answer)),
        failure_line(answer).capitalize() + ".\n" if answer["failed"] else "",
        "\n".join(f"- {name}: {value}" for name, value in known.items() if name not in ("device", "date")) + "\n",
    ]
    return "\n".join(part for part in parts if part)


def markdown(table: pd.DataFrame) -> str:
    """A table of texts; nothing of an empty one."""
    if table.empty:
        return ""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows) + "\n"


def kept_answers() -> list[dict[str, Any]]:
    """What the files hold; `reproduce all` writes several answers into one."""
    contents = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    return [answer for content in contents for answer in content.get("experiments", {"": content}).values()]


def main(page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(document(kept_answers()))
    print(f"{page} is written")


if __name__ == "__main__":
    main()
