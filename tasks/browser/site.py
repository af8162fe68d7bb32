"""A cohort's pages as files that need no server: the same addresses, from `index.html` on.

Each file appears whole; a case counts as written when all of its are there, which the journal of the folder says
(`storage.export.delivery`). The table of cases comes last: it names what is complete.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export.delivery import Delivered, export_folder, is_done, record, replaced, write_manifest, writing
from tasks.browser import pages, pictures
from tasks.browser.cohorts import Shown, name_of, shown
from tasks.browser.listing import cases_script
from tasks.browser.radiomics import features_by_region
from tasks.progress import progress
from tasks.reuse import fingerprint
from tasks.shards import map_shards, shards

SHARD = 16
File = tuple[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Site:
    """What a worker needs to write `cases` of `cohort` at `snapshot` into `out`; `shown` are all that have a page."""

    cohort: str
    snapshot: str
    out: Path
    maps: tuple[str, ...]
    shown: tuple[int, ...]
    key: str = ""
    cases: tuple[int, ...] = ()


def export_site(cohort: Cohort, out: Path, cases: Sequence[int], maps: Sequence[str]) -> dict[str, Any]:
    """Write the pages of some cases with these map sets; counts. What is there from just this is left alone."""
    site = Site(cohort.path, cohort.snapshot, out, tuple(maps), tuple(cases))
    ids = [str(name) for name in cohort.table["case_id"]]
    with export_folder(out, {"format": "html", "cohort": str(Path(cohort.path).resolve())}) as known, writing(out):
        site = replace(site, key=key_of(site))
        todo = [case for case in cases if not is_done(out, known.get(ids[case]), site.key)]
        done = write_cases(site, todo)
        before, kept = dict(known), {ids[case] for case in cases}
        known = {case_id: found for case_id, found in known.items() if case_id in kept}
        known |= {case.case_id: case for case in done}
        remove_left_over(out, before, known)
        write_shared(site)
        manifest = write_manifest(out, known, cohort.table, cohort.labels)
    return {
        "written": len(done),
        "unchanged": len(cases) - len(todo),
        "skipped": 0,
        "failed": [case.problem for case in done if case.problem],
        "files": sum(len(case.files) for case in known.values()) + len(pages.STATIC_FILES) + 2,
        "manifest": str(manifest),
        "page": str(out / "index.html"),
    }


def key_of(site: Site) -> str:
    """What the pages are made from: the cohort's state, what was asked for, the tables of lesions, the templates."""
    templates = sorted((Path(pages.__file__).parent / "templates").iterdir())
    asked = {"snapshot": site.snapshot, "cases": site.shown, "maps": site.maps}
    features = [str(found) for found in features_by_region(opened(site)).items()]
    return fingerprint("pages", features=features, templates=[file.read_text() for file in templates], **asked)


def opened(site: Site) -> Shown:
    """The cohort with what is shown of it; opened once a process."""
    return shown(site.cohort, site.snapshot, name_of(site.cohort), site.maps, site.shown)


def write_cases(site: Site, todo: Sequence[int]) -> list[Delivered]:
    """Write cases side by side, and note each shard in the journal as it is done."""
    parts = [replace(site, cases=tuple(part)) for part in shards(todo, SHARD)]
    done: list[Delivered] = []
    with progress("export", len(todo)) as advance:
        for position, written in map_shards(partial(write_part, advance=advance if len(parts) == 1 else None), parts):
            record(site.out, [case for case in written if not case.problem])
            done.extend(written)
            if len(parts) > 1:
                advance(len(parts[position].cases), "")
    return done


def write_part(site: Site, advance: Callable[[int, str], None] | None = None) -> list[Delivered]:
    """Write the cases of a shard; runs in a Dask worker where there are several."""
    cohort, done = opened(site), []
    for case in site.cases:
        done.append(write_case(cohort, site, case))
        if advance:
            advance(1, cohort.case_ids[case])
    return done


def write_case(cohort: Shown, site: Site, case: int) -> Delivered:
    """Write all files of a case, its page last; a damaged picture is one of the reason, which is told of too."""
    names, problem = [], ""
    for name, draw in case_files(cohort, case):
        try:
            content = draw()
        except CohortError as error:
            problem = problem or str(error)
            content = pictures.placeholder(str(error), pictures.PNG if name.endswith(".png") else pictures.JPEG)
        write_file(site.out / name, content)
        names.append(name)
    return Delivered(cohort.case_ids[case], site.key, tuple(names), problem)


def case_files(cohort: Shown, case: int) -> Iterator[File]:
    """(name, what draws it) of each file of a case."""
    yield f"thumbnails/{case}.jpg", lambda: pictures.thumbnail(cohort, case)
    for name in picture_names(cohort, case):
        yield f"pictures/{case}/{name}", lambda name=name: pictures.case_picture(cohort, case, name)[0]  # type: ignore[misc]
    for slug, maps in cohort.sets.items():
        for name in pictures.map_picture_names(cohort, maps, case):
            yield (
                f"maps/{slug}/{case}/{name}",
                lambda maps=maps, name=name: pictures.map_picture(cohort, maps, case, name)[0],  # type: ignore[misc]
            )
    yield f"cases/{case}.html", lambda: pages.case_page(cohort, case).encode()


def picture_names(cohort: Shown, case: int) -> list[str]:
    """The pictures of a case but its maps; no outlines where its masks are damaged, which its page tells."""
    try:
        return [*pictures.image_names(cohort, case), *pictures.outline_names(cohort, case)]
    except CohortError:
        return pictures.image_names(cohort, case)


def write_shared(site: Site) -> None:
    """The grid with its table, style and scripts."""
    cohort = opened(site)
    for name in pages.STATIC_FILES:
        write_file(site.out / "static" / name, (pages.STATIC / name).read_bytes())
    write_file(site.out / "cases.js", cases_script(cohort).plain)
    write_file(site.out / "index.html", pages.grid_page(cohort).encode())


def write_file(file: Path, content: bytes) -> None:
    """Write a file, which appears whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replaced(file, lambda partial: partial.write_bytes(content))


def remove_left_over(out: Path, before: Mapping[str, Delivered], now: Mapping[str, Delivered]) -> None:
    """Remove the files that cases had and have no more."""
    for case_id, case in before.items():
        for name in set(case.files) - set(now[case_id].files if case_id in now else ()):
            (out / name).unlink(missing_ok=True)
