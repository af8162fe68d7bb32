"""One self-contained HTML report a run: tables and figures in one file, logged to MLflow and linked from Prefect."""

import base64
import io
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from prefect.artifacts import create_link_artifact

from tasks.tracking.provenance import git_commit
from tasks.tracking.runs import TrackedRun
from tasks.workspace import current_workspace

PAGES = Environment(loader=PackageLoader("tasks", "templates"), autoescape=True)


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading with a text, a table, a figure, or several."""

    heading: str
    text: str = ""
    table: pd.DataFrame | None = None
    figure: Figure | None = None


def publish_report(step: str, run: TrackedRun, title: str, sections: list[Section]) -> Path:
    """Write the page, log it to the run, and link it from the Prefect run."""
    file = current_workspace().reports / step / f"{run.run_id}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures = {section.heading: png_of(section.figure) for section in sections if section.figure}
    file.write_text(render(title, sections, pictures, run.run_id))
    run.log_file(file, "report")
    with tempfile.TemporaryDirectory() as folder:
        for heading, png in pictures.items():
            picture = Path(folder, f"{_slug(heading)}.png")
            picture.write_bytes(png)
            run.log_file(picture, "figures")
    create_link_artifact(key=f"{step}-report", link=file.as_uri(), link_text=title)
    return file


def render(title: str, sections: list[Section], pictures: dict[str, bytes], run_id: str) -> str:
    """The HTML of a report; `pictures` are the sections' figures as PNG, by heading."""
    parts = [
        {
            "heading": section.heading,
            "text": section.text,
            "table": table_html(section.table) if section.table is not None else "",
            "figure": embedded(pictures[section.heading]) if section.figure else "",
        }
        for section in sections
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return PAGES.get_template("report.html.j2").render(
        title=title, sections=parts, run_id=run_id, made=made, commit=git_commit()
    )


def table_html(table: pd.DataFrame) -> str:
    """A table with numbers to four digits."""
    return str(table.to_html(index=False, border=0, na_rep="–", float_format=lambda value: f"{value:.4g}"))


def png_of(figure: Figure) -> bytes:
    """The figure drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def embedded(png: bytes) -> str:
    """A picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
