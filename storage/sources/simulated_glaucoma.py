"""sim:glaucoma — a cohort of simulated fundus photographs, about half of them glaucomatous, with exact masks.

    sim:glaucoma?cases=200&size=128&seed=0[&patients=120][&vessels=1]

A glaucomatous eye has lost a part of the disc's rim (mask `rim_loss`), nerve fibres (mask `nerve_fibre_defect`) or
both; the label tells only that it is one. With `vessels=1` a third class of masks holds the vessels as drawn. A case
depends on the seed and its patient alone, so that a longer cohort begins with the shorter one.
"""

from storage.case import Case, Listed
from storage.sources.fundus.glaucoma import KNOBS, PATHOLOGIES, draw_glaucoma_scene, photograph_glaucoma
from storage.sources.fundus.spots import FIELD_SHARE
from storage.sources.simulated import Parameters, digest
from storage.sources.simulated_eyes import FIELD_MM, KNOWN, LIMITS, SimulatedEyes, parse_eyes

ADDRESS = "sim:glaucoma"
_RELEASE = 1  # counts changes of the simulator that change its pictures, so that a cohort takes them for new files
_ALLOWED = Parameters(ADDRESS, f"{KNOWN}, vessels=1 (masks of the vessels)", {**LIMITS, "vessels": (0, 1)})


class SimulatedGlaucoma(SimulatedEyes):
    """Source of `cases` photographs of `size` × `size` pixels from one or two eyes of each patient."""

    name = "glaucoma"
    labels: tuple[str, ...] = ("glaucoma",)

    def __init__(self, cases: int = 200, size: int = 128, seed: int = 0, patients: int | None = None, vessels: int = 0):
        super().__init__(ADDRESS, "glaucoma", cases, size, seed, patients, "&vessels=1" if vessels else "")
        self.lesions: tuple[str, ...] = (*PATHOLOGIES, "vessels") if vessels else PATHOLOGIES

    @classmethod
    def from_address(cls, address: str) -> "SimulatedGlaucoma":
        """Open e.g. `sim:glaucoma?cases=200&size=128&seed=0`; SourceError names what is wrong and what is known."""
        return cls(**parse_eyes(address, _ALLOWED))

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the case: release, look-alikes, masks, size, seed, patient and eye."""
        return digest(ADDRESS, _RELEASE, KNOBS, self.lesions, self.size, self.seed, *self.eye_of(key))

    def read(self, key: Listed) -> Case:
        """Draw and photograph one case."""
        scene = draw_glaucoma_scene(self.seed, *self.eye_of(key))
        image, masks = photograph_glaucoma(scene, self.size)
        spacing = FIELD_MM / (scene.zoom * FIELD_SHARE * self.size)
        label = {"glaucoma": float(scene.is_glaucomatous)}
        return self._case(key, image, label, {name: masks[name] for name in self.lesions}, spacing)
