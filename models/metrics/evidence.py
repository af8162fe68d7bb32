"""What one map and its truth contribute to the metrics of a cohort: kept while the pixels stream past."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.config import Config
from models.errors import ModelError
from models.metrics.froc import Detections, detections
from models.metrics.histogram import Histogram, average_precision, counts_between, histogram_of, order_keys
from models.metrics.pointing import energy_inside, is_empty, pointing_hit


class EvidenceConfig(Config):
    """How maps are held against truth; the literature leaves all of these open.

    key_bits: leading bits of the float32 value that tell scores apart. 32 keep every score (average precision equals
        scikit-learn's), at most 8 bytes a pixel. Fewer take less memory (20: an eighth at 512²) and are
        harmless for maps whose values spread over orders of magnitude (error < 3e-4), but not for values crowded far
        from 0, such as probabilities near 1 (0.17 measured).
    froc_quantile: candidates lie above this quantile of their own map: at most the top 5 % of the pixels.
    froc_sigma: pixels of the Gaussian before it; single-pixel speckle of gradient maps would otherwise be candidates.
    pointing_tolerance: pixels by which the maximum may miss the lesion.
    """

    key_bits: int = Field(default=32, ge=12, le=32)
    froc_quantile: float = Field(default=0.95, ge=0, lt=1)
    froc_sigma: float = Field(default=1.0, ge=0)
    pointing_tolerance: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, eq=False)
class CaseEvidence:
    """One case: scores of its lesion pixels and of the others, detections, per-case metrics (NaN without a lesion)."""

    positives: Histogram
    negatives: Histogram
    detections: Detections
    average_precision: float
    energy: float
    pointing: float
    empty: float
    key_bits: int = 32

    @property
    def has_lesions(self) -> bool:
        """Whether the truth marks any pixel."""
        return self.positives.keys.size > 0


def case_evidence(saliency: npt.ArrayLike, mask: npt.ArrayLike, config: EvidenceConfig | None = None) -> CaseEvidence:
    """Hold a raw map (any 2-D or 3-D shape; larger is more lesion-like) against its truth (same shape, bool).

    Raises:
        ModelError: the shapes differ, or the map has values that are not finite.
    """
    config = config or EvidenceConfig()
    scores, truth = _checked(saliency, mask)
    keys = order_keys(scores, config.key_bits)
    positives, negatives = histogram_of(keys[truth]), histogram_of(keys[~truth])
    has_lesions = positives.keys.size > 0
    return CaseEvidence(
        positives=positives,
        negatives=negatives,
        detections=detections(scores, truth, config.froc_quantile, config.froc_sigma),
        average_precision=case_average_precision(positives, negatives),
        energy=energy_inside(scores, truth) if has_lesions else np.nan,
        pointing=pointing_hit(scores, truth, config.pointing_tolerance) if has_lesions else np.nan,
        empty=float(is_empty(scores)) if has_lesions else np.nan,
        key_bits=config.key_bits,
    )


def case_average_precision(positives: Histogram, negatives: Histogram) -> float:
    """Average precision of one case; NaN without a lesion. Only scores of lesion pixels are thresholds that move it."""
    return float(average_precision(positives.counts.astype(np.float64), counts_between(negatives, positives.keys)))


def _checked(saliency: npt.ArrayLike, mask: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    scores, truth = np.asarray(saliency, dtype=np.float32), np.asarray(mask, dtype=bool)
    if scores.shape != truth.shape or scores.size == 0:
        raise ModelError(
            f"a map of shape {scores.shape} cannot be held against a mask of shape {truth.shape}; they must match"
        )
    if not np.isfinite(scores).all():
        count = int((~np.isfinite(scores)).sum())
        raise ModelError(f"the map has {count} values that are not finite; a map must be finite everywhere")
    return scores, truth
