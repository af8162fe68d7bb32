"""sim:fundus — a cohort of simulated fundus photographs with a retinopathy grade each and exact lesion masks.

The cohort is a function of its seed: a case depends on the seed and its patient alone, so a longer cohort begins with
the shorter one, and cases can be read in any order and by any thread. What it shows is in `storage.sources.fundus`.

    sim:fundus?cases=200&size=128&seed=0[&patients=120]
"""

from storage.case import Case, Listed
from storage.sources.fundus import LESIONS, Difficulty, draw_scene, photograph
from storage.sources.fundus.spots import FIELD_SHARE
from storage.sources.simulated import Parameters, digest
from storage.sources.simulated_eyes import FIELD_MM, KNOWN, LIMITS, SimulatedEyes, parse_eyes

ADDRESS = "sim:fundus"
_RELEASE = 1  # counts changes of the simulator that change its pictures, so that a cohort takes them for new files
_ALLOWED = Parameters(ADDRESS, KNOWN, LIMITS)


class SimulatedFundus(SimulatedEyes):
    """Source of `cases` photographs of `size` × `size` pixels from one or two eyes of each patient."""

    name = "fundus"
    lesions: tuple[str, ...] = LESIONS
    labels: tuple[str, ...] = ("grade",)

    def __init__(
        self,
        cases: int = 200,
        size: int = 128,
        seed: int = 0,
        patients: int | None = None,
        difficulty: Difficulty | None = None,
    ):
        super().__init__(ADDRESS, "sim", cases, size, seed, patients)
        self.difficulty = difficulty or Difficulty()

    @classmethod
    def from_address(cls, address: str) -> "SimulatedFundus":
        """Open e.g. `sim:fundus?cases=200&size=128&seed=0`; SourceError names what is wrong and what is known."""
        numbers = parse_eyes(address, _ALLOWED)
        return cls(numbers.get("cases", 200), numbers.get("size", 128), numbers.get("seed", 0), numbers.get("patients"))

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the picture: the simulator's release and knobs, size, seed, patient and eye."""
        return digest(_RELEASE, self.difficulty, self.size, self.seed, *self.eye_of(key))

    def read(self, key: Listed) -> Case:
        """Draw and photograph one case."""
        scene = draw_scene(self.seed, *self.eye_of(key), self.difficulty)
        image, masks = photograph(scene, self.size)
        chosen = {name: masks[name] for name in self.lesions}
        return self._case(key, image, {"grade": float(scene.grade)}, chosen, FIELD_MM / (FIELD_SHARE * self.size))
