import gzip
from pathlib import Path

import numpy as np
import pytest

from storage.case import Case, Rejected
from storage.errors import SourceError
from storage.sources.volumes.files import open_mha, open_nifti, open_nrrd, open_volumes
from tests.storage.volumes.volume_twins import itk, nifti, patched, read_all, reason, voxels


def broken_nifti(folder: Path, offset: int, value: np.generic) -> str:
    nifti(folder / "a.nii", voxels())
    patched(folder / "a.nii", offset, value)
    return reason(open_nifti(str(folder)))


@pytest.mark.parametrize("spacing", [0, -2, np.nan, np.inf])
def test_a_spacing_that_is_not_positive_is_set_aside(tmp_path, spacing):
    assert "each spacing must be positive" in broken_nifti(tmp_path, 80, np.float32(spacing))


def test_a_header_that_declares_more_than_the_file_holds_allocates_nothing(tmp_path):
    said = broken_nifti(tmp_path, 42, np.array([20000, 20000, 2], "<i2"))
    assert said == "is cut off or its header is damaged: it holds 420 bytes of voxels, its header declares 1600000000"
    assert "the most is 8" in broken_nifti(tmp_path, 42, np.array([30000, 30000, 30000], "<i2"))


def test_a_small_compressed_file_that_declares_gigabytes_is_set_aside(tmp_path):
    nifti(tmp_path / "b.nii", voxels())
    patched(tmp_path / "b.nii", 42, np.array([20000, 20000, 2], "<i2"))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "b.nii").read_bytes()))
    (tmp_path / "b.nii").unlink()
    assert "its header declares 16000" in reason(open_nifti(str(tmp_path)))


def test_a_compressed_file_that_unpacks_to_more_than_it_declares_is_set_aside(tmp_path):
    nifti(tmp_path / "b.nii", voxels())
    content = (tmp_path / "b.nii").read_bytes() + bytes(300 << 20)
    (tmp_path / "b.nii").unlink()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content, 1))
    assert "unpacks to more than" in reason(open_nifti(str(tmp_path)))


@pytest.mark.parametrize(("offset", "value"), [(40, 0), (40, 9), (42, 0), (42, -5)])
def test_axes_that_no_volume_has_are_set_aside(tmp_path, offset, value):
    assert "declares" in broken_nifti(tmp_path, offset, np.int16(value))


def test_a_header_that_lost_a_slice_is_set_aside(tmp_path):
    nifti(tmp_path / "a.nii", voxels((20, 20, 7)))
    patched(tmp_path / "a.nii", 46, np.int16(6))
    assert "declares 4800 bytes of voxels, it holds 5600" in reason(open_nifti(str(tmp_path)))


def test_a_type_that_contradicts_its_bits_is_set_aside(tmp_path):
    assert "type uint8 with 16 bits" in broken_nifti(tmp_path, 70, np.int16(2))


@pytest.mark.parametrize(("code", "message"), [(999, "unknown type"), (32, "complex64"), (128, "R")])
def test_voxels_of_other_types_are_set_aside(tmp_path, code, message):
    assert message in broken_nifti(tmp_path, 70, np.int16(code))


def test_voxels_that_begin_within_the_header_are_set_aside(tmp_path):
    assert "within its header" in broken_nifti(tmp_path, 108, np.float32(10))
    assert "within its header" in broken_nifti(tmp_path, 108, np.float32(np.nan))


def test_axes_that_span_no_volume_are_set_aside(tmp_path):
    assert "span no volume" in broken_nifti(tmp_path, 280, np.array([-2, -2, 0, 10, -3, -3, 0, 20], "<f4"))
    assert "no number" in broken_nifti(tmp_path, 296, np.float32(np.nan))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_number_are_counted_and_set_aside(tmp_path, value):
    array = voxels(dtype=np.float32)
    array[0, 0, :3] = value
    nifti(tmp_path / "a.nii.gz", array)
    itk(tmp_path / "a.nrrd", array)
    assert "has 3 of 210 voxels that are no finite number" in reason(open_nifti(str(tmp_path)))
    assert "has 3 of 210 voxels that are no finite number" in reason(open_nrrd(str(tmp_path)))


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.3])
@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_file_is_set_aside(tmp_path, suffix, kept, compress):
    path = tmp_path / f"a.{suffix}"
    array = np.random.default_rng(0).random((20, 20, 20), np.float32)
    if suffix.startswith("nii"):
        nifti(path, array)
    else:
        itk(path, array, compress=compress)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    source = open_volumes(str(tmp_path), format={"nr": "nrrd", "mh": "mha"}.get(suffix[:2], "nifti"))
    assert "cut off" in reason(source)


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_a_flipped_bit_in_compressed_voxels_is_set_aside(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    array = np.random.default_rng(0).random((20, 20, 20), np.float32)
    if suffix.startswith("nii"):
        nifti(path, array)
    else:
        itk(path, array, compress=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    source = open_volumes(str(tmp_path), format={"nr": "nrrd", "mh": "mha"}.get(suffix[:2], "nifti"))
    assert "damaged" in reason(source)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"NRRD0004\n", b"NDims = 3\n", b"\0" * 400, b"no volume at all"])
def test_a_file_that_is_something_else_is_set_aside(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    reason(open_volumes(str(tmp_path), format={"nr": "nrrd", "nh": "nrrd", "mh": "mha"}.get(suffix[:2], "nifti")))


def test_a_file_whose_values_do_not_fit_the_others_is_set_aside(tmp_path):
    for number in range(80):
        nifti(tmp_path / f"a{number:02}.nii", voxels())
    nifti(tmp_path / "a79.nii", voxels(dtype=np.float32) + 0.5)  # not among those sampled
    assert "do not fit into the int16 of the data set" in reason(open_nifti(str(tmp_path)), "a79")


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "sub/../../secret.raw", "link.raw", "C:\\secret.raw"])
@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_a_header_may_not_name_a_file_outside_of_the_folder(tmp_path, name, suffix):
    (tmp_path / "secret.raw").write_bytes(bytes(420))
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = itk(folder / f"a.{suffix}", voxels())
    path.write_text(path.read_text().replace("a.raw", name))
    source = (open_mha if suffix == "mhd" else open_nrrd)(str(folder))
    assert "no file inside of the source's folder" in reason(source)
    assert source.sha256(source.listing()[0]) == ""


def test_only_a_detached_header_may_name_another_file(tmp_path):
    path = itk(tmp_path / "a.mhd", voxels())
    path.rename(tmp_path / "a.mha")
    assert "which only a .mhd may" in reason(open_mha(str(tmp_path)))


def test_a_linked_volume_outside_of_the_folder_is_set_aside(tmp_path):
    nifti(tmp_path / "elsewhere.nii", voxels())
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.nii").symlink_to(tmp_path / "elsewhere.nii")
    assert "a link that leads outside of it is not followed" in reason(open_nifti(str(tmp_path / "source")))


def mutated(folder: Path, suffix: str, times: int) -> None:
    """Assert that a file of which a few bytes were changed ends as a `Rejected`, or as a case of numbers."""
    path = folder / f"a.{suffix}"
    if suffix.startswith("nii"):
        nifti(path, voxels())
    else:
        itk(path, voxels())
    name = {"nr": "nrrd", "nh": "nrrd", "mh": "mha"}.get(suffix[:2], "nifti")
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        content = bytearray(whole)
        for place in random.integers(0, min(400, len(content)), random.integers(1, 4)):
            content[place] = random.integers(256)
        path.write_bytes(content[: random.integers(1, len(content))] if random.random() < 0.1 else content)
        try:
            source = open_volumes(str(folder), format=name)
        except SourceError:
            continue
        read = read_all(source)["a"]
        assert isinstance(read, Case | Rejected)
        assert isinstance(read, Rejected) or np.isfinite(read.image).all()


SUFFIXES = ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_header_ends_in_a_reason_or_in_a_case(tmp_path, suffix):
    mutated(tmp_path, suffix, 100)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_thousand_damaged_headers_end_in_a_reason_or_in_a_case(tmp_path, suffix):
    mutated(tmp_path, suffix, 2000)
