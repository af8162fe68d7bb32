"""Cohorts of format 1, laid out as lesionflow 0.1 did, are brought up to date and lose nothing."""

import hashlib
from dataclasses import replace
from pathlib import Path

import icechunk
import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image
from zarr.codecs import ZstdCodec

from storage import Cohort, CohortError, ingest, open_source
from storage.check import check, expire, repair
from storage.migration import migrate
from tests.damage import damaged, files_in, flip

SIZE, LESIONS = 32, ("HE", "MA")
TEXTS = ("case_id", "patient_id", "split", "file", "sha256")
CUT = ("crop_top", "crop_left", "crop_height", "crop_width")


def image_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[number, 2:9] = True
    return mask


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Six photographs with microaneurysms, the last one without a mask file."""
    folder = tmp_path / "photographs"
    (folder / "masks").mkdir(parents=True)
    for number in range(6):
        Image.fromarray(image_of(number)).save(folder / f"p{number}.png")
        if number < 5:
            Image.fromarray(mask_of(number)).save(folder / "masks" / f"p{number}_MA.png")
    return folder


def options(folder: Path) -> dict:
    (folder / "labels.csv").write_text("file,g\n" + "".join(f"p{number},{number}\n" for number in range(6)))
    labels = {"labels": folder / "labels.csv", "label": {"grade": "g"}}
    return {"size": SIZE, "crop": False, "masks": folder / "masks", "lesions": LESIONS, **labels}


def write_format_1(path: Path, folder: Path, format: int = 1, annotated: bool = True) -> tuple[str, pd.DataFrame]:
    """The six photographs in a repository of lesionflow 0.1, with maps; its snapshot and its table."""
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repository.writable_session("main")
    root = zarr.open_group(session.store, mode="a", zarr_format=3)
    table = pd.DataFrame(
        {
            "case_id": [f"p{number}" for number in range(6)],
            "patient_id": [f"patient {number // 2}" for number in range(6)],
            "split": ["train"] * 4 + ["test"] * 2,
            "file": [f"p{number}.png" for number in range(6)],
            "sha256": [hashlib.sha256((folder / f"p{number}.png").read_bytes()).hexdigest() for number in range(6)],
            "spacing_y_mm": [np.nan] * 6,
            "spacing_x_mm": [np.nan] * 6,
            "crop_top": [0, -3, 0, 0, 0, 0],
            "crop_left": [0, 5, 0, 0, 0, 0],
            "crop_height": [SIZE, 64, *[SIZE] * 4],
            "crop_width": [SIZE, 64, *[SIZE] * 4],
            "has_masks": [annotated] * 6,
            "grade": [float(number) for number in range(6)],
        }
    )
    images = np.stack([image_of(number).transpose(2, 0, 1) for number in range(6)])
    masks = np.stack([[np.zeros((SIZE, SIZE), bool), mask_of(number) & (number < 5)] for number in range(6)])
    add_rows(root, "image", images, ("channel", "y", "x"))
    add_columns(root, table, "case")
    add_columns(root, pd.DataFrame({"channel": ["red", "green", "blue"]}), "channel")
    add_rows(root, "mask", masks & annotated, ("lesion", "y", "x"))
    add_columns(root, pd.DataFrame({"lesion": LESIONS}), "lesion")
    aside = pd.DataFrame({"file": ["broken.png"], "sha256": ["0"], "reason": ["is not an image"]})
    add_columns(root.create_group("quarantine"), aside, "file")
    shared = {"size": SIZE, "channels": ["red", "green", "blue"], "dtype": "uint8", "lesions": list(LESIONS)}
    rest = {"labels": ["grade"], "fractions": [0.6, 0.2, 0.2], "source": "photographs"}
    root.attrs["lesionflow"] = {"format": format, **shared, **rest}
    write_maps_1(root.create_group("maps/cam"))
    return str(session.commit("6 cases added")), table


def add_rows(group, name, values, dims, together=1):
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(together, *values.shape[1:]),
        dtype=values.dtype,
        compressors=ZstdCodec(level=1),
        dimension_names=("case", *dims),
    )
    array[...] = values


def add_columns(group, rows, dim):
    for name in rows.columns:
        text = rows[name].dtype.kind not in "fiub"
        kind = "string" if text else "int32" if name in CUT else rows[name].dtype
        column = group.create_array(name, shape=(len(rows),), chunks=(4096,), dtype=kind, dimension_names=(dim,))
        column[:] = rows[name].to_numpy(dtype=object if text else None)


def maps() -> np.ndarray:
    return np.random.default_rng(9).normal(size=(2, SIZE, SIZE)).astype(np.float32)


def write_maps_1(group):
    add_columns(group, pd.DataFrame({"case": [4, 1], "score": [0.5, 0.25], "why": ["cap", ""]}), "case")
    add_rows(group, "saliency", maps(), ("y", "x"))
    add_rows(group, "trajectory", np.arange(6.0).reshape(2, 3), ("trajectory_1",), together=1024)
    group.attrs.update({"columns": ["score", "why"], "arrays": ["trajectory"], "attrs": {"decay": 0.3}})


def nothing(origin):
    raise AssertionError("no source is needed")


def test_an_older_cohort_says_which_command_mends_it(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    for opening in (Cohort.open, Cohort.exists, check):
        with pytest.raises(CohortError, match=r"has format 1, this lesionflow 2; `lesionflow check COHORT --repair`"):
            opening(str(tmp_path / "cohort"))


def test_a_migrated_cohort_reads_as_it_was(photographs, tmp_path):
    _, table = write_format_1(tmp_path / "cohort", photographs)
    report = repair(str(tmp_path / "cohort"), nothing)
    cohort = Cohort.open(tmp_path / "cohort")
    assert (report.repaired, report.damaged, report.lost) == (["format 1"], [], [])
    assert (report.cases, report.maps, report.snapshot) == (6, 2, cohort.snapshot)
    assert (cohort.grid, cohort.dims, cohort.labels) == ((SIZE, SIZE), ("y", "x"), ("grade",))
    assert (cohort.channels, cohort.lesions, cohort.fractions) == (("red", "green", "blue"), LESIONS, (0.6, 0.2, 0.2))
    kept = [name for name in table.columns if name not in CUT]
    pd.testing.assert_frame_equal(cohort.table[kept], table[kept], check_dtype=False)
    assert cohort.quarantine.to_dict("records") == [{"file": "broken.png", "sha256": "0", "reason": "is not an image"}]
    for number in range(6):
        assert np.array_equal(cohort.image(number), image_of(number).transpose(2, 0, 1))
        assert np.array_equal(cohort.mask(number), mask_of(number) & (number < 5))


def test_the_maps_of_a_migrated_cohort_read_as_they_were_and_can_be_added_to(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    repair(str(tmp_path / "cohort"), nothing)
    cohort = Cohort.open(tmp_path / "cohort")
    cam = cohort.maps("cam")
    assert (cam.indices.tolist(), cam.attrs, cam.table["why"].tolist()) == ([4, 1], {"decay": 0.3}, ["cap", ""])
    assert np.array_equal(cam.saliency(1), maps()[1])
    assert cam.array("trajectory", 4).tolist() == [0.0, 1.0, 2.0]
    given = pd.DataFrame({"score": [1.0, 2.0], "why": ["new", "newer"]})
    cohort.write_maps("cam", [0, 4], maps(), given, {"trajectory": np.ones((2, 3))})
    cam = cohort.maps("cam")
    assert (cam.indices.tolist(), cam.table.loc[4, "why"]) == ([4, 1, 0], "newer")
    assert np.array_equal(cam.saliency(4), maps()[1])
    assert np.array_equal(cam.saliency(1), maps()[1])


def test_the_cut_becomes_the_geometry(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    migrate(str(tmp_path / "cohort"))
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.geometry(0).operations == ()
    crop, resample = cohort.geometry(1).operations
    assert (crop.start, crop.shape, resample.scale) == ((-3, 5), (64, 64), (2.0, 2.0))
    assert all(cohort.geometry(number).grid.shape == (SIZE, SIZE) for number in range(6))


def test_the_same_photographs_add_nothing_to_a_migrated_cohort(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    repair(str(tmp_path / "cohort"), nothing)
    digest = Cohort.open(tmp_path / "cohort").content_digest()
    source = open_source(str(photographs), "photographs", **options(photographs))
    report = ingest(with_patients(source), tmp_path / "cohort")
    assert (report.added, report.known, report.updated, report.quarantined) == (0, 6, 0, [])
    assert Cohort.open(tmp_path / "cohort").content_digest() == digest
    again = ingest(with_patients(source), tmp_path / "cohort")
    assert (again.known, again.snapshot) == (6, report.snapshot)


def with_patients(source):
    """The photographs as those of the patients that they had in format 1."""
    return replace(
        source, listed=tuple(replace(key, patient_id=f"patient {n // 2}") for n, key in enumerate(source.listed))
    )


def test_masks_that_were_drawn_since_reach_a_migrated_cohort(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    repair(str(tmp_path / "cohort"), nothing)
    Image.fromarray(mask_of(20)).save(photographs / "masks" / "p2_HE.png")
    source = with_patients(open_source(str(photographs), "photographs", **options(photographs)))
    assert ingest(source, tmp_path / "cohort").updated == 1
    assert np.array_equal(Cohort.open(tmp_path / "cohort").mask(2, ["HE"]), mask_of(20))


def test_cases_that_nobody_annotated_stay_so(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs, annotated=False)
    repair(str(tmp_path / "cohort"), nothing)
    table = Cohort.open(tmp_path / "cohort").table
    assert (table["has_masks"].any(), set(table["mask_digest"])) == (False, {""})


def test_migrating_twice_does_nothing(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    assert migrate(str(tmp_path / "cohort"))
    snapshot = Cohort.open(tmp_path / "cohort").snapshot
    assert not migrate(str(tmp_path / "cohort"))
    assert Cohort.open(tmp_path / "cohort").snapshot == snapshot


def test_a_snapshot_of_the_older_format_says_so(photographs, tmp_path):
    before, _ = write_format_1(tmp_path / "cohort", photographs)
    migrate(str(tmp_path / "cohort"))
    assert before in [state.id for state in Cohort.open(tmp_path / "cohort").history()]
    with pytest.raises(CohortError, match="has format 1"):
        Cohort.open(tmp_path / "cohort", before)


def test_a_later_format_asks_for_an_update(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs, format=3)
    with pytest.raises(CohortError, match="has format 3, this lesionflow reads 2; update lesionflow"):
        Cohort.open(tmp_path / "cohort")
    with pytest.raises(CohortError, match="has format 3"):
        repair(str(tmp_path / "cohort"), nothing)


def test_a_migration_that_fails_leaves_the_cohort_as_it_was(photographs, tmp_path, monkeypatch):
    before, _ = write_format_1(tmp_path / "cohort", photographs)

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("storage.migration.digest", full)
        with pytest.raises(CohortError, match="no space left"):
            migrate(str(tmp_path / "cohort"))
    assert migrate(str(tmp_path / "cohort"))
    assert before in [state.id for state in Cohort.open(tmp_path / "cohort").history()]


def test_a_flipped_bit_of_a_migrated_cohort_is_not_read_as_a_pixel(photographs, tmp_path):
    write_format_1(tmp_path / "cohort", photographs)
    migrate(str(tmp_path / "cohort"))
    expire(str(tmp_path / "cohort"), 0)
    for file in files_in(tmp_path / "cohort", "chunks")[::3]:
        with damaged(file, flip):
            (damage,) = check(str(tmp_path / "cohort")).damaged
            cohort = Cohort.open(tmp_path / "cohort")
            with pytest.raises(CohortError, match="is damaged"):
                cohort.maps("cam").saliency(damage.row) if damage.part == "map" else cohort.image(damage.row)
