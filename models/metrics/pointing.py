"""Where the energy of a map lies and where its maximum points, on cases that have lesions."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Saliency = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def is_empty(saliency: Saliency) -> bool:
    """Whether the map is nowhere positive; its energy then counts as 0."""
    return not bool((saliency > 0).any())


def energy_inside(saliency: Saliency, mask: Mask) -> float:
    """Energy-based pointing game (Wang et al. 2020, Score-CAM): Σ_lesion s⁺ / Σ s⁺, negatives clipped; 0 for 0 / 0."""
    energy = np.maximum(saliency, 0).astype(np.float64)
    total = float(energy.sum())
    return float(energy[mask].sum()) / total if total > 0 else 0.0


def pointing_hit(saliency: Saliency, mask: Mask, tolerance: float) -> float:
    """Pointing game (Zhang et al. 2016): is the maximum within `tolerance` pixels of a lesion?

    Maxima that tie share the point, so the result is the fraction of them that hits: the expectation of a random
    choice. A constant map points nowhere: 0.
    """
    peak = saliency.max()
    if peak == saliency.min():
        return 0.0
    target = mask if tolerance == 0 else ndimage.distance_transform_edt(~mask) <= tolerance
    return float(target[saliency == peak].mean())
