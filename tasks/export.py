"""Export: a cohort's images, masks and maps as files that other tools read, case by case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from prefect import task

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export import (
    Content,
    GridChoice,
    export_zarr,
    heat_scale,
    write_dicom_seg,
    write_nifti,
    write_ome_zarr,
    write_png,
)
from storage.export.delivery import (
    Delivered,
    delivered,
    export_folder,
    is_done,
    map_file_names,
    record,
    safe_names,
    write_manifest,
)
from storage.export.dicom_series import find_series
from tasks.browser.site import export_site
from tasks.maps import find_maps, selected_cases
from tasks.progress import progress
from tasks.reuse import fingerprint
from tasks.shards import map_shards, shards
from tasks.workspace import identity_key

Format = Literal["nifti", "ome-zarr", "dicom-seg", "png", "zarr", "html"]
Writer = Callable[[Cohort, int, Path, Content], list[Path]]
WRITERS: dict[str, tuple[Writer, str]] = {
    "nifti": (write_nifti, ""),
    "ome-zarr": (write_ome_zarr, ".ome.zarr"),
    "dicom-seg": (write_dicom_seg, ".dcm"),
    "png": (write_png, ".png"),
}
SHARD = 8


@dataclass(frozen=True)
class Job:
    """What a worker needs to export cases: (case, file name), from `cohort` at `snapshot` into `out`."""

    cohort: str
    snapshot: str
    out: Path
    format: str
    content: Content
    key: str
    cases: tuple[tuple[int, str], ...] = ()


@task(name="export", task_run_name="{cohort} to {out}")
def export_cohort(
    cohort: str,
    out: str,
    format: Format,
    maps: Sequence[str],
    lesions: Sequence[str],
    splits: Sequence[str],
    grid: GridChoice,
    dicom: str | None,
) -> dict[str, Any]:
    """Write what `out` does not have yet; counts. CohortError for a request that the format cannot meet."""
    check_request(format, maps, grid, dicom, out)
    if format == "html" and lesions:
        raise CohortError("--lesions is not for html: its pages have a switch for each lesion class")
    opened = Cohort.open(cohort)
    cases = selected_cases(opened, splits)
    answer = {"cohort": cohort, "out": out, "format": format, "cases": len(cases)}
    if format == "html":
        names = list(dict.fromkeys(find_maps(opened, name) for name in maps))
        return answer | {"maps": names} | export_site(opened, Path(out), cases, names)
    content = content_of(opened, maps, lesions, grid)
    answer |= {"maps": list(content.maps.values())}
    if format == "zarr":
        return answer | export_store(opened, Path(out), cases, content)
    if dicom:
        content = replace(content, series=find_series(opened, annotated(opened, cases), dicom, identity_key()))
    job = Job(cohort, opened.snapshot, Path(out), format, content, content_key(opened, format, content))
    return answer | export_cases(opened, job, cases)


def check_request(format: str, maps: Sequence[str], grid: str, dicom: str | None, out: str) -> None:
    """CohortError for what cannot go together."""
    if format not in get_args(Format):
        raise CohortError(f"there is no format {format!r}; there is: {', '.join(get_args(Format))}")
    if grid not in get_args(GridChoice):
        raise CohortError(f"there is no grid {grid!r}; there is: {', '.join(get_args(GridChoice))}")
    if "://" in out:
        raise CohortError(f"{out} is no folder; an export is written to a local one")
    if grid == "source" and format != "nifti":
        raise CohortError(f"--grid source is for nifti; {format} has a grid of its own")
    if (format == "dicom-seg") != bool(dicom):
        raise CohortError("--format dicom-seg needs --dicom FOLDER, the series it refers to; no other format takes it")
    if maps and format == "dicom-seg":
        raise CohortError("raw maps are no probabilities, so DICOM SEG cannot hold them; export them as nifti")


def content_of(cohort: Cohort, maps: Sequence[str], lesions: Sequence[str], grid: GridChoice) -> Content:
    """The named map sets and lesion classes (none named: all of them) under the names of their files."""
    if unknown := [lesion for lesion in lesions if lesion not in cohort.lesions]:
        known = ", ".join(cohort.lesions) or "none"
        raise CohortError(f"{cohort.path} has no lesion class '{unknown[0]}'; it has: {known}")
    wanted = list(dict.fromkeys(lesions)) or list(cohort.lesions)
    chosen = map_file_names(list(dict.fromkeys(find_maps(cohort, name) for name in maps)))
    return Content(
        lesions=dict(zip(safe_names(wanted), wanted, strict=True)),
        maps=chosen,
        scales={name: heat_scale(cohort, name) for name in chosen.values()},
        grid=grid,
    )


def annotated(cohort: Cohort, cases: Sequence[int]) -> list[int]:
    """The cases that somebody drew masks for."""
    return [case for case in cases if cohort.table["has_masks"].iloc[case]]


def content_key(cohort: Cohort, format: str, content: Content) -> str:
    """What an exported case was made from; it changes with the cohort's snapshot and with what was asked for."""
    asked = [content.lesions, content.maps, content.scales, content.grid]
    return fingerprint("export", snapshot=cohort.snapshot, format=format, asked=asked)


def export_store(cohort: Cohort, out: Path, cases: Sequence[int], content: Content) -> dict[str, Any]:
    """The cohort as one plain Zarr store."""
    whole = replace(content, maps={name: name for name in content.maps.values()})
    key = fingerprint("export", digest=content_key(cohort, "zarr", whole), cases=list(cases))
    with progress("export", len(cases)) as advance:
        new = export_zarr(cohort, out, cases, whole, advance, key)
    return {"written": len(cases) if new else 0, "unchanged": 0 if new else len(cases), "skipped": 0, "failed": []}


def export_cases(cohort: Cohort, job: Job, cases: Sequence[int]) -> dict[str, Any]:
    """A file or a folder a case, and the manifest; what is there already from the same is left alone."""
    ids = [str(name) for name in cohort.table["case_id"]]
    names = safe_names(ids)
    with export_folder(job.out, {"format": job.format, "cohort": str(Path(job.cohort).resolve())}) as known:
        todo = [case for case in cases if not is_done(job.out, known.get(ids[case]), job.key)]
        parts = [part_of(job, part, names) for part in shards(todo, SHARD)]
        with progress("export", len(todo)) as advance:
            done = deliver_parts(job, parts, advance)
        known |= {case.case_id: case for case in done}
        manifest = write_manifest(job.out, known, cohort.table, cohort.labels)
    return {
        "written": sum(bool(case.files) for case in done),
        "unchanged": len(cases) - len(todo),
        "skipped": sum(not case.files and not case.problem for case in done),
        "failed": [case.problem for case in done if case.problem],
        "files": sum(len(known[ids[case]].files) for case in cases),
        "manifest": str(manifest),
    }


def part_of(job: Job, cases: Sequence[int], names: Sequence[str]) -> Job:
    """The job of one shard, with the series of its own cases only."""
    series = {case: job.content.series[case] for case in cases if case in job.content.series}
    named = tuple((case, names[case] + WRITERS[job.format][1]) for case in cases)
    return replace(job, content=replace(job.content, series=series), cases=named)


def deliver_parts(job: Job, parts: Sequence[Job], advance: Callable[[int, str], None]) -> list[Delivered]:
    """Export the shards side by side, and note each in the journal as it is done."""
    done: list[Delivered] = []
    step: Callable[[int, str], None] | None = advance if len(parts) == 1 else None
    for position, cases in map_shards(partial(deliver_part, advance=step), parts):
        record(job.out, [case for case in cases if not case.problem])
        done.extend(cases)
        if step is None:
            advance(len(parts[position].cases), "")
    return done


def deliver_part(job: Job, advance: Callable[[int, str], None] | None = None) -> list[Delivered]:
    """Export the cases of a shard; runs in a Dask worker where there are several."""
    cohort, done = opened_once(job.cohort, job.snapshot), []
    for case, name in job.cases:
        done.append(deliver_case(cohort, job, case, name))
        if advance:
            advance(1, name)
    return done


def deliver_case(cohort: Cohort, job: Job, case: int, name: str) -> Delivered:
    """Put the file or folder of a case in place; one that cannot be exported says why, and the others go on."""
    writer, _ = WRITERS[job.format]
    problem = ""

    def write(target: Path) -> list[Path]:
        nonlocal problem
        try:
            return writer(cohort, case, target, job.content)
        except CohortError as error:
            problem = str(error)
            return []

    files = delivered(job.out, name, write)
    return Delivered(str(cohort.table["case_id"].iloc[case]), job.key, files, problem)


@lru_cache(maxsize=1)
def opened_once(path: str, snapshot: str) -> Cohort:
    """The cohort, whose table is read once a process and not once a shard."""
    return Cohort.open(path, snapshot)
