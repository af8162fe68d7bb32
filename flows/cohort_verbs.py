"""The verbs that fill, show, check and hand out a cohort."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.console import (
    FAILED,
    WRONG_USE,
    CohortPath,
    Json,
    Seed,
    Split,
    console,
    fail,
    listed,
    numbers,
    pair,
    save_json,
    show,
    three_fractions,
)

app = typer.Typer()

FILES, GRID, PERSONS = "Files and labels", "Grid", "Persons and speed"
Plane = Literal["axial", "coronal", "sagittal"]
Interpolator = Literal["linear", "nearest", "cubic"]
Format = Literal["nifti", "ome-zarr", "dicom-seg", "png", "zarr", "html"]


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder of photographs, volumes or DICOM, a file, or `sim:fundus?cases=200`."
        ),
    ],
    cohort: CohortPath,
    kind: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="photographs, dicom, nifti, nrrd, mha, medmnist, idrid, aptos, eyepacs, chase_db1, hrf, isic, "
            "hecktor, autopet; default: told from the files.",
            rich_help_panel=FILES,
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV file with a row a case.", rich_help_panel=FILES)] = None,
    file_column: Annotated[
        str | None, typer.Option(help="Its column of file names; default `file`.", rich_help_panel=FILES)
    ] = None,
    label: Annotated[
        list[str],
        typer.Option(metavar="NAME=COLUMN", help="A label and its column. Repeatable.", rich_help_panel=FILES),
    ] = [],  # noqa: B006
    patient_column: Annotated[
        str | None, typer.Option(help="Its column of patients; without it a case is one.", rich_help_panel=FILES)
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="Its column of splits: train, validation, test.", rich_help_panel=FILES)
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of lesion masks.", rich_help_panel=FILES)] = None,
    mask_pattern: Annotated[
        str | None,
        typer.Option(help="How mask files are named, such as `{stem}_{lesion}.png`.", rich_help_panel=FILES),
    ] = None,
    image_pattern: Annotated[
        str | None,
        typer.Option(help="How volumes are named, such as `{case}/PET.nii.gz`.", rich_help_panel=FILES),
    ] = None,
    channel: Annotated[
        list[str],
        typer.Option(metavar="NAME=PATTERN", help="A channel of several, and its files.", rich_help_panel=FILES),
    ] = [],  # noqa: B006
    lesions: Annotated[
        str | None, typer.Option(help="Lesion classes, by comma; default: those found.", rich_help_panel=FILES)
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="DICOM: only series of this one (CT, MR, PT).", rich_help_panel=FILES)
    ] = None,
    units: Annotated[
        Literal["suv", "raw"] | None,
        typer.Option(help="DICOM PET: SUV by body weight (default), or as stored.", rich_help_panel=FILES),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="Photographs: side of the square grid, 512.", rich_help_panel=GRID)
    ] = None,
    crop: Annotated[
        bool | None,
        typer.Option("--crop/--no-crop", help="Photographs: crop to the field of view.", rich_help_panel=GRID),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Volumes: resample to this spacing in mm.", rich_help_panel=GRID),
    ] = None,
    interpolator: Annotated[Interpolator | None, typer.Option(help="How.", rich_help_panel=GRID)] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Volumes: cut or pad to one grid of voxels.", rich_help_panel=GRID),
    ] = None,
    dtype: Annotated[
        Literal["uint8", "int16", "uint16", "float32"] | None,
        typer.Option(help="How a new cohort keeps pixels; default: as the first files do.", rich_help_panel=GRID),
    ] = None,
    project: Annotated[
        Plane | None, typer.Option(help="Volumes: maximum-intensity projection.", rich_help_panel=GRID)
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            help="Share of patients: train,validation,test; default 0.7,0.15,0.15, or the cohort's.",
            rich_help_panel=PERSONS,
        ),
    ] = None,
    keep_identifiers: Annotated[
        bool,
        typer.Option("--keep-identifiers", help="DICOM: patient ids as they are, not hashed.", rich_help_panel=PERSONS),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.", rich_help_panel=PERSONS)
    ] = None,
    json_file: Json = None,
) -> None:
    """Bring a cohort up to date with a folder of photographs, volumes or DICOM series, or a simulator.

    Example: `lesionflow ingest photos cohort --labels grades.csv --file-column image --label grade=dr_grade`

    Example: `lesionflow ingest pet cohort --image-pattern '{case}/PET.nii.gz' --mask-pattern '{case}/GTV.nii.gz'`
    """
    from flows.ingest import ingest as flow

    answer = flow(
        source,
        cohort,
        kind=kind,
        labels=str(labels) if labels else None,
        file_column=file_column,
        label=dict(pair(text, "--label") for text in label) or None,
        patient_column=patient_column,
        split_column=split_column,
        masks=str(masks) if masks else None,
        mask_pattern=mask_pattern,
        lesions=listed(lesions) or None,
        image_pattern=image_pattern,
        channels=dict(pair(text, "--channel") for text in channel) or None,
        modality=modality,
        units=units,
        keep_identifiers=keep_identifiers or None,
        size=size,
        crop=crop,
        spacing=numbers(spacing, "--spacing", float),
        interpolator=interpolator,
        shape=numbers(shape, "--shape", int),
        project=project,
        fractions=three_fractions(fractions) if fractions else None,
        dtype=dtype,
        workers=workers,
    )
    show(answer, ("cohort", "cases", "added", "updated", "known", "quarantined", "snapshot", "report"))
    save_json(json_file, answer)
    if answer["broken"]:
        fail(f"{answer['broken']} file(s) set aside; `lesionflow info {cohort}` lists them", FAILED)


@app.command()
def synthesize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, MLflow run id, NAME or NAME@alias.")],
    cohort: CohortPath,
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder of the cohort to make.")],
    splits: Annotated[str | None, typer.Option(help="Splits of the references, by comma; default: all.")] = None,
    per_case: Annotated[int, typer.Option(min=1, help="Images after each reference, with noise of their own.")] = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Make a cohort of synthesised images, each with the labels and the split of the case that it was made after.

    Example: `lesionflow synthesize patho-gan cohort synthetic --splits train --per-case 2`
    """
    from flows.synthesize import synthesize as flow

    answer = flow(model, cohort, out, listed(splits), per_case, seed)
    show(answer, ("cohort", "references", "left_out", "cases", "added", "quarantined", "snapshot", "report"))
    save_json(json_file, answer)


@app.command()
def info(
    cohort: CohortPath,
    snapshot: Annotated[str | None, typer.Option(help="As it was at this snapshot.")] = None,
    diff: Annotated[
        tuple[str, str] | None, typer.Option(metavar="SNAPSHOT SNAPSHOT", help="What changed from one to another.")
    ] = None,
    json_file: Json = None,
) -> None:
    """What a cohort holds: cases by split and label, lesion classes, maps, snapshots, quarantine.

    Example: `lesionflow info cohort`
    """
    from flows.show import cohort_diff, cohort_info, show_info

    answer = cohort_diff(cohort, *diff) if diff else cohort_info(cohort, snapshot)
    show_info(console, answer)
    save_json(json_file, answer)


@app.command()
def check(
    cohort: CohortPath,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    expire: Annotated[
        int | None,
        typer.Option(min=0, metavar="DAYS", help="Forget snapshots older than this, and free the room they take."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Read every pixel of a cohort against its checksums; name what is damaged.

    `--repair` reads damaged cases again from their source, drops damaged maps so that `localize` makes them anew,
    brings an older format up to date, and removes what killed writers have left.

    Example: `lesionflow check cohort --repair`
    """
    from flows.check import check as flow

    answer = flow(cohort, repair, expire)
    show(answer, ("cohort", "snapshot", "cases", "maps", "megabytes", "damaged", "repaired", "lost", "freed_megabytes"))
    save_json(json_file, answer)
    if answer["damaged"] and not repair:
        fail(f"{len(answer['damaged'])} damaged; `lesionflow check {cohort} --repair` mends what can be", FAILED)
    if answer["lost"]:
        fail(f"{len(answer['lost'])} could not be mended; ingest their source again", FAILED)


@app.command()
def export(
    cohort: CohortPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    format: Annotated[Format, typer.Option(help="What to write.")],
    maps: Annotated[list[str], typer.Option(metavar="NAME", help="A map set to write too. Repeatable.")] = [],  # noqa: B006
    lesions: Annotated[str | None, typer.Option(help="Lesion classes, by comma; default: all.")] = None,
    split: Split = [],  # noqa: B006
    grid: Annotated[
        Literal["cohort", "source"], typer.Option(help="NIfTI: masks and maps on the cohort's grid, or the source's.")
    ] = "cohort",
    dicom: Annotated[Path | None, typer.Option(help="DICOM SEG: the folder of the original series.")] = None,
    json_file: Json = None,
) -> None:
    """Write images, masks and maps for other tools, or pages to look at without one (`html`).

    Example: `lesionflow export cohort out --format nifti --maps S --grid source`

    Example: `lesionflow export cohort pages --format html --maps S --split test`
    """
    from flows.export import export as flow

    if format == "dicom-seg" and dicom is None:
        fail("--format dicom-seg needs the original series: --dicom FOLDER", WRONG_USE)
    series = str(dicom) if dicom else None
    answer = flow(cohort, str(out), format, maps, split, grid, series, lesions=listed(lesions))
    show(answer, ("out", "format", "cases", "written", "unchanged", "skipped", "files", "manifest", "page"))
    save_json(json_file, answer)
    if answer.get("failed"):
        fail(f"{len(answer['failed'])} cases not exported; the first: {answer['failed'][0]}", FAILED)
