"""sim:skin_biomarkers — patches of healthy skin, half of them with artificial biomarkers, each with an exact mask.

    sim:skin_biomarkers?cases=2920&size=128&seed=0[&skin=FOLDER][&thumbnails=FOLDER]

`skin` is a folder of dermoscopy photographs (`storage.sources.skin.photographed` says which parts of them are used);
without it the skin is simulated. `thumbnails` is a folder of natural images to paste
(`storage.sources.skin.biomarkers`). A case depends on the seed, its number and the files it shows, so that a longer
cohort begins with the shorter one. Half of any even number of cases is abnormal, and half of each patient's.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np

from storage.case import Case, Listed
from storage.geometry import plain
from storage.sources.simulated import Parameters, parse, stream
from storage.sources.skin.biomarkers import pasted
from storage.sources.skin.photographed import PhotographedSkin
from storage.sources.skin.texture import draw_look, skin_patch
from storage.sources.skin.thumbnails import Thumbnails

ADDRESS = "sim:skin_biomarkers"
PATCH_MM = 6.0  # nominal; what a dermatoscope shows is two or three times as wide
_RELEASE = 1  # counts changes of the simulator that change its pictures, so that a cohort takes them for new files
_ALLOWED = Parameters(
    ADDRESS,
    "cases=2920, size=128, seed=0, skin (a folder of dermoscopy photographs), thumbnails (a folder of natural images)",
    {"cases": (1, 1_000_000), "size": (32, 1024), "seed": (0, 2**63 - 1)},
    ("skin", "thumbnails"),
)
_COIN, _LOOK, _PATCH, _BIOMARKERS = range(4)  # streams of random numbers


class SimulatedSkin:
    """Simulated patches; two of each patient."""

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed

    def patch(self, patient: int, visit: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        look = draw_look(stream(self.seed, _LOOK, patient))
        return skin_patch(look, stream(self.seed, _PATCH, patient, visit), self.size)


class SkinBiomarkers:
    """Source of `cases` patches of `size` × `size` pixels."""

    name = "skin_biomarkers"
    dims = ("y", "x")
    lesions: tuple[str, ...] = ("biomarker",)
    labels: tuple[str, ...] = ("abnormal",)
    channels: tuple[str, ...] = ("red", "green", "blue")

    def __init__(
        self,
        cases: int = 2920,
        size: int = 128,
        seed: int = 0,
        skin: Path | None = None,
        thumbnails: Path | None = None,
    ):
        self.cases = cases
        self.size = size
        self.seed = seed
        self.skin = PhotographedSkin(skin, size, seed) if skin else SimulatedSkin(size, seed)
        self.thumbnails = Thumbnails(thumbnails)
        folders = {"skin": skin, "thumbnails": thumbnails}
        given = "".join(f"&{name}={quote(str(folder))}" for name, folder in folders.items() if folder)
        self.address = f"{ADDRESS}?cases={cases}&size={size}&seed={seed}{given}"
        self._file = f"{ADDRESS}?size={size}&seed={seed}{given}"

    @classmethod
    def from_address(cls, address: str) -> "SkinBiomarkers":
        """Open e.g. `sim:skin_biomarkers?cases=800&size=64`; SourceError names what is wrong and what is known."""
        given = parse(address, _ALLOWED)
        numbers, folders = given.numbers, given.folders
        return cls(
            numbers.get("cases", 2920),
            numbers.get("size", 128),
            numbers.get("seed", 0),
            folders.get("skin"),
            folders.get("thumbnails"),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    def listing(self) -> Sequence[Listed]:
        """One entry a case, in order; the photographs of a folder are looked through once."""
        return self._listed

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(self._entry(number) for number in range(self.cases))

    def _entry(self, number: int) -> Listed:
        patient, visit = self._dealt(number)
        name = self._patient_id(patient)
        return Listed(file=f"{self._file}#{number}", case_id=f"{name}-{visit}", patient_id=name)

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the picture: release, size, seed, number, the photograph and the thumbnails."""
        number = _number(key)
        shown = self.thumbnails.identity
        if isinstance(self.skin, PhotographedSkin):
            shown += self.skin.photographs[self._dealt(number)[0]].sha256
        return hashlib.sha256(repr((ADDRESS, _RELEASE, self.size, self.seed, number, shown)).encode()).hexdigest()

    def read(self, key: Listed) -> Case:
        """Cut or draw the patch, and paste the biomarkers of an abnormal one."""
        number = _number(key)
        image, mask = self.normal(number), np.zeros(self.grid, bool)
        if self.is_abnormal(number):
            image, mask = pasted(image, self.thumbnails, stream(self.seed, _BIOMARKERS, *self._dealt(number)))
        spacing = PATCH_MM / self.size
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=self.sha256(key),
            image=np.ascontiguousarray(image.transpose(2, 0, 1)),
            labels={"abnormal": float(self.is_abnormal(number))},
            masks={"biomarker": mask},
            geometry=plain(self.grid, (spacing, spacing)),
        )

    def normal(self, number: int) -> np.ndarray:
        """(size, size, 3) uint8: the case's skin without any biomarker."""
        return self.skin.patch(*self._dealt(number))

    def is_abnormal(self, number: int) -> bool:
        """Decided by one coin for two patients in photographs, which then take turns; by one for each simulated."""
        patient, visit = self._dealt(number)
        if isinstance(self.skin, SimulatedSkin):
            return _coin(self.seed, patient) == (visit == 0)
        return _coin(self.seed, patient // 2) == ((patient + visit) % 2 == 0)

    def _dealt(self, number: int) -> tuple[int, int]:
        """(patient, visit): photographs in turn; simulated patients two cases each."""
        if isinstance(self.skin, SimulatedSkin):
            return number // 2, number % 2
        visit, patient = divmod(number, len(self.skin.photographs))
        return patient, visit

    def _patient_id(self, patient: int) -> str:
        if isinstance(self.skin, SimulatedSkin):
            return f"skin{self.seed}-p{patient:05d}"
        return Path(self.skin.photographs[patient].name).with_suffix("").as_posix()


def _coin(seed: int, *place: int) -> bool:
    return bool(stream(seed, _COIN, *place).random() < 0.5)


def _number(key: Listed) -> int:
    return int(key.file.rpartition("#")[2])
