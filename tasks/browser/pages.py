"""The pages as HTML, the same for the server and for files; what comes from a cohort is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export.delivery import map_file_names
from tasks.browser.case_page import case_context, number
from tasks.browser.cohorts import Shown

PAGES = Environment(
    loader=PackageLoader("tasks.browser", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
STATIC = Path(__file__).parent / "static"
STATIC_FILES = {"browser.css": "text/css", "grid.js": "text/javascript", "case.js": "text/javascript"}


def overview_page(cohorts: dict[str, str]) -> str:
    """The cohorts by slug, with a link each."""
    return PAGES.get_template("overview.html.j2").render(cohorts=[_entry(slug, path) for slug, path in cohorts.items()])


def _entry(slug: str, path: str) -> dict[str, Any]:
    """A cohort in numbers, or why it cannot be opened."""
    try:
        cohort = Cohort.open(path)
        return {
            "slug": slug,
            "path": path,
            "problem": "",
            "cases": len(cohort),
            "grid": cohort.shown_grid,
            "labels": cohort.labels,
            "lesions": cohort.lesions,
            "maps": map_file_names(cohort.map_names()),
            "snapshot": cohort.snapshot,
        }
    except CohortError as error:
        return {"slug": slug, "path": path, "problem": str(error)}


def grid_page(shown: Shown, version: str = "", home: str = "") -> str:
    """The page of a cohort; `version` ends the addresses of pictures, `home` is the overview's where there is one."""
    cohort = shown.cohort
    return PAGES.get_template("grid.html.j2").render(
        title=shown.title,
        path=cohort.path,
        snapshot=cohort.snapshot,
        grid=cohort.shown_grid,
        count=len(shown.cases),
        version=version,
        home=home,
    )


def case_page(shown: Shown, case: int, version: str = "", linked: bool = False) -> str:
    """The page of a case; `linked`: MLflow's runs with their addresses."""
    context = case_context(shown, case, linked)
    return PAGES.get_template("case.html.j2").render(
        title=shown.title, snapshot=shown.cohort.snapshot, version=version, **context
    )


def problem_page(title: str, text: str) -> str:
    """A page that says what is not there, or broken."""
    return PAGES.get_template("problem.html.j2").render(title=title, text=text)


PAGES.filters["number"] = number
PAGES.filters["thousands"] = lambda value: f"{value:,}"
