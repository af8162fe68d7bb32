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
        default=LesionKind((0.0, 2.5, 3.5, 4.5, 5.0), (0.017, 0.026), (0.5, 1.2), contrast_skew=1.0)
    )
    haemorrhage: LesionKind = field(
        default=LesionKind((0.0, 0.2, 2.5, 6.0, 10.0), (0.026, 0.055), (0.5, 1.3), radius_skew=1.5)
    )
    exudate_cluster: LesionKind = field(
        default=LesionKind((0.0, 0.0, 1.0, 1.6, 2.4), (0.012, 0.030), (0.35, 1.0), radius_skew=1.5)
    )
    exudates_per_cluster: float = 7.0
    cotton_wool: LesionKind = field(default=LesionKind((0.0, 0.0, 0.3, 1.8, 3.0), (0.034, 0.062), (0.25, 0.7)))
    dust: Distractor = field(default=Distractor(3.5, (0.006, 0.014), (0.10, 0.45)))
    drusen: Distractor = field(default=Distractor(4.0, (0.012, 0.022), (0.08, 0.30)))
    pigment: Distractor = field(default=Distractor(1.5, (0.035, 0.085), (0.15, 0.50)))
    vessel_blob: Distractor = field(default=Distractor(3.0, (0.014, 0.024), (0.25, 0.80)))
    flare: Distractor = field(default=Distractor(0.35, (0.10, 0.45), (0.05, 0.18)))
