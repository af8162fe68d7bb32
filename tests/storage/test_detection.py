from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources.detection import MOST_FILES, detect


def touch(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.png", "deep/b.JPG", "labels.csv"], "photographs"),
        (["s/a.nii.gz", "s/b.nii", "dataset.json"], "nifti"),
        (["a.nrrd", "b.nhdr", "b.raw"], "nrrd"),
        (["a.mha", "b.mhd", "b.zraw"], "mha"),
        (["a.dcm", "DICOMDIR"], "dicom"),
    ],
)
def test_a_folder_is_what_its_images_are(tmp_path, names, kind):
    touch(tmp_path, *names)
    assert detect(str(tmp_path)) == kind


def test_files_without_suffix_are_dicom_by_their_mark(tmp_path):
    touch(tmp_path, "IM0", "IM1", "1.2.840.113", content=bytes(128) + b"DICM")
    touch(tmp_path, "README")
    assert detect(str(tmp_path)) == "dicom"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.npz", "medmnist"),
        ("a.nii.gz", "nifti"),
        ("a.zip", "archive"),
        ("a.tar.gz", "archive"),
        ("a.png", "photographs"),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path, name, kind):
    touch(tmp_path, name)
    assert detect(str(tmp_path / name)) == kind


def test_several_kinds_are_named_and_none_is_chosen(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.nii.gz")
    with pytest.raises(SourceError, match=r"2 of photographs, 1 of nifti.*--source"):
        detect(str(tmp_path))


def test_a_folder_of_npz_asks_for_one(tmp_path):
    touch(tmp_path, "a.npz")
    with pytest.raises(SourceError, match=r"name one \.npz file"):
        detect(str(tmp_path))


def test_what_is_not_known_is_named(tmp_path):
    with pytest.raises(SourceError, match="no files"):
        detect(str(tmp_path))
    touch(tmp_path, "a.xyz", "b.xyz", "c.csv")
    with pytest.raises(SourceError, match=r"2 × \.xyz, 1 × \.csv"):
        detect(str(tmp_path))
    with pytest.raises(SourceError, match="no kind of file"):
        detect(str(tmp_path / "a.xyz"))
    with pytest.raises(SourceError, match="nothing at"):
        detect(str(tmp_path / "absent"))


def test_a_large_folder_is_looked_at_in_part(tmp_path):
    touch(tmp_path, *(f"{number:04}.png" for number in range(MOST_FILES)), "z.nii.gz")
    assert detect(str(tmp_path)) == "photographs"


def test_linked_folders_are_not_entered(tmp_path):
    touch(tmp_path / "outside", "a.nii.gz")
    touch(tmp_path / "inside", "a.png")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    assert detect(str(tmp_path / "inside")) == "photographs"
