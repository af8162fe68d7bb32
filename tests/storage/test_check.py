"""What is damaged is named, nothing damaged is read as something else, and what can be had again is mended."""

import random
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storage import Case, Cohort, CohortError, SourceError, ingest, open_source
from storage.check import CheckReport, check, expire, repair
from storage.errors import DamagedError
from storage.geometry import Geometry, Grid
from storage.layout import Corrections
from tests.damage import damaged, delete, files_in, flip

KINDS = {
    "pictures": ((24, 24), ("y", "x")),
    "volumes": ((6, 12, 12), ("z", "y", "x")),
    "ragged": (None, ("z", "y", "x")),
}
CASES = 5


def grid_of(kind: str, number: int) -> tuple[int, ...]:
    return KINDS[kind][0] or (6 + number, 12, 13)


def case_of(kind: str, number: int) -> Case:
    """Noise in pixels and mask, so that neither is compressed into the lists of chunks."""
    grid, noise = grid_of(kind, number), np.random.default_rng(number)
    return Case(
        case_id=f"c{number}",
        patient_id=f"p{number}",
        file=f"c{number}.nii",
        sha256=f"{number:064x}",
        image=noise.integers(0, 60000, (2, *grid)).astype(np.uint16),
        labels={"grade": float(number)},
        masks={"MA": noise.random((*grid,)) < 0.5, "HE": np.resize(noise.random(4999) < 0.5, grid)},
        geometry=Geometry(Grid(grid, (1.0,) * len(grid))),
    )


def map_of(kind: str, number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, number]).normal(size=grid_of(kind, number)).astype(np.float32)


def write_maps(cohort: Cohort, kind: str, cases: list[int], seed: int = 0) -> None:
    maps = [map_of(kind, number, seed) for number in cases]
    trajectory = np.random.default_rng(seed).normal(size=(len(cases), 200))
    table = pd.DataFrame({"score": [float(seed)] * len(cases)})
    cohort.write_maps("m", cases, maps if cohort.grid is None else np.stack(maps), table, {"trajectory": trajectory})


def made(path: Path, kind: str) -> Cohort:
    grid, dims = KINDS[kind]
    cohort = Cohort.create(
        path, grid=grid, dims=dims, channels=("a", "b"), dtype="uint16", lesions=("HE", "MA"), labels=("grade",)
    )
    cohort.append([case_of(kind, number) for number in range(CASES - 1)])
    cohort.record([], corrections=Corrections(images={1: case_of(kind, 1).image}))  # the older state keeps a chunk
    cohort.append([case_of(kind, CASES - 1)])
    write_maps(cohort, kind, [1, 3])
    return cohort


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    for kind in KINDS:
        made(folder / kind, kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def place(originals, kind, tmp_path) -> Path:
    """A cohort of five cases with two maps; it may be damaged."""
    return Path(shutil.copytree(originals[kind], tmp_path / "cohort"))


Items = dict[tuple[str, str, int], bytes]


def readable(place: Path) -> Items:
    """All that can be read of a cohort, by (part, name, row) as `check` names it."""
    items: Items = {}
    try:
        cohort = Cohort.open(place)
        items["table", str(place), -1] = cohort.table.to_csv().encode() + cohort.quarantine.to_csv().encode()
    except CohortError:
        return items
    readers = [(("image", f"c{row}", row), cohort.image) for row in range(len(cohort))]
    readers += [(("masks", f"c{row}", row), cohort.masks) for row in range(len(cohort))]
    try:
        maps = cohort.maps("m")
        readers += [
            (("map", "m", row), lambda row: maps.saliency(row) + maps.array("trajectory", row).sum()) for row in (1, 3)
        ]
    except DamagedError:
        pass
    for name, read in readers:
        try:
            items[name] = read(name[2]).tobytes()
        except CohortError as error:
            assert name[1] in str(error) or f"case {name[2]}" in str(error)  # noqa: PT017 says what is damaged
    return items


def named(report: CheckReport) -> set[tuple[str, str, int]]:
    return {(damage.part, damage.name, damage.row) for damage in report.damaged}


def assert_named(place: Path, whole: Items) -> set[tuple[str, str, int]]:
    """What can be read is what was written, and `check` names exactly the rest."""
    left, found = readable(place), named(check(str(place)))
    assert left.items() <= whole.items()
    assert found == set(whole) - set(left) if ("table", str(place), -1) not in found else not left
    return found


def without_source(origin):
    raise SourceError(f"there is nothing at {origin['address']}")


def test_a_healthy_cohort_has_no_damage(place, kind):
    report = check(str(place))
    written = sum(case_of(kind, n).image.nbytes + 2 * np.prod(grid_of(kind, n)) for n in range(CASES))
    assert (report.damaged, report.cases, report.maps) == ([], CASES, 2)
    assert report.bytes == written + sum(map_of(kind, number).nbytes for number in (1, 3))
    assert report.snapshot == Cohort.open(place).snapshot


def test_the_progress_ends_with_all_that_there_is(place):
    told = []
    check(str(place), lambda *done: told.append(done))
    assert told[-1] == (2 * CASES + 2, 2 * CASES + 2)


@pytest.mark.slow
def test_each_damaged_chunk_is_named_and_the_rest_reads_exactly(place, kind):
    whole, found = readable(place), []
    for file in files_in(place, "chunks"):
        with damaged(file, delete):
            found.append(assert_named(place, whole))
        with damaged(file, flip):  # a frame of Zstandard has a few bits that change nothing of what is in it
            assert assert_named(place, whole) in (found[-1], set())
    parts = {one for names in found for one in names}
    assert {("image", f"c{row}", row) for row in range(CASES)} <= parts
    assert {("map", "m", row) for row in (1, 3)} <= parts
    assert all(len(names) == 1 for names in found if names and ("map", "m", 1) not in names)
    assert found.count(set()) == (1 if kind == "pictures" else 2)  # those of the image that was written twice


def test_each_damaged_file_of_the_store_is_noticed_or_belongs_to_the_past(place, kind):
    whole, noticed = readable(place), 0
    files = files_in(place, "snapshots", "manifests")
    for file, how in zip(random.Random(kind).sample(files, 16), cycle((flip, delete)), strict=False):
        with damaged(file, how):
            found = assert_named(place, whole)
            assert found in (set(), {("table", str(place), -1)})
            noticed += bool(found)
    assert noticed


def test_each_damaged_file_of_the_store_is_restored_from_its_copy(place, kind):
    whole = readable(place)
    for file in random.Random(kind).sample(files_in(place, "snapshots", "manifests", "transactions"), 2):
        content = file.read_bytes()
        flip(file)
        report = repair(str(place), without_source)
        assert report.repaired == [f"{file.parent.name}/{file.name}, restored"]
        assert file.read_bytes() == content
        delete(file)
        repair(str(place), without_source)
        assert not file.exists() or file.read_bytes() == content  # collected as garbage
        assert readable(place) == whole


@pytest.mark.parametrize("name", ["refs/branch.main/ref.json", "config.yaml"])
@pytest.mark.parametrize("how", [flip, delete])
def test_without_what_opens_a_cohort_it_is_repaired_at_its_newest_state(originals, tmp_path, name, how):
    place = Path(shutil.copytree(originals["pictures"], tmp_path / "cohort"))
    whole, newest = readable(place), Cohort.open(place).snapshot
    how(place / name)
    assert assert_named(place, whole) in (set(), {("table", str(place), -1)})
    assert repair(str(place), without_source).snapshot == newest
    assert readable(place) == whole
    assert Cohort.open(place).append([case_of("pictures", 9)])


def test_a_damaged_store_is_not_written_to(originals, tmp_path):
    place = Path(shutil.copytree(originals["pictures"], tmp_path / "cohort"))
    cohort = Cohort.open(place)
    for file in files_in(place, "manifests"):
        flip(file)
    with pytest.raises(DamagedError, match="--repair"):
        cohort.append([case_of("pictures", 9)])
    with pytest.raises(DamagedError, match="--repair"):
        Cohort.open(place)


def test_nothing_is_deleted_on_the_word_of_a_damaged_list_of_chunks(originals, tmp_path):
    place = Path(shutil.copytree(originals["volumes"], tmp_path / "cohort"))
    chunks = files_in(place, "chunks")
    for file in files_in(place, "manifests"):
        flip(file)
        flip(Path(place, "copies", "manifests", file.name))
    with pytest.raises(CohortError, match="is damaged"):
        expire(str(place), 0)
    assert files_in(place, "chunks") == chunks


def test_expiring_keeps_the_newest_state_whole_and_its_copies_true(place):
    whole = readable(place)
    forgotten, freed = expire(str(place), 0)
    assert (forgotten > 0, freed > 0, len(Cohort.open(place).history())) == (True, True, 1)
    assert readable(place) == whole
    assert check(str(place)).damaged == []
    names = {file.name for file in files_in(place, "manifests")}
    assert names == {file.name[:20] for file in files_in(place, "copies/manifests")}
    delete(files_in(place, "snapshots")[0])
    assert repair(str(place), without_source).damaged[0].part == "table"
    assert readable(place) == whole


def test_a_damaged_map_is_taken_out_and_can_be_written_again(place, kind):
    whole = readable(place)
    for file in files_in(place, "chunks"):
        with damaged(file, flip):
            lost = named(check(str(place)))
        if {part for part, _, _ in lost} == {"map"}:
            flip(file)
            report = repair(str(place), without_source)
            assert {case for _, _, case in lost}.isdisjoint(Cohort.open(place).maps("m").indices)
            assert [line.startswith("map of case") for line in report.repaired] == [True] * len(lost)
            write_maps(Cohort.open(place), kind, sorted(case for _, _, case in lost), seed=5)
            assert check(str(place)).damaged == []
            for _, _, case in lost:
                assert np.array_equal(Cohort.open(place).maps("m").saliency(case), map_of(kind, case, seed=5))
    assert {name: item for name, item in readable(place).items() if name[0] != "map"}.items() <= whole.items()


def photographs_of(folder: Path, count: int, start: int = 0, side: int = 32) -> Path:
    """Photographs of noise with masks of noise."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        noise = np.random.default_rng(number)
        Image.fromarray(noise.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"p{number:04d}.png")
        Image.fromarray(noise.random((side, side)) < 0.5).save(folder / "masks" / f"p{number:04d}_MA.png")
    return folder


def take_in(folder: Path, place: Path, **options) -> None:
    options = {"size": 32, "crop": False, "masks": str(folder / "masks"), **options}
    origin = {"address": str(folder), "options": options}
    ingest(open_source(str(folder), "photographs", **options), place, origin=origin)


def reopened(origin):
    return open_source(origin["address"], "photographs", **origin["options"])


@pytest.fixture
def taken_in(tmp_path) -> tuple[Path, Path]:
    """Four photographs with masks, and the cohort made from them."""
    folder = photographs_of(tmp_path / "photographs", 4)
    take_in(folder, tmp_path / "cohort")
    return folder, tmp_path / "cohort"


def pixels(place: Path) -> Items:
    cohort = Cohort.open(place)
    return {
        (part, name, row): read(row).tobytes()
        for row, name in enumerate(cohort.table["case_id"])
        for part, read in (("image", cohort.image), ("masks", cohort.masks))
    }


@pytest.mark.parametrize("how", [flip, delete])
def test_damaged_cases_are_read_again_bit_for_bit_from_their_source(taken_in, how):
    _, place = taken_in
    whole, digest = pixels(place), Cohort.open(place).content_digest()
    for file in files_in(place, "chunks"):
        how(file)
    report = repair(str(place), reopened)
    assert {part for part, _, _ in named(report)} >= {"image"}
    assert (report.lost, len(report.repaired)) == ([], 4)
    assert pixels(place) == whole
    assert (Cohort.open(place).content_digest(), check(str(place)).damaged) == (digest, [])


def test_without_its_source_a_damaged_case_is_lost_by_name_and_the_others_stay(taken_in):
    folder, place = taken_in
    whole = pixels(place)
    flip(files_in(place, "chunks")[0])
    (damage,) = check(str(place)).damaged
    shutil.move(folder, folder.with_name("elsewhere"))
    report = repair(str(place), reopened)
    assert (report.lost, report.repaired) == ([damage.name], [])
    cohort = Cohort.open(place)
    with pytest.raises(CohortError, match=f"case '{damage.name}' is damaged"):
        cohort.image(damage.row)
    assert all(
        cohort.image(row).tobytes() == whole["image", name, row]
        for row, name in enumerate(cohort.table["case_id"])
        if row != damage.row
    )
    shutil.move(folder.with_name("elsewhere"), folder)
    assert repair(str(place), reopened).lost == []
    assert pixels(place) == whole


def test_a_source_that_changed_since_is_not_taken_for_the_lost_case(taken_in):
    folder, place = taken_in
    flip(files_in(place, "chunks")[0])
    (damage,) = check(str(place)).damaged
    Image.new("RGB", (32, 32), "red").save(folder / f"{damage.name}.png")
    assert repair(str(place), reopened).lost == [damage.name]
    with pytest.raises(CohortError, match="is damaged"):
        Cohort.open(place).image(damage.row)


def test_a_source_that_is_read_otherwise_now_is_not_taken_for_the_lost_case(taken_in):
    _, place = taken_in
    flip(files_in(place, "chunks")[0])
    (damage,) = check(str(place)).damaged

    def larger(origin):
        return open_source(origin["address"], "photographs", **{**origin["options"], "size": 16})

    assert repair(str(place), larger).lost == [damage.name]


def test_an_image_is_read_again_though_its_masks_were_corrected_meanwhile(taken_in):
    folder, place = taken_in
    whole = pixels(place)
    flip(files_in(place, "chunks")[0])
    (damage,) = check(str(place)).damaged
    assert damage.part == "image"
    Image.new("1", (32, 32), 1).save(folder / "masks" / f"{damage.name}_MA.png")
    assert repair(str(place), reopened).lost == []
    assert pixels(place) == whole


def test_masks_that_were_corrected_meanwhile_are_not_taken_for_the_lost_ones(tmp_path):
    folder, place = photographs_of(tmp_path / "photographs", 1, side=128), tmp_path / "cohort"
    take_in(folder, place, size=128)
    flip(next(file for file in files_in(place, "chunks") if _damages(place, file) == {"masks"}))
    file = folder / "masks" / "p0000_MA.png"
    content = file.read_bytes()
    Image.new("1", (128, 128), 1).save(file)
    assert repair(str(place), reopened).lost == ["p0000"]
    file.write_bytes(content)
    assert repair(str(place), reopened).lost == []
    assert check(str(place)).damaged == []


def _damages(place: Path, file: Path) -> set[str]:
    with damaged(file, flip):
        return {damage.part for damage in check(str(place)).damaged}


def test_a_damaged_table_is_set_back_and_ingesting_again_completes_it(tmp_path):
    folder, place = photographs_of(tmp_path / "photographs", 30), tmp_path / "cohort"
    take_in(folder, place)
    before, chunks = Cohort.open(place).snapshot, set(files_in(place, "chunks"))
    take_in(photographs_of(folder, 10, start=30), place)
    cohort = Cohort.open(place)
    whole, table, digest = pixels(place), cohort.table, cohort.content_digest()
    column = next(
        file for file in files_in(place, "chunks") if file not in chunks and _damages(place, file) == {"table"}
    )
    flip(column)
    with pytest.raises(DamagedError, match="--repair"):
        Cohort.open(place).content_digest()
    with pytest.raises(CohortError):
        take_in(folder, place)
    report = repair(str(place), reopened)
    assert report.repaired == [f"table, set back to {before}: ingest again for what came after it"]
    assert (report.snapshot, len(Cohort.open(place)), report.freed_bytes) == (before, 30, 0)
    take_in(folder, place)
    assert pixels(place) == whole
    assert Cohort.open(place).content_digest() == digest
    pd.testing.assert_frame_equal(Cohort.open(place).table, table)


def test_what_cannot_be_mended_at_all_says_so(tmp_path):
    folder, place = photographs_of(tmp_path / "photographs", 30), tmp_path / "cohort"
    take_in(folder, place)
    for file in files_in(place, "chunks", "snapshots"):
        file.write_bytes(b"")
    for file in files_in(place, "copies/snapshots"):
        file.write_bytes(b"")
    with pytest.raises(CohortError, match="into a new cohort"):
        repair(str(place), reopened)


def test_there_is_nothing_to_check_where_there_is_no_cohort(tmp_path):
    for mend in (lambda: check(str(tmp_path / "none")), lambda: repair(str(tmp_path / "none"), reopened)):
        with pytest.raises(CohortError, match="there is no cohort"):
            mend()
    assert list(tmp_path.iterdir()) == []
