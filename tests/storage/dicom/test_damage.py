"""Damaged files end in quarantine or in the right pixels, never in an exception."""

import warnings

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from storage import Case, Rejected, SourceError


def test_cut_off_slice_is_named(write_series, read_only, files_of):
    write_series("CT")
    path = files_of()[2]
    path.write_bytes(path.read_bytes()[:-10])
    assert "instance 3 is cut off: 50 bytes of pixels, not 60" in read_only().reason


@pytest.mark.parametrize(("syntax", "bytes_lost"), [(None, 80), (RLELossless, 30)])
def test_slice_without_its_pixels_is_named(write_series, read_only, files_of, syntax, bytes_lost):
    write_series("CT", dtype="uint16", change=lambda number, slice_: slice_.compress(syntax) if syntax else None)
    path = files_of()[2]
    path.write_bytes(path.read_bytes()[:-bytes_lost])
    assert "instance 3 is cut off or empty: it has no pixels" in read_only().reason


def test_unreadable_file_is_listed_and_its_series_is_not_trusted(write_series, opened, files_of):
    write_series("CT")
    path = files_of()[3]
    path.write_bytes(path.read_bytes()[:200])
    source = opened()
    series, damaged = source.listing()
    assert "a slice or a mask may be missing" in source.read(series).reason
    assert "cut off or damaged" in source.read(damaged).reason
    assert source.where(damaged) == path.name


def test_file_of_another_patient_under_the_same_series_is_rejected(write_series, read_only):
    write_series("CT", change=lambda number, slice_: setattr(slice_, "PatientID", f"P{number // 3}"))
    assert "its files differ in Patient ID (0010,0020)" in read_only().reason


def _mutated(encoded, random):
    found = bytearray(encoded)
    kind = random.integers(4)
    if kind == 0:
        return bytes(found[: random.integers(len(found))])
    for _ in range(random.integers(1, 9)):
        place = int(random.integers(len(found)))
        if kind == 1:
            found[place] ^= 1 << int(random.integers(8))
        elif kind == 2:
            found[place : place + 4] = random.bytes(4)
        else:
            del found[place : place + int(random.integers(1, 64))]
    return bytes(found)


@pytest.mark.parametrize("mutations", [150, pytest.param(2400, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_mutated_files_never_raise(write_series, opened, files_of, mutations, syntax):
    def encode(number, slice_):
        if syntax:
            slice_.compress(syntax)

    write_series("PT", dtype="uint16", shape=(32, 32), change=encode)
    path = files_of()[1]
    whole = path.read_bytes()
    random = np.random.default_rng(mutations)
    for _ in range(mutations // 3):
        path.write_bytes(_mutated(whole, random))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                source = opened(modality="PT")
            except SourceError:
                continue
            for key in source.listing():
                read = source.read(key)
                assert isinstance(read, Case | Rejected)
                assert isinstance(read, Rejected) or np.isfinite(read.image).all()
