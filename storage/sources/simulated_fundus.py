"""sim:fundus — a cohort of simulated fundus photographs with a retinopathy grade each and exact lesion masks.

The cohort is a function of its seed: a case depends on the seed and its patient alone, so a longer cohort begins with
the shorter one, and cases can be read in any order and by any thread. What it shows is in `storage.sources.fundus`.

    sim:fundus?cases=200&size=128&seed=0[&patients=120]
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from storage.case import Case, Listed
from storage.errors import SourceError
from storage.geometry import plain
from storage.sources.fundus import LESIONS, Difficulty, draw_scene, photograph
from storage.sources.fundus.spots import FIELD_SHARE
from storage.sources.simulated import Parameters, parse, stream

ADDRESS = "sim:fundus"
FIELD_MM = 12.0  # of retina across the field of view, which makes the optic disc 1.9 mm wide
SECOND_EYES = 0.8  # share of patients with both eyes photographed, where `patients` is not given
_RELEASE = 1  # counts changes of the simulator that change its pictures, so that a cohort takes them for new files
_LIMITS = {"cases": (1, 1_000_000), "size": (32, 4096), "seed": (0, 2**63 - 1), "patients": (1, 1_000_000)}
_ALLOWED = Parameters(ADDRESS, "cases=200, size=128, seed=0, patients (one or two cases each)", _LIMITS)


class SimulatedFundus:
    """Source of `cases` photographs of `size` × `size` pixels from one or two eyes of each patient."""

    name = "fundus"
    dims = ("y", "x")
    lesions: tuple[str, ...] = LESIONS
    labels: tuple[str, ...] = ("grade",)
    channels: tuple[str, ...] = ("red", "green", "blue")

    def __init__(
        self,
        cases: int = 200,
        size: int = 128,
        seed: int = 0,
        patients: int | None = None,
        difficulty: Difficulty | None = None,
    ):
        self.size = size
        self.seed = seed
        self.difficulty = difficulty or Difficulty()
        self.address = f"{ADDRESS}?cases={cases}&size={size}&seed={seed}" + (
            f"&patients={patients}" if patients else ""
        )
        self._file = f"{ADDRESS}?size={size}&seed={seed}" + (f"&patients={patients}" if patients else "")
        self._eyes = _deal(cases, patients) if patients else _draw_eyes(cases, seed)

    @classmethod
    def from_address(cls, address: str) -> "SimulatedFundus":
        """Open e.g. `sim:fundus?cases=200&size=128&seed=0`; SourceError names what is wrong and what is known."""
        numbers = parse(address, _ALLOWED).numbers
        cases, patients = numbers.get("cases", 200), numbers.get("patients")
        if patients is not None and not patients <= cases <= 2 * patients:
            most = 2 * patients
            raise SourceError(
                f"{address}: {patients} patients give {patients} to {most} cases, one or two each, not {cases}."
            )
        return cls(cases, numbers.get("size", 128), numbers.get("seed", 0), patients)

    @property
    def grid(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    def listing(self) -> Sequence[Listed]:
        """One entry a case, in order, without drawing anything."""
        return self._listed

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(
            Listed(
                file=f"{self._file}#{index}",
                case_id=self._case_id(patient, visit),
                patient_id=self._patient_id(patient),
            )
            for index, (patient, visit) in enumerate(self._eyes)
        )

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the picture: the simulator's release and knobs, size, seed, patient and eye."""
        patient, visit = self._eyes[_index(key)]
        return hashlib.sha256(
            repr((_RELEASE, self.difficulty, self.size, self.seed, patient, visit)).encode()
        ).hexdigest()

    def read(self, key: Listed) -> Case:
        """Draw and photograph one case."""
        patient, visit = self._eyes[_index(key)]
        scene = draw_scene(self.seed, patient, visit, self.difficulty)
        image, masks = photograph(scene, self.size)
        spacing = FIELD_MM / (FIELD_SHARE * self.size)
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=self.sha256(key),
            image=image,
            labels={"grade": float(scene.grade)},
            masks={name: masks[name] for name in self.lesions},
            geometry=plain(self.grid, (spacing, spacing)),
        )

    def _patient_id(self, patient: int) -> str:
        return f"sim{self.seed}-p{patient:05d}"

    def _case_id(self, patient: int, visit: int) -> str:
        return f"{self._patient_id(patient)}-{'ab'[visit]}"


def _draw_eyes(cases: int, seed: int) -> list[tuple[int, int]]:
    """(patient, visit) of each case where patients have one eye or two by chance."""
    both = stream(seed).random(cases) < SECOND_EYES
    return [(patient, visit) for patient in range(cases) for visit in range(2 if both[patient] else 1)][:cases]


def _deal(cases: int, patients: int) -> list[tuple[int, int]]:
    """(patient, visit) of each case where `patients` all get a first eye, then in the same order a second."""
    return [(index % patients, index // patients) for index in range(cases)]


def _index(key: Listed) -> int:
    return int(key.file.rpartition("#")[2])
