"""Ingesting again: only what changed is read, and how the work was cut up leaves no trace in the cohort."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

from storage import Case, Cohort, ingest, open_source
from storage.admission import is_duplicate
from storage.geometry import plain
from storage.ingestion import begin
from storage.layout import Corrections


@dataclass
class Watched:
    """A source that notes what is asked of it."""

    source: object
    hashed: list[str] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.source, name)

    def sha256(self, key):
        self.hashed.append(key.file)
        return self.source.sha256(key)

    def read(self, key):
        self.decoded.append(key.file)
        return self.source.read(key)


@pytest.fixture
def masks(photographs) -> Path:
    """A mask of microaneurysms for each photograph, in a folder beside them."""
    folder = photographs.with_name("masks")
    folder.mkdir()
    for number in range(6):
        write_mask(folder, number, number + 1)
    return folder


def write_mask(folder: Path, number: int, rows: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[:rows] = True
    Image.fromarray(mask).save(folder / f"p{number}_MA.png")
    return mask


def again(folder: Path, place: Path, **options):
    """The report of an ingestion, and what was hashed and decoded for it."""
    watched = Watched(open_source(str(folder), "photographs", **{"size": 32, "crop": False, **options}))
    return ingest(watched, place), sorted(watched.hashed), sorted(watched.decoded)


def test_what_is_unchanged_is_neither_hashed_nor_decoded(photographs, masks, tmp_path):
    first, _, decoded = again(photographs, tmp_path / "c", masks=masks)
    assert len(decoded) == 6
    report, hashed, decoded = again(photographs, tmp_path / "c", masks=masks)
    assert (report.known, report.snapshot, hashed, decoded) == (6, first.snapshot, [], [])


def test_only_new_photographs_are_read(photographs, tmp_path):
    again(photographs, tmp_path / "c")
    Image.new("RGB", (32, 32), "red").save(photographs / "new.png")
    report, hashed, decoded = again(photographs, tmp_path / "c")
    assert (report.added, report.known, hashed, decoded) == (1, 6, ["new.png"], ["new.png"])


def test_a_touched_file_is_hashed_once_more_and_then_known_again(photographs, tmp_path):
    again(photographs, tmp_path / "c")
    digest, stamp = Cohort.open(tmp_path / "c").content_digest(), Cohort.open(tmp_path / "c").table["stamp"].iat[2]
    os.utime(photographs / "p2.png", ns=(1, 1))
    report, hashed, decoded = again(photographs, tmp_path / "c")
    assert (report.known, report.updated, hashed, decoded) == (6, 0, ["p2.png"], [])
    cohort = Cohort.open(tmp_path / "c")
    assert (cohort.content_digest() == digest, cohort.table["stamp"].iat[2] != stamp) == (True, True)
    assert again(photographs, tmp_path / "c")[1:] == ([], [])


def test_a_changed_mask_is_taken_over_and_the_pixels_stay(photographs, masks, tmp_path):
    again(photographs, tmp_path / "c", masks=masks)
    before = Cohort.open(tmp_path / "c")
    drawn = write_mask(masks, 3, 20)
    report, hashed, decoded = again(photographs, tmp_path / "c", masks=masks)
    assert (report.added, report.updated, hashed, decoded) == (0, 1, ["p3.png"], ["p3.png"])
    after = Cohort.open(tmp_path / "c")
    assert np.array_equal(after.mask(3), drawn)
    differs = after.table.ne(before.table) & ~(after.table.isna() & before.table.isna())
    assert differs.stack()[lambda cells: cells].index.tolist() == [(3, "stamp"), (3, "mask_digest")]
    assert np.array_equal(after.image(3), before.image(3))
    assert again(photographs, tmp_path / "c", masks=masks)[1:] == ([], [])


def test_a_mask_that_is_deleted_means_no_lesion_of_that_class(photographs, masks, tmp_path):
    again(photographs, tmp_path / "c", masks=masks)
    (masks / "p3_MA.png").unlink()
    assert again(photographs, tmp_path / "c", masks=masks)[0].updated == 1
    cohort = Cohort.open(tmp_path / "c")
    assert (cohort.mask(3).any(), bool(cohort.table["has_masks"].iat[3])) == (False, True)


def test_a_mask_that_broke_is_reported_each_time_until_it_is_whole(photographs, masks, tmp_path):
    again(photographs, tmp_path / "c", masks=masks)
    (masks / "p3_MA.png").write_bytes(b"broken")
    for _ in range(2):
        report, _, _ = again(photographs, tmp_path / "c", masks=masks)
        assert [one.file for one in report.quarantined] == ["p3.png"]
        assert Cohort.open(tmp_path / "c").mask(3)[:4].all()
    drawn = write_mask(masks, 3, 9)
    report, _, _ = again(photographs, tmp_path / "c", masks=masks)
    assert (report.updated, report.quarantined) == (1, [])
    assert np.array_equal(Cohort.open(tmp_path / "c").mask(3), drawn)
    assert Cohort.open(tmp_path / "c").quarantine.empty


def test_another_patient_for_a_known_photograph_is_set_aside_and_the_splits_stay(photographs, tmp_path):
    columns = {"labels": photographs / "l.csv", "label": {"grade": "g"}, "patient_column": "who"}
    (photographs / "l.csv").write_text("file,g,who\n" + "".join(f"p{n},0,w{n}\n" for n in range(6)))
    again(photographs, tmp_path / "c", **columns)
    before = Cohort.open(tmp_path / "c").table
    (photographs / "l.csv").write_text("file,g,who\n" + "".join(f"p{n},0,w{min(n, 4)}\n" for n in range(6)))
    report, _, _ = again(photographs, tmp_path / "c", **columns)
    (aside,) = report.quarantined
    assert (aside.file, "is now said to be of patient 'w4', in the cohort it is of 'w5'" in aside.reason) == (
        "p5.png",
        True,
    )
    after = Cohort.open(tmp_path / "c").table
    assert after["split"].equals(before["split"])
    assert after["patient_id"].equals(before["patient_id"])


def test_photographs_of_one_name_in_two_folders_are_each_known_again(photographs, tmp_path):
    """p0.png and p0.jpg make the name of the case p0.png; alone in its folder p0.png makes it p0."""
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (32, 32), "red").save(photographs / "p0.jpg")
    Image.new("RGB", (32, 32), "green").save(other / "p0.png")
    again(photographs, tmp_path / "c")
    assert again(other, tmp_path / "c")[0].added == 1
    for folder, count in ((photographs, 7), (other, 1)):
        for file in folder.iterdir():
            os.utime(file, ns=(1, 1))
        report, _, _ = again(folder, tmp_path / "c")
        assert (report.added, report.known, report.quarantined) == (0, count, [])


def write_volumes(folder: Path, side: int = 5) -> Path:
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for number in range(5):
        noise = np.random.default_rng(number).integers(-999, 999, (side, 6, 4 + number % 2)).astype(np.int16)
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(noise, affine), folder / f"v{number}.nii")
        nibabel.save(nibabel.Nifti1Image((noise > 0).astype(np.uint8), affine), folder / "masks" / f"v{number}_MA.nii")
    return folder


def of_volumes(folder: Path, **options):
    return open_source(
        str(folder), "nifti", **{"masks": folder / "masks", "mask_pattern": "{stem}_{lesion}.nii", **options}
    )


def test_a_changed_mask_of_a_volume_is_taken_over(tmp_path):
    folder = write_volumes(tmp_path / "volumes")
    ingest(of_volumes(folder), tmp_path / "c")
    mask = nibabel.load(folder / "masks" / "v2_MA.nii")
    drawn = np.zeros(mask.shape, np.uint8)
    drawn[1:3] = 1
    nibabel.save(nibabel.Nifti1Image(drawn, mask.affine), folder / "masks" / "v2_MA.nii")
    watched = Watched(of_volumes(folder))
    assert (ingest(watched, tmp_path / "c").updated, watched.decoded) == (1, ["v2.nii"])
    assert np.array_equal(Cohort.open(tmp_path / "c").mask(2), drawn.transpose(2, 1, 0))


def test_a_known_volume_that_is_read_at_another_spacing_is_set_aside_and_stays(tmp_path):
    folder = write_volumes(tmp_path / "volumes")
    ingest(of_volumes(folder), tmp_path / "c")
    before = Cohort.open(tmp_path / "c").content_digest()
    os.utime(folder / "masks" / "v2_MA.nii", ns=(1, 1))
    report = ingest(of_volumes(folder, spacing=(1, 1, 1)), tmp_path / "c")
    assert [one.file for one in report.quarantined] == ["v2.nii"]
    assert "give the options that it was ingested with" in report.quarantined[0].reason
    assert Cohort.open(tmp_path / "c").content_digest() == before


def states_of(place: Path) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    cohort = Cohort.open(place)
    return cohort.table, cohort.quarantine, cohort.content_digest()


def many(folder: Path) -> Path:
    """Photographs with a broken one, a second copy, and patients with several."""
    folder.mkdir()
    for number in range(11):
        noise = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"p{number:02d}.png")
    (folder / "p05.png").write_bytes(b"broken")
    (folder / "p07.png").write_bytes((folder / "p02.png").read_bytes())
    (folder / "l.csv").write_text("file,g,who\n" + "".join(f"p{n:02d},{n % 3},w{n // 3}\n" for n in range(11)))
    return folder


def of_many(folder: Path):
    columns = {"labels": folder / "l.csv", "label": {"grade": "g"}, "patient_column": "who"}
    return open_source(str(folder), "photographs", size=16, crop=False, **columns)


def test_how_the_work_was_cut_up_leaves_no_trace_in_the_cohort(tmp_path):
    source, states = of_many(many(tmp_path / "photographs")), []
    for batch, threads in ((64, 1), (1, 4), (3, 1), (3, 4)):
        report = ingest(source, tmp_path / f"c{batch}{threads}", batch=batch, threads=threads)
        assert (report.added, len(report.broken), len(report.quarantined)) == (9, 1, 2)
        states.append(states_of(tmp_path / f"c{batch}{threads}"))
    for table, aside, digest in states[1:]:
        pd.testing.assert_frame_equal(table, states[0][0])
        pd.testing.assert_frame_equal(aside, states[0][1])
        assert digest == states[0][2]
    assert any(is_duplicate(one) for one in report.quarantined)


def test_the_cluster_makes_the_cohort_that_one_process_makes(tmp_path):
    from tasks.ingestion import ingest_on_cluster

    source, steps = of_many(many(tmp_path / "photographs")), []
    ingest(source, tmp_path / "alone")
    intake = begin(source, tmp_path / "cluster", batch=2)
    report = ingest_on_cluster(intake, 2, lambda count, _: steps.append(count))
    assert (report.added, len(report.quarantined), steps) == (9, 2, [2, 2, 2, 2, 2, 1])
    for one, other in zip(states_of(tmp_path / "alone"), states_of(tmp_path / "cluster"), strict=True):
        assert one == other if isinstance(one, str) else one.equals(other)


def grid_of(number: int) -> tuple[int, int]:
    return 2 + number % 3, 4


def picture(number: int, masked: bool) -> Case:
    grid = grid_of(number)
    image = np.full((1, *grid), number, np.uint8)
    masks = {"MA": image[0] % 2 == 1} if masked else None
    return Case(
        f"c{number}",
        f"p{number // 2}",
        f"c{number}.png",
        f"{number:x}",
        image,
        {"g": 0.0},
        masks,
        plain(grid, (1.0, 1.0)),
    )


class CohortAsDicts(RuleBasedStateMachine):
    """Whatever is done in whatever order, the cohort is what plain dicts are."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name, "cohort")
        self.cohort = Cohort.create(
            self.place, grid=None, dims=("y", "x"), channels=("grey",), dtype="uint8", lesions=("MA",), labels=("g",)
        )
        self.images, self.masks, self.labels, self.maps, self.past = {}, {}, {}, {}, []

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(numbers=st.lists(st.integers(0, 9), max_size=4, unique=True), masked=st.booleans())
    def take_in(self, numbers, masked):
        cases = [picture(number, masked) for number in numbers]
        self.cohort.append(cases)
        for case in cases:
            if case.case_id not in self.images:
                self.images[case.case_id], self.labels[case.case_id] = case.image, 0.0
                self.masks[case.case_id] = case.masks

    @precondition(lambda self: self.images)
    @rule(data=st.data(), label=st.floats(0, 9), masked=st.booleans(), brighter=st.booleans())
    def correct(self, data, label, masked, brighter):
        row = data.draw(st.integers(0, len(self.images) - 1))
        name = list(self.images)[row]
        mask = np.ones(self.images[name].shape[1:], bool)
        better = Corrections(labels={row: {"g": label}}, masks={row: {"MA": mask} if masked else None})
        self.labels[name], self.masks[name] = label, {"MA": mask} if masked else None
        if brighter:
            self.images[name] = better.images[row] = self.images[name] + np.uint8(10)
        self.cohort.record([], corrections=better)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), name=st.sampled_from(["a", "a/b"]), value=st.integers(0, 99))
    def write_maps(self, data, name, value):
        rows = data.draw(st.lists(st.integers(0, len(self.images) - 1), min_size=1, max_size=3, unique=True))
        saliency = [np.full(self.cohort.shape(row), value + row, np.float32) for row in rows]
        self.cohort.write_maps(name, rows, saliency, pd.DataFrame({"value": [value] * len(rows)}))
        self.maps.setdefault(name, {}).update(dict.fromkeys(rows, value))

    @precondition(lambda self: self.maps)
    @rule(data=st.data())
    def drop_maps(self, data):
        name = data.draw(st.sampled_from(sorted(self.maps)))
        self.cohort.drop_maps(name)
        del self.maps[name]

    @rule()
    def reopen(self):
        self.cohort = Cohort.open(self.place)

    @rule()
    def remember(self):
        self.past.append((self.cohort.snapshot, list(self.images), self.cohort.content_digest()))

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def look_back(self, data):
        snapshot, names, digest = data.draw(st.sampled_from(self.past))
        old = Cohort.open(self.place, snapshot)
        assert (old.table["case_id"].tolist(), old.content_digest()) == (names, digest)

    @invariant()
    def is_what_the_dicts_are(self):
        table = self.cohort.table
        assert table["case_id"].tolist() == list(self.images)
        assert table["g"].tolist() == list(self.labels.values())
        for row, name in enumerate(self.images):
            assert np.array_equal(self.cohort.image(row), self.images[name])
            annotated = self.masks[name] is not None
            assert table["has_masks"].iat[row] == annotated
            assert np.array_equal(
                self.cohort.mask(row), self.masks[name]["MA"] if annotated else self.images[name][0] < 0
            )
        assert self.cohort.map_names() == sorted(self.maps)
        for name, values in self.maps.items():
            maps = self.cohort.maps(name)
            assert maps.table["value"].to_dict() == values
            assert all((maps.saliency(row) == value + row).all() for row, value in values.items())


CohortAsDicts.TestCase.settings = settings(max_examples=30, stateful_step_count=6, deadline=None)
TestCohortAsDicts = CohortAsDicts.TestCase
