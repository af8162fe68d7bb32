"""Patients of whom one eye or both are photographed: the cohorts that the simulators of the fundus draw."""

from storage.case import Listed
from storage.errors import SourceError
from storage.sources.simulated import Parameters, SimulatedPhotographs, number_of, parse, stream

FIELD_MM = 12.0  # of retina across the field of view, which makes the optic disc 1.9 mm wide
SECOND_EYES = 0.8  # share of patients with both eyes photographed, where `patients` is not given
LIMITS = {"cases": (1, 1_000_000), "size": (32, 4096), "seed": (0, 2**63 - 1), "patients": (1, 1_000_000)}
KNOWN = "cases=200, size=128, seed=0, patients (one or two cases each)"


class SimulatedEyes(SimulatedPhotographs):
    """Source of `cases` photographs from one or two eyes of each patient, whose ids begin with `prefix`."""

    def __init__(
        self, simulator: str, prefix: str, cases: int, size: int, seed: int, patients: int | None, given: str = ""
    ):
        super().__init__(simulator, cases, size, seed, (f"&patients={patients}" if patients else "") + given)
        self._prefix = prefix
        self._eyes = _deal(cases, patients) if patients else _draw_eyes(cases, seed)

    def eye_of(self, key: Listed) -> tuple[int, int]:
        """The patient's number, and 0 or 1 for the eye that was photographed first or second."""
        return self._eyes[number_of(key)]

    def _ids(self, number: int) -> tuple[str, str]:
        patient, visit = self._eyes[number]
        name = f"{self._prefix}{self.seed}-p{patient:05d}"
        return f"{name}-{'ab'[visit]}", name


def parse_eyes(address: str, allowed: Parameters) -> dict[str, int]:
    """The numbers of `address`; SourceError names what is wrong and what is known."""
    numbers = parse(address, allowed).numbers
    cases, patients = numbers.get("cases", 200), numbers.get("patients")
    if patients is not None and not patients <= cases <= 2 * patients:
        most = 2 * patients
        raise SourceError(
            f"{address}: {patients} patients give {patients} to {most} cases, one or two each, not {cases}."
        )
    return numbers


def _draw_eyes(cases: int, seed: int) -> list[tuple[int, int]]:
    """(patient, visit) of each case where patients have one eye or two by chance."""
    both = stream(seed).random(cases) < SECOND_EYES
    return [(patient, visit) for patient in range(cases) for visit in range(2 if both[patient] else 1)][:cases]


def _deal(cases: int, patients: int) -> list[tuple[int, int]]:
    """(patient, visit) of each case where `patients` all get a first eye, then in the same order a second."""
    return [(index % patients, index // patients) for index in range(cases)]
