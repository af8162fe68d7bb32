"""Files with bytes flipped, overwritten, lost, inserted or repeated end in quarantine or in the right pixels.

What "right" means is as strict as each format allows. Where a checksum covers the pixels (PNG, gzip, zlib, zip) they
are those of the undamaged file. Where none does and only voxels are hit, they are the very bytes that the file holds
now. Where the header or a JPEG's code is hit, the pixels are finite and as many as the file declares. Files beside the
damaged one never change, and no case changes its name.

Mutations run in a process of their own with bounded memory, so that a crash, a hang or a greedy allocation is seen and
the number of the mutation that led to it known. To repeat one: `python tests/storage/test_damaged_files.py nifti 17`.
"""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from storage.case import Case, Rejected
from storage.errors import SourceError
from storage.sources import Source, open_source
from storage.sources.volumes.files import open_volumes
from storage.sources.volumes.formats import FormatName

MEMORY = 4 << 30  # bytes of address space above what the interpreter and its libraries take
RESIDENT = 512 << 20  # bytes of it that may be in use at once: the files have kilobytes
SECONDS = 5.0
HANG = 60
SHAPE = (5, 6, 7)


class Sample(NamedTuple):
    """A folder of tiny files for one source: `targets` get damaged.

    `checked`: a checksum covers all that matters. `voxels`: those of a file as they stand in it, bare. `alone`: all
    cases are in one file.
    """

    source: str
    write: Callable[[Path], None]
    targets: str
    checked: bool = False
    voxels: Callable[[Path], bytes] | None = None
    alone: bool = False


def _pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def _volume(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-1000, 1000, SHAPE, dtype=np.int16)


def _photographs(suffix: str, **options: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(3):
            smooth = Image.fromarray(_pixels(number)).resize((6, 6)).resize((24, 24), Image.Resampling.BICUBIC)
            (Image.fromarray(_pixels(number)) if suffix == "png" else smooth).save(
                folder / f"p{number}.{suffix}", **options
            )

    return write


def _photographs_with_masks(folder: Path) -> None:
    _photographs("png")(folder)
    (folder / "masks").mkdir()
    for number in range(3):
        Image.fromarray(_pixels(number)[..., 0] > 200).save(folder / "masks" / f"p{number}_MA.png")


def _nifti(suffix: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(3):
            voxels = _volume(number).transpose(2, 1, 0)
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.5, -2, 3, 1])), folder / f"v{number}.{suffix}")

    return write


def _nifti_with_masks(folder: Path) -> None:
    _nifti("nii")(folder)
    (folder / "masks").mkdir()
    for number in range(3):
        mask = (_volume(number) > 500).astype(np.uint8).transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(mask, np.diag([-1.5, -2, 3, 1])), folder / "masks" / f"v{number}_T.nii.gz")


def _itk(suffix: str, compressed: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(3):
            image = SimpleITK.GetImageFromArray(_volume(number))
            image.SetSpacing((1.5, 2, 3))
            SimpleITK.WriteImage(image, folder / f"v{number}.{suffix}", useCompression=compressed)

    return write


def _dicom(folder: Path, syntax: str = "") -> None:
    for number in range(3):
        (folder / f"s{number}").mkdir()
        for z, plane in enumerate(_volume(number)):
            slice_ = _slice(
                number, z, plane.repeat(8, 0).repeat(8, 1) if syntax else plane
            )  # JPEG 2000 needs 32 pixels
            if syntax:
                slice_.compress(syntax, generate_instance_uid=False)
            slice_.save_as(folder / f"s{number}" / f"s{number}_{z}.dcm", enforce_file_format=True)


def _slice(number: int, z: int, plane: np.ndarray) -> pydicom.Dataset:
    slice_ = pydicom.Dataset()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_.SOPClassUID = slice_.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}.1.{z + 1}"
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = f"1.2.3.{number + 1}", f"1.2.3.{number + 1}.1"
    slice_.PatientID, slice_.Modality, slice_.SeriesNumber, slice_.InstanceNumber = f"P{number}", "CT", 1, z + 1
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 3 * z], [1, 0, 0, 0, 1, 0]
    slice_.PixelSpacing, slice_.SliceThickness = [2, 1.5], 3
    slice_.RescaleSlope, slice_.RescaleIntercept, slice_.RescaleType = 1, -1024, "HU"
    slice_.Rows, slice_.Columns = plane.shape
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PixelRepresentation = 1, "MONOCHROME2", 0
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
    slice_.PixelData = (plane + 1024).astype("<u2").tobytes()
    return slice_


def _medmnist(folder: Path, save: Callable[..., None] = np.savez_compressed) -> None:
    splits = {"train": 4, "val": 2, "test": 2}
    images = {f"{split}_images": np.stack([_pixels(one) for one in range(count)]) for split, count in splits.items()}
    labels = {f"{split}_labels": np.arange(count)[:, None].astype(np.uint8) for split, count in splits.items()}
    save(folder / "smallmnist.npz", **images, **labels)


def _volume_bytes(path: Path) -> bytes:
    """The voxels of v0, v1 … as they stand in its file."""
    return _volume(int(path.stem[1])).astype("<i2").tobytes()


def _slice_bytes(path: Path) -> bytes:
    """The voxels of s0_0, s0_1 … as they stand in its file."""
    return (_volume(int(path.stem[1]))[int(path.stem[3])] + 1024).astype("<u2").tobytes()


SAMPLES = {
    "png": Sample("photographs", _photographs("png"), "p*.png", checked=True),
    "png masks": Sample("photographs", _photographs_with_masks, "masks/*.png", checked=True),
    "jpeg": Sample("photographs", _photographs("jpg", quality=90), "p*.jpg"),
    "tiff": Sample("photographs", _photographs("tif", compression="tiff_lzw"), "p*.tif"),
    "nifti": Sample("nifti", _nifti("nii"), "v*.nii", voxels=_volume_bytes),
    "nifti gz": Sample("nifti", _nifti("nii.gz"), "v*.nii.gz", checked=True),
    "nifti masks": Sample("nifti", _nifti_with_masks, "masks/*.nii.gz", checked=True),
    "nrrd": Sample("nrrd", _itk("nrrd", False), "v*.nrrd", voxels=_volume_bytes),
    "nrrd gz": Sample("nrrd", _itk("nrrd", True), "v*.nrrd"),
    "mha": Sample("mha", _itk("mha", False), "v*.mha", voxels=_volume_bytes),
    "mha zlib": Sample("mha", _itk("mha", True), "v*.mha"),
    "dicom": Sample("dicom", _dicom, "s*/*.dcm", voxels=_slice_bytes),
    "dicom rle": Sample("dicom", partial(_dicom, syntax=pydicom.uid.RLELossless), "s*/*.dcm"),
    "dicom jpeg-ls": Sample("dicom", partial(_dicom, syntax=pydicom.uid.JPEGLSLossless), "s*/*.dcm"),
    "dicom jpeg 2000": Sample("dicom", partial(_dicom, syntax=pydicom.uid.JPEG2000Lossless), "s*/*.dcm"),
    "medmnist": Sample("medmnist", _medmnist, "*.npz", checked=True, alone=True),
    "medmnist stored": Sample("medmnist", partial(_medmnist, save=np.savez), "*.npz", checked=True, alone=True),
}
OPTIONS = {
    "photographs": {"size": 24, "crop": False},
    "dicom": {"keep_identifiers": True, "modality": "CT"},
}
MASKS = {"photographs": {}, "nifti": {"mask_pattern": "{case}_{lesion}.nii.gz"}}


def _opened(sample: Sample, folder: Path) -> Source:
    masks = folder / "masks"
    given = {"masks": masks, **MASKS[sample.source]} if masks.is_dir() else {}
    address = next(folder.glob(sample.targets)) if sample.alone else folder
    if sample.source in get_args(FormatName):
        return open_volumes(str(address), format=sample.source, **given)
    return open_source(str(address), sample.source, **OPTIONS.get(sample.source, {}), **given)


def _group(path: str | Path) -> str:
    """p0, v1, s2 …: what a file belongs to, by its name and that of its folder."""
    found = re.search(r"[pvs]\d", str(path))
    return found.group() if found else str(path)


def mutated(encoded: bytes, generator: np.random.Generator) -> bytes:
    """`encoded` with one to three damages; half of them in its first bytes, where headers are."""
    for _ in range(int(generator.integers(1, 4))):
        reach = len(encoded) if generator.random() < 0.5 else min(len(encoded), 400)
        place = int(generator.integers(0, max(1, reach)))
        length = int(generator.integers(1, 33))
        encoded = DAMAGES[int(generator.integers(len(DAMAGES)))](encoded, place, length, generator)
    return encoded


def _flip(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    changed = bytearray(encoded)
    for byte in range(place, min(len(changed), place + 1 + length // 8)):
        changed[byte] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _overwrite(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    block = (bytes(length), b"\xff" * length, generator.bytes(length), b"9" * length)[int(generator.integers(4))]
    return (encoded[:place] + block + encoded[place + length :])[: len(encoded)]


def _truncate(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    return encoded[:place] if generator.random() < 0.5 else encoded[:-length]


def _insert(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    return encoded[:place] + generator.bytes(length) + encoded[place:]


def _repeat(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    return encoded[: place + length] + encoded[place:]


def _lose(encoded: bytes, place: int, length: int, generator: np.random.Generator) -> bytes:
    return encoded[:place] + encoded[place + length :]


DAMAGES = (_flip, _flip, _overwrite, _overwrite, _truncate, _insert, _repeat, _lose)


def verdict(sample: Sample, folder: Path, number: int, undamaged: dict[str, Case]) -> tuple[str, str]:
    """What became of the mutation `number`, and what is wrong with that ('' if nothing is)."""
    generator = np.random.default_rng(number)
    targets = sorted(folder.glob(sample.targets))
    target = targets[int(generator.integers(len(targets)))]
    before = target.read_bytes()
    target.write_bytes(mutated(before, generator))
    started = time.perf_counter()
    try:
        outcome, problem = _read_all(sample, folder, target, before, undamaged)
    except Exception:
        outcome, problem = "raised", traceback.format_exc()
    finally:
        target.write_bytes(before)
    if time.perf_counter() - started > SECONDS:
        problem += f" took {time.perf_counter() - started:.1f} s"
    return outcome, problem


def _read_all(sample: Sample, folder: Path, target: Path, before: bytes, undamaged: dict[str, Case]) -> tuple[str, str]:
    try:
        source = _opened(sample, folder)
    except SourceError as error:
        return "refused", "" if sample.alone else f"one damaged file closes the whole folder: {error}"
    outcomes = {"gone"}
    for key in source.listing():
        read = source.read(key)
        hit = sample.alone or _group(key.file) == _group(target.relative_to(folder))
        if isinstance(read, Rejected):
            outcome, problem = "rejected", _rejection(read, hit)
        else:
            outcome, problem = _case(sample, read, undamaged.get(_group(key.file)), target if hit else None, before)
        if source.sha256(key) != read.sha256 and not problem:
            problem = "its identity is another before it is read than after"
        if hit:
            outcomes = outcomes - {"gone"} | {outcome}
        if problem:
            return outcome, f"{key.file}: {problem}"
    outcome = next(one for one in ("changed", "rejected", "gone", "same") if one in outcomes)
    return outcome, "the case is no longer listed" if outcome == "gone" else ""


def _rejection(read: Rejected, hit: bool) -> str:
    if not hit:
        return f"rejected, and another file is the damaged one: {read.reason}"
    if not read.reason.strip() or "\n" in read.reason or len(read.reason) > 400:
        return f"the reason is not one line: {read.reason!r}"
    return f"asked for too much memory: {read.reason}" if "memory" in read.reason.lower() else ""


def _case(sample: Sample, read: Case, original: Case | None, target: Path | None, before: bytes) -> tuple[str, str]:
    """Whether `read` is the `original`, and what is wrong with it; `target` is its damaged file, None: it has none."""
    if original is None:
        return "changed", f"became a new case {read.case_id}"
    if _same(read, original):
        return "same", ""
    if target is None or sample.checked:
        return "changed", "other pixels than those of the undamaged file"
    if sample.source == "dicom" and _series(before) != _series(target.read_bytes()):
        return "changed", ""
    if (read.case_id, read.patient_id) != (original.case_id, original.patient_id):
        return "changed", f"became the case {read.case_id} of {read.patient_id}"
    if not np.isfinite(read.image).all() or read.image.shape[1:] != read.geometry.grid.shape:
        return "changed", f"pixels of {read.image.shape} that are not finite, or not those of its grid"
    declared = _declared(sample.source, target)
    if sorted(size for size in read.geometry.source.shape if size > 1) != sorted(size for size in declared if size > 1):
        return "changed", f"has {read.geometry.source.shape} pixels, its file declares {declared}"
    if original.image.ndim == 4 and read.image.size != original.image.size:
        return "changed", f"shows {read.image.size} of {original.image.size} voxels"
    return "changed", _other_voxels(read, target, before, sample.voxels(target)) if sample.voxels else ""


def _same(one: Case, other: Case) -> bool:
    masks, others = one.masks or {}, other.masks or {}
    return (
        (one.case_id, one.patient_id, one.geometry) == (other.case_id, other.patient_id, other.geometry)
        and (one.split, one.labels) == (other.split, other.labels)
        and np.array_equal(one.image, other.image)
        and masks.keys() == others.keys()
        and all(np.array_equal(mask, others[lesion]) for lesion, mask in masks.items())
    )


def _series(encoded: bytes) -> list[str]:
    """What says in a DICOM file whose it is."""
    try:
        header = pydicom.dcmread(io.BytesIO(encoded), force=True, stop_before_pixels=True)
        return [
            str(header.get(name)) for name in ("PatientID", "IssuerOfPatientID", "SeriesInstanceUID", "SeriesNumber")
        ]
    except Exception:
        return []


def _declared(source: str, target: Path) -> list[int]:
    """The shape that a damaged file declares; of a DICOM series with all its slices."""
    encoded = target.read_bytes()
    if source == "photographs":
        return list(Image.open(target).size)
    if source == "nifti":
        order = "<" if encoded[:2] == b"\x5c\x01" else ">"
        count, *sizes = np.frombuffer(encoded[40:56], order + "i2").tolist()
        return sizes[:count]
    if source == "dicom":
        header = pydicom.dcmread(io.BytesIO(encoded), force=True, stop_before_pixels=True)
        return [SHAPE[0], *(int(header.get(name) or 0) for name in ("Rows", "Columns"))]
    lines = re.findall(rb"^(?:sizes:|DimSize =)(.*)$", encoded, re.MULTILINE | re.IGNORECASE)
    return list(map(int, lines[-1].split()))


def _other_voxels(read: Case, target: Path, before: bytes, voxels: bytes) -> str:
    """Whether `read` shows other bytes than those at the end of the file, where all of these formats have their voxels.

    A header that was hit may say that the same bytes mean other numbers.
    """
    after, start = target.read_bytes(), before.index(voxels)
    shown = read.geometry.map_to_source(read.image[0])
    if target.suffix == ".dcm":
        shown = shown[int(target.stem[3])] + 1024
    if len(after) == len(before) and after[:start] == before[:start]:
        orders: tuple[str, ...] = ("<",)
    elif len(after) == len(before) or read.image.dtype != np.int16:
        return ""
    else:
        orders = ("<", ">")
    now = [
        np.frombuffer(after[-len(voxels) :], order + ("u2" if target.suffix == ".dcm" else "i2")) for order in orders
    ]
    return "" if any(np.array_equal(shown.ravel(), one) for one in now) else "other voxels than the file holds"


def run(names: list[str], first: int, count: int) -> None:
    """Read `count` mutations of each format from `first` on; a line of JSON before and after each, to stdout."""
    for name in names:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            SAMPLES[name].write(folder)
            source = _opened(SAMPLES[name], folder)
            cases = {_group(key.file): source.read(key) for key in source.listing()}
            assert all(isinstance(case, Case) for case in cases.values()), cases
            most = _limit_memory()
            for number in range(first, first + count):
                _say(name, number)
                signal.alarm(HANG)
                outcome, problem = verdict(SAMPLES[name], folder, number, cases)
                signal.alarm(0)
                _say(name, number, outcome, problem or ("too much memory in use" if _resident() > most else ""))


def _resident() -> int:
    """The most bytes that the process ever had in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, resource.RLIM_INFINITY))
    return _resident() + RESIDENT


def _say(*line: object) -> None:
    print(json.dumps(line), flush=True)


def _run_apart(first: int, count: int) -> dict[str, dict[int, tuple[str, str]]]:
    """For each format what became of each mutation, in a process of its own; a crash is the fault of its mutation."""
    command = [sys.executable, __file__, *("all", str(first), str(count))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    found: dict[str, dict[int, tuple[str, str]]] = {name: {} for name in SAMPLES}
    for name, number, *said in map(json.loads, done.stdout.splitlines()):
        found[name][number] = tuple(said) if said else ("crashed", f"exit {done.returncode}: {done.stderr[-2000:]}")
    return found


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[int, tuple[str, str]]]:
    return _run_apart(0, 10)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_file_ends_in_quarantine_or_in_the_right_pixels(name, verdicts):
    _check(name, verdicts, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_damaged_files_end_in_quarantine_or_in_the_right_pixels():
    verdicts = _run_apart(1000, 200)
    for name in SAMPLES:
        _check(name, verdicts, 200)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("png", 67),  # a bit of the pixels flipped: Pillow compares no checksum while it decodes
        ("jpeg", 10358),  # declares 1,079 million pixels: Pillow's own error came out of opening the folder
        ("jpeg", 10917),  # 762 bytes declare 24 × 32,796 pixels: padded to a square they took 3 GB
        ("medmnist stored", 23),  # mapped pixels are not compared to the checksum of the zip
        ("medmnist", 8),  # a header that Python's tokenizer gives up
        ("nifti", 11),  # bytes came in among the voxels and shifted those behind them
        ("dicom", 49),  # a slice without Rows was passed over, and the case lost its end
        ("dicom", 425),  # the length of the pixels reaches beyond the file
        ("dicom", 659),  # bytes came in among the pixels, and what was pushed out looked like an element
    ],
)
def test_what_was_found_by_damage_before_stays_repaired(name, number, tmp_path):
    sample = SAMPLES[name]
    sample.write(tmp_path)
    source = _opened(sample, tmp_path)
    undamaged = {_group(key.file): source.read(key) for key in source.listing()}
    assert verdict(sample, tmp_path, number, undamaged) in {("rejected", ""), ("refused", "")}


def _check(name: str, verdicts: dict[str, dict[int, tuple[str, str]]], count: int) -> None:
    """No problem, none left out, and the damage was such that some files were rejected."""
    outcomes = verdicts[name]
    problems = {f"{name} {number}": problem for number, (_, problem) in outcomes.items() if problem}
    assert not problems, json.dumps(problems, indent=1)
    assert len(outcomes) == count
    assert {"rejected", "refused"} & {outcome for outcome, _ in outcomes.values()}


if __name__ == "__main__":
    chosen, start, *more = sys.argv[1:]
    run(list(SAMPLES) if chosen == "all" else [chosen], int(start), int(more[0]) if more else 1)
