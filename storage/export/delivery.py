"""The folder an export goes to: safe names, cases that appear whole or not at all, a journal of what is done.

Nothing is written under a final name before it is complete: a case is made in `.partial/` and renamed. The journal
`.export.jsonl` says which cases are there and from what they were made; a killed export goes on where it stopped.
"""

import csv
import fcntl
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import CohortError

JOURNAL, PARTIAL, LOCK, MANIFEST = ".export.jsonl", ".partial", ".export.lock", "manifest.csv"
OWN = {JOURNAL, PARTIAL, LOCK, MANIFEST}
LONGEST = 100  # characters; file systems allow 255 bytes, and suffixes follow
UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows opens a device instead


@dataclass(frozen=True)
class Delivered:
    """A case of an export: `key` tells from what it was made, `files` are relative to the folder.

    Without files it has nothing to export, or `problem` says why it could not be.
    """

    case_id: str
    key: str
    files: tuple[str, ...]
    problem: str = ""


def safe_names(texts: Sequence[str]) -> list[str]:
    """A file name for each of some distinct texts: letters, digits and `._+-`, never hidden, no two alike.

    A text that is a good name already stays as it is. One that had to change, or differs from another in upper and
    lower case only, ends in ten digits of its SHA-256, so its name does not depend on the other texts' order.
    """
    names = [_safe(text) for text in texts]
    alike = Counter(name.lower() for name in names)
    names = [_marked(name, text) if alike[name.lower()] > 1 else name for name, text in zip(names, texts, strict=True)]
    if len({name.lower() for name in names}) < len(names):
        raise CohortError("two cases would get one file name; give one of them another case id")
    return names


def _safe(text: str) -> str:
    name = UNSAFE.sub("_", text).strip(".")[:LONGEST]
    return name if name == text and name and not RESERVED.fullmatch(name) else _marked(name, text)


def _marked(name: str, text: str) -> str:
    return f"{name or 'case'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def map_file_names(maps: Sequence[str]) -> dict[str, str]:
    """Map set by file name: the end of its name (`S`), or all of it where two sets end alike."""
    ends = [name.rsplit("/", 1)[-1] for name in maps]
    short = [end if ends.count(end) == 1 else name for end, name in zip(ends, maps, strict=True)]
    return dict(zip(safe_names([name.replace("/", ".") for name in short]), maps, strict=True))


@contextmanager
def export_folder(out: Path, purpose: Mapping[str, str]) -> Iterator[dict[str, Delivered]]:
    """Be the only exporter into `out`; what was delivered there before, by case id.

    Raises:
        CohortError: `out` holds other files, an export for another purpose, or one that is being written.
    """
    if out.is_file() or (out.is_dir() and not (out / JOURNAL).exists() and any(_foreign(out))):
        raise CohortError(f"{out} has other files in it; name an empty or a new folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOCK).open("w") as lock:
            _lock(lock, out)
            shutil.rmtree(out / PARTIAL, ignore_errors=True)
            (out / PARTIAL).mkdir()
            try:
                yield _resumed(out, purpose)
            finally:
                shutil.rmtree(out / PARTIAL, ignore_errors=True)


def _foreign(out: Path) -> Iterator[Path]:
    return (path for path in out.iterdir() if path.name not in OWN)


def _lock(lock: Any, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CohortError(f"another export into {out} is running; wait for it or name another folder") from error


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """CohortError in place of the system's when `out` cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise CohortError(f"{out} cannot be written: {error.strerror or error}") from error


def _resumed(out: Path, purpose: Mapping[str, str]) -> dict[str, Delivered]:
    """The journal's cases; its lines are written anew, without one that a kill cut short."""
    journal = out / JOURNAL
    lines = [line for line in map(_parsed, journal.read_text().splitlines()) if line] if journal.exists() else []
    if lines and lines[0] != dict(purpose):
        held = ", ".join(f"{name} {value}" for name, value in lines[0].items())
        raise CohortError(f"{out} holds another export ({held}); name an empty or a new folder")
    cases = {line["case_id"]: Delivered(line["case_id"], line["key"], tuple(line["files"])) for line in lines[1:]}
    text = "".join(json.dumps(line) + "\n" for line in [dict(purpose), *map(vars, cases.values())])
    replaced(journal, lambda partial: partial.write_text(text))
    return cases


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except (json.JSONDecodeError, ValueError):
        return None


def replaced(file: Path, write: Callable[[Path], Any]) -> None:
    """Write `file` through a file beside it, so that a reader sees the old one or the new one."""
    partial = file.with_name(f".{file.name}.new")
    write(partial)
    partial.replace(file)


def delivered(out: Path, name: str, write: Callable[[Path], Sequence[Path]]) -> tuple[str, ...]:
    """Let `write` make the file or folder `name`, then put it in place; the paths that `write` answers, in `out`.

    Where it answers none nothing is delivered, and an older file of the name is removed.
    """
    partial, final = out / PARTIAL / name, out / name
    if not final.resolve().parent == out.resolve():
        raise CohortError(f"'{name}' would lie outside {out}")
    with writing(out):
        paths = [path.relative_to(partial.parent).as_posix() for path in write(partial)]
        aside = out / PARTIAL / f"{name}.old"
        if final.exists() and (final.is_dir() or not paths):  # a folder can only replace an empty one
            final.rename(aside)
        if paths:
            partial.rename(final)
        for left in (partial, aside):
            _remove(left)
    return tuple(paths)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_done(out: Path, known: Delivered | None, key: str) -> bool:
    """Whether a case was delivered from just this, and still is."""
    return known is not None and known.key == key and all((out / file).exists() for file in known.files)


def record(out: Path, cases: Sequence[Delivered]) -> None:
    """Note in the journal that `cases` are in place."""
    with writing(out), (out / JOURNAL).open("a") as journal:
        journal.write("".join(json.dumps(vars(case)) + "\n" for case in cases))


def write_manifest(out: Path, cases: Mapping[str, Delivered], table: Any, labels: Sequence[str]) -> Path:
    """`manifest.csv`: a row a delivered case of the cohort's `table`, its files joined by ';'."""
    head = ["case_id", "patient_id", "split", "files", *labels]

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as opened:
            rows = csv.writer(opened)
            rows.writerow(head)
            for row in table[["case_id", "patient_id", "split", *labels]].itertuples(index=False, name=None):
                if row[0] in cases and cases[row[0]].files:
                    rows.writerow([*row[:3], ";".join(cases[row[0]].files), *row[3:]])

    with writing(out):
        replaced(out / MANIFEST, write)
    return out / MANIFEST
