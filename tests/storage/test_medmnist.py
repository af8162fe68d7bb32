import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from storage.case import Case, Rejected
from storage.errors import SourceError
from storage.sources import medmnist
from storage.sources.medmnist import open_medmnist

COUNTS = {"train": 5, "val": 3, "test": 2}


def arrays(shape=(8, 9), labels=1, dtype=np.uint8) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made = {}
    for split, count in COUNTS.items():
        made[f"{split}_images"] = random.integers(0, 100, (count, *shape)).astype(dtype)
        made[f"{split}_labels"] = random.integers(0, 5, (count, labels))
    return made


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def write(request, tmp_path):
    def written(**content: np.ndarray) -> str:
        request.param(tmp_path / "data.npz", **content)
        return str(tmp_path / "data.npz")

    return written


@pytest.mark.parametrize(
    ("shape", "channels", "dims"),
    [
        ((8, 9), ("grey",), ("y", "x")),
        ((8, 9, 3), ("red", "green", "blue"), ("y", "x")),
        ((6, 8, 9), ("grey",), ("z", "y", "x")),
    ],
)
def test_every_image_arrives_bit_for_bit_with_label_and_split(write, shape, channels, dims):
    made = arrays(shape)
    source = open_medmnist(write(**made))
    grid = shape[:2] if len(channels) == 3 else shape
    assert (source.channels, source.dims, source.grid, source.labels) == (channels, dims, grid, ("label",))
    keys = source.listing()
    assert [key.file for key in keys[:6]] == [f"train/{n:06d}" for n in range(5)] + ["val/000000"]
    assert [key.split for key in keys] == ["train"] * 5 + ["validation"] * 3 + ["test"] * 2
    for key in keys:
        split, index = key.file.split("/")
        original = made[f"{split}_images"][int(index)]
        case = source.read(key)
        assert np.array_equal(case.image, original.transpose(2, 0, 1) if len(channels) == 3 else original[None])
        assert case.labels == {"label": made[f"{split}_labels"][int(index), 0]}
        assert (case.image.dtype, case.masks, case.patient_id) == (np.uint8, None, key.file)
        assert case.geometry.grid.shape == grid
        assert case.sha256 == source.sha256(key)


def test_several_labels_have_a_number_each(write):
    source = open_medmnist(write(**arrays(labels=3)), label_name="finding")
    assert source.labels == ("finding_0", "finding_1", "finding_2")
    assert set(source.listing()[0].labels) == set(source.labels)


def test_the_same_image_twice_is_two_cases(write):
    made = arrays()
    made["test_images"][1] = made["test_images"][0]
    source = open_medmnist(write(**made))
    assert len({source.sha256(key) for key in source.listing()}) == 10


def test_a_split_or_its_labels_may_be_absent(write):
    made = arrays()
    source = open_medmnist(write(train_images=made["train_images"]))
    assert (len(source.listing()), source.labels) == (5, ())


def test_fortran_order_is_read_as_written(write):
    made = {name: np.asfortranarray(array) for name, array in arrays().items()}
    source = open_medmnist(write(**made))
    assert np.array_equal(source.read(source.listing()[3]).image[0], made["train_images"][3])


def test_another_size_is_a_recorded_resampling(write):
    source = open_medmnist(write(**arrays((8, 8))), size=4)
    case = source.read(source.listing()[0])
    assert (source.grid, case.image.shape) == ((4, 4), (1, 4, 4))
    block = arrays((8, 8))["train_images"][0].reshape(4, 2, 4, 2).mean((1, 3))
    assert np.abs(case.image[0] - block).max() <= 0.5
    assert case.geometry.source.shape == (8, 8)


def test_an_image_with_nan_is_set_aside(write):
    made = arrays(dtype=np.float32)
    made["train_images"][2, 0, :2] = np.nan
    source = open_medmnist(write(**made))
    read = [source.read(key) for key in source.listing()]
    assert [isinstance(one, Rejected) for one in read] == [False, False, True] + [False] * 7
    assert "2 of 72 voxels" in read[2].reason


def test_an_array_is_unpacked_once_a_process_and_by_threads_at_once(write, monkeypatch):
    source = pickle.loads(pickle.dumps(open_medmnist(write(**arrays()))))
    medmnist._opened.cache_clear()
    opened = []
    monkeypatch.setattr(medmnist, "_arrays", lambda path, real=medmnist._arrays: opened.append(path) or real(path))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.read, list(source.listing())[:5]))
    assert all(isinstance(one, Case) for one in read)
    assert len(opened) == 1


def test_a_file_that_is_replaced_is_read_anew(write):
    made = arrays()
    before = open_medmnist(write(**made))
    before.read(before.listing()[0])
    made["train_images"][:] = 7
    after = open_medmnist(write(**made))
    assert (after.read(after.listing()[0]).image == 7).all()
    assert after.listing()[0].stamp != before.listing()[0].stamp


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((5, 8, 7), np.uint8)}, "different shapes"),
        ({"train_images": np.zeros((5, 8, 9), np.float32)}, "different shapes or types"),
        ({"train_labels": np.zeros((4, 1))}, "one row an image"),
        ({"train_labels": np.zeros((5, 2))}, "2 labels an image in one split and 1"),
        ({"train_labels": np.array([["a"]] * 5)}, "numbers are expected"),
        ({"train_labels": np.array([[None]] * 5, object)}, "numbers are expected"),
    ],
)
def test_arrays_that_do_not_belong_together_are_a_mistake(write, changes, message):
    with pytest.raises(SourceError, match=message):
        open_medmnist(write(**(arrays() | changes)))


def test_another_npz_is_told_what_a_medmnist_holds(write):
    with pytest.raises(SourceError, match=r"holds x; an .npz in MedMNIST's layout holds train_images"):
        open_medmnist(write(x=np.zeros(3)))
    with pytest.raises(SourceError, match=r"images of 8; \(y, x\)"):
        open_medmnist(write(train_images=np.zeros((5, 8))))


def test_what_is_no_npz_is_a_mistake(tmp_path, write):
    with pytest.raises(SourceError, match="no file"):
        open_medmnist(str(tmp_path / "absent.npz"))
    path = Path(write(**arrays()))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceError, match=r"cannot be read as an .npz"):
        open_medmnist(str(path))


def test_a_header_that_declares_more_than_the_archive_holds_is_a_mistake(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(tmp_path / "whole.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(path, "w") as lying:
        for name in whole.namelist():
            lying.writestr(name, whole.read(name).replace(b"(5, 8, 9)", b"(5e9, 8,)"[:9].replace(b"e", b"0")))
    with pytest.raises(SourceError, match="declares"):
        open_medmnist(str(path))


def test_an_array_damaged_after_it_was_listed_is_set_aside(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays((40, 40)))
    source = open_medmnist(str(path))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    medmnist._opened.cache_clear()
    assert "cannot be read" in source.read(source.listing()[0]).reason
