"""The knobs that make simulated fundus photographs easy or hard: how many lesions, how large, how faint, beside what.

Lengths are in units of the field-of-view radius (0.0165 is one pixel on a grid of 128), so they hold at every size.
A range is drawn from as `low + (high - low) · u^skew`, u uniform: a skew above 1 makes the low end common.
Counts are Poisson means; `by grade` means one mean for each of the grades 0–4.
"""

from dataclasses import dataclass, field

LESIONS = ("red", "exudate", "cotton_wool")

MASK_SHARE = 0.25  # a pixel belongs to a lesion where its profile (1 at the core, 0 outside) exceeds this share

ByGrade = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class LesionKind:
    """Number by grade, radius and contrast of one kind of lesion; `contrast` is a share of the full colour change."""

    count: ByGrade
    radius: tuple[float, float]
    contrast: tuple[float, float]
    radius_skew: float = 1.0
    contrast_skew: float = 1.3


@dataclass(frozen=True)
class Distractor:
    """A look-alike: as many in every grade."""

    count: float
    radius: tuple[float, float]
    contrast: tuple[float, float]


@dataclass(frozen=True)
class Difficulty:
    """Everything that decides how hard the lesions are to find and the grade is to tell."""

    grade_share: ByGrade = (0.30, 0.18, 0.22, 0.17, 0.13)
    microaneurysm: LesionKind = field(
        default=LesionKind((0.0, 3.5, 5.0, 7.0, 8.0), (0.016, 0.024), (0.35, 1.0), contrast_skew=1.0)
    )
    haemorrhage: LesionKind = field(
        default=LesionKind((0.0, 0.2, 3.0, 8.5, 15.0), (0.022, 0.050), (0.35, 1.2), radius_skew=1.5)
    )
    exudate_cluster: LesionKind = field(
        default=LesionKind((0.0, 0.0, 1.3, 2.0, 3.2), (0.009, 0.026), (0.20, 0.95), radius_skew=2.0)
    )
    exudates_per_cluster: float = 9.0
    cotton_wool: LesionKind = field(default=LesionKind((0.0, 0.0, 0.3, 2.2, 4.0), (0.032, 0.058), (0.18, 0.62)))
    dust: Distractor = field(default=Distractor(3.5, (0.006, 0.014), (0.10, 0.45)))
    drusen: Distractor = field(default=Distractor(4.0, (0.012, 0.022), (0.08, 0.30)))
    pigment: Distractor = field(default=Distractor(1.5, (0.035, 0.085), (0.15, 0.50)))
    vessel_blob: Distractor = field(default=Distractor(3.0, (0.014, 0.024), (0.25, 0.80)))
    flare: Distractor = field(default=Distractor(0.35, (0.10, 0.45), (0.05, 0.18)))
