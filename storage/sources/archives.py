"""An archive as it was downloaded, unpacked beside the cohort: zip, tar, and tar compressed by gzip, bzip2 or xz.

Nothing is written outside of the target folder, links and devices are refused, and what comes out is counted while it
is written: the sizes that an archive declares are not believed.
"""

import hashlib
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from storage.errors import SourceError

MOST_BYTES = 256 << 30
MOST_MEMBERS = 2_000_000
RATIO = 200  # times the archive's own size: photographs reach 1, CT 3, masks 100
RATIO_FROM = 1 << 30  # bytes below which any ratio is let pass
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
PIECE = 1 << 20
BROKEN: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError)
BROKEN += (NotImplementedError, RuntimeError, ValueError)  # an unknown method, encryption, a damaged name

Member = tuple[str, IO[bytes] | None]  # its name and content; None for a folder


def is_archive(path: Path) -> bool:
    """Whether `path` is a file with the suffix of an archive that `unpacked` knows."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(archive: Path, into: Path) -> Path:
    """The folder in `into` that holds what is in `archive`; where that is one folder alone, that folder.

    Unpacked once: its name holds the archive's SHA-256 and size. It appears when it is whole, or not at all.
    SourceError for an archive that is broken, too large, or would write outside of its folder.
    """
    if not archive.is_file():
        raise SourceError(f"there is no archive {archive}")
    if not archive.name.lower().endswith(SUFFIXES):
        raise SourceError(f"{archive} is no archive that can be unpacked; {', '.join(SUFFIXES)} can")
    target = into / f"{_bare(archive.name)}-{_sha256(archive)[:16]}-{archive.stat().st_size}"
    if not target.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into))
        try:
            _unpack(archive, partial)
            _put_in_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    entries = [entry for entry in target.iterdir() if entry.name != "__MACOSX"]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def listed_whole(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip; BadZipFile where its directory ends with another count: zipfile lists what it can read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_END))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    count, members = int.from_bytes(end[at + 10 : at + 12], "little"), archive.infolist()
    if at < 0 or count not in (len(members), 0xFFFF):  # 0xFFFF: zip64 has the count elsewhere
        raise zipfile.BadZipFile(f"its directory lists {len(members)} of {count} files")
    return members


_LONGEST_END = 22 + 0xFFFF  # the record that ends a zip, and its comment


def _put_in_place(partial: Path, target: Path) -> None:
    partial.chmod(0o755)  # mkdtemp keeps others out
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # another process may have been faster
            raise


def _unpack(archive: Path, folder: Path) -> None:
    """All members of `archive` into `folder`, which is empty."""
    members = _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive)
    most = min(MOST_BYTES, max(RATIO_FROM, RATIO * archive.stat().st_size))
    written, seen = 0, set[str]()
    try:
        for count, (name, content) in enumerate(members):
            if count >= MOST_MEMBERS:
                raise SourceError(f"{archive.name} holds more than {MOST_MEMBERS} files; it is not unpacked")
            path = folder / _checked_name(archive, name, seen)
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                written += _write(archive, content, path, most - written)
    except BROKEN as error:
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(" :")
        raise SourceError(f"{archive} cannot be unpacked: {said}") from error


def _write(archive: Path, content: IO[bytes], path: Path, most: int) -> int:
    written = 0
    with content, path.open("xb") as file:
        while piece := content.read(PIECE):
            written += len(piece)
            if written > most:
                raise SourceError(
                    f"{archive.name} unpacks to more than {RATIO} times its own size or {MOST_BYTES >> 30} GiB; if "
                    "that is right, unpack it by hand and name the folder"
                )
            file.write(piece)
    return written


def _checked_name(archive: Path, name: str, seen: set[str]) -> PurePosixPath:
    """The place of a member in the target folder; SourceError where it would be elsewhere, or is taken."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
        raise SourceError(f"{archive.name} would write outside of its folder ('{name}'); it is not unpacked")
    if str(path) in seen and not name.endswith("/"):
        raise SourceError(f"{archive.name} holds '{name}' twice; it is not unpacked")
    if not name.endswith("/"):
        seen.add(str(path))
    return path


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in listed_whole(opened, archive):
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise SourceError(_LINK.format(archive.name, info.filename))
            if info.flag_bits & 1:
                raise SourceError(f"{archive.name} is encrypted; unpack it by hand and name the folder")
            yield info.filename, None if info.is_dir() else opened.open(info)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            if not (member.isreg() or member.isdir()):
                raise SourceError(_LINK.format(archive.name, member.name))
            tarfile.data_filter(member, "/nowhere")  # its own judgement, beside ours
            yield member.name + "/" * member.isdir(), opened.extractfile(member)


_LINK = "{} holds '{}', which is a link or a device and no file; it is not unpacked"


def _bare(name: str) -> str:
    return next(
        name[: -len(suffix)] for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
