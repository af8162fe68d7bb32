"""A folder of DICOM files as a source: one case a series.

in   CT, MR, PET (and other series that say where they lie), one slice a file or many; RTSTRUCT and SEG beside them
out  CT in HU, PET in body-weight SUV or as stored, the rest as stored; masks by region name; keyed hashes for names
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.geometry import Interpolator
from storage.sources.dicom.deidentify import Pseudonyms
from storage.sources.dicom.files import UnusableError
from storage.sources.dicom.reading import Units, combined_digest, file_bytes, read_series
from storage.sources.dicom.scan import Found, ImageSeries, MaskFile, drawn_on, scan
from storage.sources.label_table import LabelColumns, Row
from storage.sources.listing import label_rows, with_rows
from storage.sources.stamp import stamp_of
from storage.sources.volumes.volume import Plane, Regrid, regridded

MODALITIES = {"PET": "PT", "MRI": "MR"}  # what people say, and what DICOM says
CHANNELS = {"PT": "PET"}
TAIL = 8  # digits of a series' UID that tell it from others of the same number


@dataclass(frozen=True)
class SeriesKey(Listed):
    """A series with its files and the masks drawn on it. Its paths are not shown: they may hold names."""

    folder: str = field(default="", repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    masks: tuple[str, ...] = field(default=(), repr=False)
    scan_day: float | None = None


@dataclass(frozen=True)
class DicomSeries:
    """A folder of DICOM series as `open_dicom` found it; its keys are `SeriesKey`."""

    address: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    lesions: tuple[str, ...]
    listed: tuple[SeriesKey, ...] = field(repr=False)
    masks_folder: Path = field(repr=False)
    units: Units = "suv"
    regrid: Regrid = field(default_factory=Regrid)
    name: str = "dicom"

    @property
    def grid(self) -> tuple[int, ...] | None:
        """The shape that was asked for; None where each volume keeps its own."""
        return self.regrid.grid()

    @property
    def dims(self) -> tuple[str, ...]:
        """z, y, x; or y, x of a projection."""
        return self.regrid.dims()

    def listing(self) -> Sequence[SeriesKey]:
        """The series in the order of their folders, then the files that cannot be used."""
        return self.listed

    def where(self, key: Listed | Rejected) -> str:
        """The folder of a series or the path of a damaged file, relative to the source; for the terminal alone."""
        return next((one.folder for one in self.listed if one.file == key.file), "")

    def sha256(self, key: Listed) -> str:
        """Over the SHA-256 of all files of the series, whatever they are called; empty where one cannot be read."""
        if not isinstance(key, SeriesKey) or not key.files:
            return ""
        try:
            return combined_digest(hashlib.sha256(encoded).digest() for encoded in self._bytes(key))
        except UnusableError:
            return ""

    def read(self, key: Listed) -> Case | Rejected:
        """Decode a series and bring it and its masks onto the grid."""
        digests: list[bytes] = []
        try:
            if not isinstance(key, SeriesKey) or key.problem:
                raise UnusableError(key.problem or "is no series of this source")
            return self._case(key, digests)
        except (UnusableError, SourceError) as error:
            return Rejected(key.file, str(error), self.sha256(key))
        except MemoryError:
            return Rejected(key.file, "does not fit into memory; ask for fewer workers", self.sha256(key))
        except Exception as error:  # damaged bytes may lead pydicom anywhere; its messages may quote the header
            return Rejected(key.file, f"is damaged ({type(error).__name__} while decoding)", self.sha256(key))

    def _bytes(self, key: SeriesKey) -> Iterator[bytes]:
        for file in key.files:
            yield file_bytes(Path(self.address, file), Path(self.address))

    def _case(self, key: SeriesKey, digests: list[bytes]) -> Case:
        def hashed() -> Iterator[bytes]:
            for encoded in self._bytes(key):
                digests.append(hashlib.sha256(encoded).digest())
                yield encoded

        masks = [self.masks_folder / file for file in key.masks]
        series = read_series(hashed(), masks, self.masks_folder, self.lesions, self.units)
        image, found, geometry = regridded(series.volume, self.regrid)
        day = {} if key.scan_day is None else {"scan_day": key.scan_day}
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=combined_digest(digests),
            image=image,
            labels=dict(key.labels),
            masks=found,
            geometry=geometry,
            split=key.split,
            stamp=key.stamp,
            acquisition=series.acquisition | day,
        )


def open_dicom(
    address: str,
    *,
    labels: str | Path | None = None,
    file_column: str = "file",
    label: Mapping[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    masks: str | Path | None = None,
    mask_pattern: str | None = None,
    lesions: Sequence[str] | None = None,
    modality: str | None = None,
    units: Units | None = None,
    spacing: tuple[float, float, float] | None = None,
    interpolator: Interpolator = "linear",
    shape: tuple[int, int, int] | None = None,
    project: Plane | None = None,
    id_key: bytes | None = None,
    keep_identifiers: bool = False,
) -> DicomSeries:
    """The series of one `modality` in and below the folder `address`, whatever their files are called.

    RTSTRUCT and SEG are looked for there too, or in the folder `masks`, and belong to the series they name; `lesions`
    are names of regions, by default all. PET becomes body-weight SUV, or with `units` "raw" keeps its own. `labels` is
    a CSV whose `file_column` names patients, folders, Series or Study Instance UIDs.

    Patients, series and files are named by hashes with `id_key`, or with `keep_identifiers` by what the header says.
    SourceError for a missing folder or column, for a choice that the person must make, and where there is no series.
    """
    folder, masks_folder = Path(address), Path(masks if masks is not None else address)
    _check(folder, masks_folder, mask_pattern, units, id_key, keep_identifiers)
    found = scan(folder)
    beside = found if masks_folder == folder else scan(masks_folder)
    code = _modality(found, modality, folder)
    if units is not None and code != "PT":
        raise SourceError(f"units are chosen for PET alone, the series of {folder} are {code}; leave --units out")
    chosen = [series for series in found.series if series.modality == code]
    pseudonyms = Pseudonyms(None if keep_identifiers else id_key)
    label = dict(label or {})
    columns = LabelColumns(file_column, label, patient_column, split_column)
    rows = _rows(labels, columns, chosen, pseudonyms)
    known = [series.uid for series in found.series]
    drawn = {series.uid: [mask for mask in beside.masks if drawn_on(mask, series, known)] for series in chosen}
    keys = [_key(series, drawn[series.uid], folder, masks_folder, pseudonyms, rows) for series in chosen]
    damaged = [
        _damaged(file, problem, folder, pseudonyms) for file, problem in (found.damaged | beside.damaged).items()
    ]
    return DicomSeries(
        address=str(address),
        channels=(CHANNELS.get(code, code),),
        labels=tuple(label),
        lesions=_lesions(lesions, [mask for masks in drawn.values() for mask in masks], masks_folder),
        listed=with_rows([*keys, *damaged], rows, tuple(label)),
        masks_folder=masks_folder,
        units=units or "suv",
        regrid=Regrid(spacing, interpolator, shape, project),
    )


def _check(
    folder: Path, masks: Path, pattern: str | None, units: str | None, id_key: bytes | None, keep_identifiers: bool
) -> None:
    for what, path in (("folder", folder), ("folder of masks", masks)):
        if not path.is_dir():
            raise SourceError(f"there is no {what} {path}")
    if pattern is not None:
        raise SourceError("a DICOM mask says itself which series it belongs to; leave --mask-pattern out")
    if units not in (None, "suv", "raw"):
        raise SourceError(f"there are no units '{units}'; PET is in suv, or raw as its files have it")
    if not keep_identifiers and not id_key:
        raise SourceError("patients are named by keyed hashes and there is no key; give one, or --keep-identifiers")


def _modality(found: Found, wanted: str | None, folder: Path) -> str:
    """The one modality to read; SourceError where a person must choose, or where there is none."""
    present = sorted({series.modality for series in found.series})
    if not present:
        seen = f"; {len(found.damaged)} files have the look of DICOM and cannot be used" if found.damaged else ""
        why = f" ({next(iter(found.damaged.values()))})" if found.damaged else ""
        raise SourceError(f"{folder} has no DICOM series of images in it or below{seen}{why}")
    if wanted is None:
        if len(present) > 1:
            raise SourceError(f"{folder} holds {', '.join(present)}; name one with --modality {present[0]}")
        return present[0]
    code = MODALITIES.get(wanted.upper(), wanted.upper())
    if code not in present:
        raise SourceError(f"{folder} has no series of modality {wanted}; it has: {', '.join(present)}")
    return code


def _rows(
    path: str | Path | None, columns: LabelColumns, series: Sequence[ImageSeries], pseudonyms: Pseudonyms
) -> dict[str, Row]:
    """The row of each case: of its series, else its folder, its study, its patient, whichever the CSV speaks of."""
    names = {one.uid: (one.uid, one.folder, one.study_uid, one.patient_id) for one in series}
    rows = label_rows(path, columns, list(dict.fromkeys(name for of_series in names.values() for name in of_series)))
    found: dict[str, Row] = {}
    for one in series:
        row = next((rows[name] for name in names[one.uid] if name in rows), None)
        if row is not None:
            patient = pseudonyms.patient(row.patient_id) if row.patient_id else ""
            found[_case_id(one, pseudonyms)] = replace(row, patient_id=patient)
    return found


def _case_id(series: ImageSeries, pseudonyms: Pseudonyms) -> str:
    if pseudonyms.key is not None:
        return pseudonyms.hashed("series", series.uid)
    return f"{series.patient_id.replace('/', '_')}/{_tail(series)}"


def _tail(series: ImageSeries) -> str:
    """Series number and the end of the UID: the same whichever other series come or go."""
    end = series.uid.replace(".", "")[-TAIL:]
    return f"{series.number}-{end}" if series.number else end


def _key(
    series: ImageSeries,
    masks: Sequence[MaskFile],
    folder: Path,
    masks_folder: Path,
    pseudonyms: Pseudonyms,
    rows: Mapping[str, Row],
) -> SeriesKey:
    patient, case = pseudonyms.patient(series.patient_id, series.issuer), _case_id(series, pseudonyms)
    person = rows[case].patient_id if case in rows else ""  # a CSV may know that two patient ids are one person
    return SeriesKey(
        file=f"{patient}/{case}" if pseudonyms.key is not None else f"{series.folder}/{_tail(series)}",
        case_id=case,
        patient_id=patient,
        problem=series.problem,
        stamp=stamp_of([*(folder / file for file in series.files), *(mask.path for mask in masks)]),
        folder=series.folder,
        files=series.files,
        masks=tuple(mask.path.relative_to(masks_folder).as_posix() for mask in masks),
        scan_day=pseudonyms.scan_day(person or patient, series.study_date),
    )


def _damaged(path: Path, problem: str, folder: Path, pseudonyms: Pseudonyms) -> SeriesKey:
    """A file that belongs to no series any more, under a name that does not tell its own."""
    own = path.is_relative_to(folder)
    file = (path.relative_to(folder) if own else path).as_posix()
    name = file if pseudonyms.key is None else pseudonyms.hashed("file", file)
    files = (file,) if own else ()
    return SeriesKey(name, name, name, problem=problem, stamp=stamp_of([path]), folder=file, files=files)


def _lesions(wanted: Sequence[str] | None, masks: Sequence[MaskFile], folder: Path) -> tuple[str, ...]:
    """The lesion classes; SourceError for one that no file has where there are files."""
    names = sorted({name for mask in masks for name in mask.names})
    absent = [name for name in wanted or () if name not in names]
    if absent and names:
        raise SourceError(f"no RTSTRUCT or SEG in {folder} has a region '{absent[0]}'; there is: {', '.join(names)}")
    return tuple(names if wanted is None else wanted)
