"""Synthesis: a cohort of images that a model makes after those of another cohort."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from prefect import task

from models.errors import ModelError
from models.system import System
from storage.case import Case, Listed, Rejected
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.geometry import plain
from storage.ingestion import IngestReport, Intake, begin, brings_news, ingest_in_threads
from tasks.clusters import shared_path
from tasks.figures import picture, show_image
from tasks.map_making import best_device
from tasks.maps import selected_cases
from tasks.model_files import describe_model, load_model
from tasks.own_maps import as_stored
from tasks.progress import progress
from tasks.reporting import Section, publish_report
from tasks.tracking.runs import tracked_run

SHARD = 64  # cases a transaction
SHOWN = 8


class SynthesizedImages:
    """Source of the images that a model makes, `per_case` of them after each of some cases of a cohort.

    An image keeps its reference's labels and split. Its patient is `synthetic-` and the reference's, so that images
    after one person stay together. It depends on the model, the reference, its number and the seed alone.
    """

    name = "synthesized"
    lesions: tuple[str, ...] = ()

    def __init__(self, system: System, version: str, cohort: Cohort, cases: Sequence[int], per_case: int, seed: int):
        self.system, self.version, self.cohort, self.seed = system, version, cohort, seed
        self.address = f"synthesized:{system.name}/{version}"
        self.grid, self.dims, self.channels, self.labels = cohort.grid, cohort.dims, cohort.channels, cohort.labels
        self._places = {self._file(case, number): (case, number) for case in cases for number in range(per_case)}

    def listing(self) -> Sequence[Listed]:
        """One entry an image, without making it."""
        return self._listed

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(self._entry(file, case, number) for file, (case, number) in self._places.items())

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the image."""
        case, number = self._places[key.file]
        decides = [self.system.name, self.version, self.cohort.table["image_digest"].iat[case], number, self.seed]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def read(self, key: Listed) -> Case | Rejected:
        """Make one image; rejected where its reference cannot be read."""
        case, number = self._places[key.file]
        try:
            reference = torch.from_numpy(self.cohort.image(case)[None])
        except CohortError as error:
            return Rejected(key.file, str(error), self.sha256(key))
        drawn = int(np.random.SeedSequence([self.seed, case, number]).generate_state(1)[0])
        made = self.system.synthesize(reference.to(next(self.system.parameters()).device), [drawn])
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=self.sha256(key),
            image=as_stored(made, reference.dtype)[0],
            labels=dict(key.labels),
            masks=None,
            geometry=plain(self.cohort.shape(case), self.cohort.spacing(case)),
            split=key.split,
            acquisition=self._made_from(case),
        )

    def reference(self, key: Listed) -> int:
        """The case that an image is made after."""
        return self._places[key.file][0]

    def _entry(self, file: str, case: int, number: int) -> Listed:
        row = self.cohort.table.iloc[case]
        return Listed(
            file=file,
            case_id=f"{row['case_id']}-{self.version[:6]}-{self.seed}-{number}",
            patient_id=f"synthetic-{row['patient_id']}",
            labels={label: float(row[label]) for label in self.labels},
            split=str(row["split"]),
        )

    def _file(self, case: int, number: int) -> str:
        return f"{self.address}?case={self.cohort.table['case_id'].iat[case]}&seed={self.seed}#{number}"

    def _made_from(self, case: int) -> dict[str, str | float]:
        reference = {"reference": str(self.cohort.table["case_id"].iat[case]), "snapshot": self.cohort.snapshot}
        return {"synthesized_by": f"{self.system.name}/{self.version}", **reference, "seed": float(self.seed)}


@task(name="synthesize-cohort", task_run_name="{out}")
def synthesize_cohort(model: str, cohort: str, out: str, splits: list[str], per_case: int, seed: int) -> dict[str, Any]:
    """Bring `out` up to date with the images that the model makes after those of `cohort`; what is there is kept.

    Raises:
        ModelError: the system synthesises no images.
        CohortError: `out` is the cohort itself or of another kind, or there is nothing to make an image after.
    """
    opened, about = Cohort.open(cohort), describe_model(Path(model))
    if shared_path(cohort) == shared_path(out):
        raise CohortError(f"{out} is the cohort of the references; synthesised images go into another one")
    system = synthesizer(Path(model), about)
    cases = references(opened, system, about["target"], splits)
    source = SynthesizedImages(system, about["version"], opened, cases, per_case, seed)
    settings = {"model": about["version"], "per_case": per_case, "seed": seed, "splits": splits}
    origin = {
        "address": source.address,
        "options": {**settings, "cohort": shared_path(cohort), "snapshot": opened.snapshot},
    }
    intake = begin(source, out, opened.fractions if not Cohort.exists(out) else None, origin, SHARD, str(opened.dtype))
    counts = {"cohort": out, "references": len(cases), "left_out": left_out(opened, splits, cases)}
    if not brings_news(intake):
        made = Cohort.open(out)
        return {**counts, "cases": len(made), "added": 0, "snapshot": made.snapshot, "reused": True}
    with tracked_run("synthesize", {**settings, "cohort": cohort, "out": out}, snapshot=opened.snapshot) as run:
        run.log_dataset(opened, "references")
        report = ingest_with_progress(intake)
        made = Cohort.open(out)
        counts |= {"cases": len(made), "added": report.added, "quarantined": len(report.quarantined)}
        run.log_metrics(counts)
        run.tag(made=made.snapshot, model_version=about["version"])
        page = publish_report("synthesize", run, f"Synthesised after {cohort}", sections(source, made, counts))
    return {**counts, "snapshot": made.snapshot, "run_id": run.run_id, "report": str(page)}


def synthesizer(folder: Path, about: dict[str, Any]) -> System:
    """The model on the accelerator where there is one; ModelError where it makes no images."""
    system = load_model(folder, about)
    if type(system).synthesize is System.synthesize:
        raise ModelError(f"{about['system']} synthesises no images; systems of the family synthesis do")
    system.to(best_device())
    return system


def references(cohort: Cohort, system: System, target: str, splits: Sequence[str]) -> list[int]:
    """The cases to make images after: of a system that makes abnormal ones alone, those with such a label.

    Raises:
        CohortError: the cohort has no such label, or no such case.
    """
    cases, begins = selected_cases(cohort, splits), getattr(system.config, "synthesizes_from", None)
    if begins is None:
        return cases
    labels = cohort.label(target)
    chosen = [case for case in cases if labels[case] >= begins]
    if not chosen:
        raise CohortError(f"{cohort.path} has no case with {target} {begins:g} or more among these: nothing to follow")
    return chosen


def left_out(cohort: Cohort, splits: Sequence[str], chosen: Sequence[int]) -> int:
    """How many cases of the splits no image is made after."""
    return len(selected_cases(cohort, splits)) - len(chosen)


def ingest_with_progress(intake: Intake) -> IngestReport:
    """One image after another: the model is one."""
    done = 0
    with progress("synthesize", len(intake.source.listing())) as advance:

        def moved(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, "")
            done = now

        return ingest_in_threads(intake, 1, moved)


def sections(source: SynthesizedImages, made: Cohort, counts: dict[str, Any]) -> list[Section]:
    """The report: counts, and some references beside what was made after them."""
    return [
        Section("What happened", table=pd.DataFrame([counts])),
        Section("References above, images made after them below", figure=pairs(source, made)),
    ]


def pairs(source: SynthesizedImages, made: Cohort) -> Figure:
    """Images spread over the listing, each below its reference."""
    listed, row_of = source.listing(), {case: row for row, case in enumerate(made.table["case_id"])}
    there = [key for key in listed if key.case_id in row_of]
    shown = [there[place] for place in np.unique(np.linspace(0, len(there) - 1, SHOWN).round().astype(int))]
    figure = Figure(figsize=(1.6 * len(shown), 3.4))
    for column, key in enumerate(shown):
        case = source.reference(key)
        for row, image in enumerate((picture(source.cohort, case)[0], picture(made, row_of[key.case_id])[0])):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + column + 1)
            show_image(axes, image)
    figure.tight_layout(pad=0.3)
    return figure
