"""sim:skin_biomarkers — patches of healthy skin, half of them with artificial biomarkers, each with an exact mask.

    sim:skin_biomarkers?cases=2920&size=128&seed=0[&skin=FOLDER][&thumbnails=FOLDER]

`skin` is a folder of dermoscopy photographs (`storage.sources.skin.photographed` says which parts of them are used);
without it the skin is simulated. `thumbnails` is a folder of natural images to paste
(`storage.sources.skin.biomarkers`). A case depends on the seed, its number and the files it shows, so that a longer
cohort begins with the shorter one. Half of any even number of cases is abnormal, and half of each patient's.
"""

from pathlib import Path
from urllib.parse import quote

import numpy as np

from storage.case import Case, Listed
from storage.sources.simulated import Parameters, SimulatedPhotographs, digest, number_of, parse, stream
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


class SkinBiomarkers(SimulatedPhotographs):
    """Source of `cases` patches of `size` × `size` pixels."""

    name = "skin_biomarkers"
    lesions: tuple[str, ...] = ("biomarker",)
    labels: tuple[str, ...] = ("abnormal",)

    def __init__(
        self,
        cases: int = 2920,
        size: int = 128,
        seed: int = 0,
        skin: Path | None = None,
        thumbnails: Path | None = None,
    ):
        folders = {"skin": skin, "thumbnails": thumbnails}
        given = "".join(f"&{name}={quote(str(folder))}" for name, folder in folders.items() if folder)
        super().__init__(ADDRESS, cases, size, seed, given)
        self.skin = PhotographedSkin(skin, size, seed) if skin else SimulatedSkin(size, seed)
        self.thumbnails = Thumbnails(thumbnails)

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

    def _ids(self, number: int) -> tuple[str, str]:
        patient, visit = self._dealt(number)
        name = self._patient_id(patient)
        return f"{name}-{visit}", name

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the picture: release, size, seed, number, the photograph and the thumbnails."""
        number = number_of(key)
        shown = self.thumbnails.identity
        if isinstance(self.skin, PhotographedSkin):
            shown += self.skin.photographs[self._dealt(number)[0]].sha256
        return digest(ADDRESS, _RELEASE, self.size, self.seed, number, shown)

    def read(self, key: Listed) -> Case:
        """Cut or draw the patch, and paste the biomarkers of an abnormal one."""
        number = number_of(key)
        image, mask = self.normal(number), np.zeros(self.grid, bool)
        if self.is_abnormal(number):
            image, mask = pasted(image, self.thumbnails, stream(self.seed, _BIOMARKERS, *self._dealt(number)))
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        labels = {"abnormal": float(self.is_abnormal(number))}
        return self._case(key, pixels, labels, {"biomarker": mask}, PATCH_MM / self.size)

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
