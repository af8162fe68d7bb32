import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources import archives
from storage.sources.archives import unpacked

FILES = {"set/a.txt": b"one", "set/deep/b.txt": b"two" * 1000}
TAR_MODES = {
    "tar": "w",
    "tar.gz": "w:gz",
    "tgz": "w:gz",
    "tar.bz2": "w:bz2",
    "tbz": "w:bz2",
    "tar.xz": "w:xz",
    "txz": "w:xz",
}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def refused(archive: Path, tmp_path: Path, message: str) -> None:
    """The archive is refused, and nothing is left of it anywhere."""
    before = {*tmp_path.rglob("*"), tmp_path / "into"}
    with pytest.raises(SourceError, match=message) as raised:
        unpacked(archive, tmp_path / "into")
    assert "\n" not in str(raised.value)
    assert set(tmp_path.rglob("*")) <= before


@pytest.mark.parametrize("suffix", ["zip", *TAR_MODES])
def test_what_was_packed_comes_out_and_its_only_folder_is_named(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "zip":
        make_zip(path, FILES)
    else:
        make_tar(path, [(tarfile.TarInfo(name), content) for name, content in FILES.items()], TAR_MODES[suffix])
    folder = unpacked(path, tmp_path / "into")
    assert folder.name == "set"
    assert {p.relative_to(folder.parent).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == FILES
    assert len(list((tmp_path / "into").iterdir())) == 1


def test_an_archive_is_unpacked_once_and_a_changed_one_anew(tmp_path):
    path = make_zip(tmp_path / "data.zip", FILES)
    first = unpacked(path, tmp_path / "into")
    (first / "a.txt").write_bytes(b"touched")
    assert unpacked(path, tmp_path / "into") == first
    assert (first / "a.txt").read_bytes() == b"touched"
    make_zip(path, FILES | {"set/c.txt": b"three"})
    assert unpacked(path, tmp_path / "into") != first


def test_several_entries_lie_in_a_folder_named_after_the_archive(tmp_path):
    folder = unpacked(make_zip(tmp_path / "data.zip", {"a.txt": b"1", "b.txt": b"2"}), tmp_path / "into")
    assert folder.name.startswith("data-")
    assert folder.parent == tmp_path / "into"


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "x/../../a.txt", "..\\a.txt", "C:\\a.txt", "\\a.txt"])
def test_a_member_may_not_leave_its_folder(tmp_path, name):
    refused(make_zip(tmp_path / "data.zip", {"fine.txt": b"", name: b"evil"}), tmp_path, "outside")
    (tmp_path / "data.zip").unlink()
    tar = make_tar(tmp_path / "data.tar", [(tarfile.TarInfo("fine.txt"), b""), (tarfile.TarInfo(name), b"evil")])
    refused(tar, tmp_path, "outside")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=str
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc"
    through = tarfile.TarInfo("link/passwd")
    refused(make_tar(tmp_path / "data.tar", [(link, b""), (through, b"evil")]), tmp_path, "link or a device")


def test_links_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "data.zip", tmp_path, "link or a device")


def test_a_name_that_comes_twice_is_refused(tmp_path):
    twice = [(tarfile.TarInfo("a.txt"), b"one"), (tarfile.TarInfo("a.txt"), b"two")]
    refused(make_tar(tmp_path / "data.tar", twice), tmp_path, "twice")


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_a_bomb_is_refused_by_what_it_writes(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(archives, "RATIO_FROM", 1 << 20)
    content = bytes(30 << 20)
    if suffix == "zip":
        path = make_zip(tmp_path / "data.zip", {"zeros": content})
    else:
        path = make_tar(tmp_path / "data.tgz", [(tarfile.TarInfo("zeros"), content)], "w:gz")
    refused(path, tmp_path, "unpacks to more than 200 times")


def test_a_zip_that_understates_its_sizes_is_refused(tmp_path):
    path = make_zip(tmp_path / "data.zip", {"zeros": bytes(1 << 20)})
    path.write_bytes(path.read_bytes().replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(path, tmp_path, "cannot be unpacked")


def test_the_sum_of_all_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2 << 20)
    path = make_zip(tmp_path / "data.zip", {f"{n}": os.urandom(1 << 20) for n in range(3)})
    refused(path, tmp_path, "GiB")
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    refused(path, tmp_path, "more than 2 files")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6])
def test_a_truncated_archive_is_refused_whole(tmp_path, suffix, kept):
    path = tmp_path / f"data.{suffix}"
    files = {"a": os.urandom(20_000), "b": os.urandom(20_000)}
    if suffix == "zip":
        make_zip(path, files)
    else:
        make_tar(path, [(tarfile.TarInfo(name), content) for name, content in files.items()], TAR_MODES[suffix])
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(path, tmp_path, "cannot be unpacked")


def test_a_member_that_is_damaged_is_refused(tmp_path):
    path = make_zip(tmp_path / "data.zip", {"a": os.urandom(20_000)})
    content = bytearray(path.read_bytes())
    content[9000] ^= 1
    path.write_bytes(content)
    refused(path, tmp_path, "cannot be unpacked")


def test_a_zip_whose_directory_lost_a_member_is_refused(tmp_path):
    path = make_zip(tmp_path / "data.zip", {"a": b"one", "b": b"two"})
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", first + 4)
    end = content.index(b"PK\5\6")
    content[first + 32] = end - second  # the first member's comment swallows the second member
    path.write_bytes(content)
    refused(path, tmp_path, "lists 1 of 2 files")


def test_a_name_that_is_file_and_folder_is_refused(tmp_path):
    refused(make_zip(tmp_path / "data.zip", {"a": b"file", "a/b": b"below"}), tmp_path, "cannot be unpacked")


def test_what_is_no_archive_is_a_mistake(tmp_path):
    with pytest.raises(SourceError, match=r"no archive .*absent.zip"):
        unpacked(tmp_path / "absent.zip", tmp_path / "into")
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(SourceError, match=r"a.rar is no archive .*\.tar\.gz"):
        unpacked(tmp_path / "a.rar", tmp_path / "into")
