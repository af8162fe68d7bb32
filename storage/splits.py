"""Which split a patient belongs to: drawn by a hash of the patient id, so that it never changes when others arrive."""

import hashlib
import math
from typing import Literal

from storage.errors import CohortError

Split = Literal["train", "validation", "test"]
Fractions = tuple[float, float, float]

SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")
FRACTIONS: Fractions = (0.7, 0.15, 0.15)


def split_of(patient_id: str, fractions: Fractions, salt: str = "") -> Split:
    """The split of a patient; patients fall into the splits in about the proportion of `fractions`."""
    digest = hashlib.sha256(f"{salt}\0{patient_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    train, validation, _ = fractions
    if position < train:
        return "train"
    return "validation" if position < train + validation else "test"


def checked_fractions(fractions: Fractions) -> Fractions:
    """`fractions` as floats; CohortError unless they are three shares that sum to 1."""
    shares = tuple(float(share) for share in fractions)
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise CohortError(f"the split fractions {shares} are not shares of train, validation and test that sum to 1")
    return shares[0], shares[1], shares[2]
