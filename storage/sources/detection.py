"""Which source a folder or a file is, told from names and the first bytes of a few hundred files."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from storage.errors import SourceError
from storage.sources.archives import is_archive
from storage.sources.datasets import recognised
from storage.sources.label_table import SUFFIXES

MOST_FILES = 400
VOLUMES = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".npz": "medmnist",
}
KINDS = VOLUMES | dict.fromkeys(SUFFIXES, "photographs") | {".dcm": "dicom"}
BESIDE = (".csv", ".tsv", ".json", ".txt", ".md", ".pdf", ".xlsx", ".raw", ".zraw", ".gz", ".xml", ".html", ".npy")


def detect(address: str) -> str:
    """`photographs`, `dicom`, `nifti`, `nrrd`, `mha`, `medmnist`, the name of a data set, or `archive`.

    SourceError that says what was found, where that is nothing known or several kinds at once.
    """
    path = Path(address)
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise SourceError(f"there is nothing at {path}")
    return recognised(path) or _of_folder(path)


def _of_file(path: Path) -> str:
    if is_archive(path):
        return "archive"
    if kind := _kind(path):
        return kind
    raise SourceError(f"{path} is no kind of file that is known; name the source with --source NAME")


def _of_folder(folder: Path) -> str:
    """The one kind of image in `folder`; tables and notes beside them do not count."""
    looked_at = list(islice(_files(folder), MOST_FILES))
    found = Counter(kind for path in looked_at if (kind := _kind(path)))
    if len(found) == 1 and "medmnist" not in found:
        return next(iter(found))
    if not found:
        suffixes = Counter(path.suffix.lower() or path.name for path in looked_at)
        said = ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common(5)) or "no files"
        raise SourceError(f"{folder} holds no images that are known ({said}); name the source with --source NAME")
    said = ", ".join(f"{count} of {kind}" for kind, count in found.most_common())
    what = "name one .npz file" if "medmnist" in found else "name the one meant with --source NAME"
    raise SourceError(f"{folder} holds several kinds of files ({said}); {what}")


def _files(folder: Path) -> Iterator[Path]:
    """Files in and below `folder`, the nearest first; linked folders are not entered."""
    waiting = [folder]
    while waiting:
        deeper: list[Path] = []
        for parent in waiting:
            try:
                with os.scandir(parent) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            except OSError:
                continue
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            yield from (Path(entry.path) for entry in visible if entry.is_file())
            deeper += [Path(entry.path) for entry in visible if entry.is_dir(follow_symlinks=False)]
        waiting = deeper


def _kind(path: Path) -> str | None:
    """By the suffix; a file without a known one is DICOM if it has DICOM's mark."""
    name = path.name.lower()
    if kind := next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), None):
        return kind
    if name.endswith(BESIDE):
        return None
    try:
        with path.open("rb") as file:
            return "dicom" if file.read(132)[128:] == b"DICM" else None
    except OSError:
        return None
