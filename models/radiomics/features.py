"""The features by name: family, unit, and what each tells, in the nomenclature of the IBSI.

Image Biomarker Standardisation Initiative: Zwanenburg et al., Radiology 2020;295:328–338, and the reference manual
arXiv:1612.07003. A texture column carries how its matrices were put together as a suffix, as the IBSI reference tables
do: `cm_contrast_2D_comb`.
"""

from typing import Literal, NamedTuple, get_args

Family = Literal[
    "morphology",
    "planar",
    "local_intensity",
    "intensity_statistics",
    "intensity_histogram",
    "ivh",
    "glcm",
    "glrlm",
    "glszm",
    "gldzm",
    "ngtdm",
    "ngldm",
]
Aggregation = Literal["2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb"]

FAMILIES: tuple[Family, ...] = get_args(Family)
VOLUMETRIC: tuple[Family, ...] = ("morphology", "local_intensity")  # families that a single slice does not have
"""`planar` is the part of morphology that means something within one slice; `ivh` the intensity–volume histogram."""


class Feature(NamedTuple):
    """`name` is the IBSI tag without suffix; `unit` says mm, which is pixels where the spacing is unknown."""

    name: str
    family: Family
    unit: str
    meaning: str


def column_name(feature: Feature, aggregation: Aggregation) -> str:
    """The full IBSI tag: texture names end in how matrices were aggregated."""
    if feature.family in ("glcm", "glrlm"):
        return f"{feature.name}_{aggregation}"
    if feature.family in ("glszm", "gldzm", "ngtdm", "ngldm"):
        return f"{feature.name}_{aggregation.rpartition('_')[0]}"
    return feature.name


_MORPHOLOGY = (
    ("morph_volume", "mm³", "volume enclosed by the surface mesh"),
    ("morph_vol_approx", "mm³", "number of voxels times their volume"),
    ("morph_area_mesh", "mm²", "area of the surface mesh"),
    ("morph_av", "1/mm", "surface per volume: small for compact shapes"),
    ("morph_comp_1", "1", "compactness by volume over area^1.5"),
    ("morph_comp_2", "1", "compactness by volume² over area³: 1 for a ball"),
    ("morph_sph_dispr", "1", "surface relative to that of the ball of equal volume"),
    ("morph_sphericity", "1", "surface of the ball of equal volume relative to the own: 1 for a ball"),
    ("morph_asphericity", "1", "by how much the surface exceeds that of the ball of equal volume"),
    ("morph_com", "mm", "shift between the geometric and the intensity-weighted centre"),
    ("morph_diam", "mm", "largest distance between two points of the surface"),
    ("morph_pca_maj_axis", "mm", "length of the longest principal axis"),
    ("morph_pca_min_axis", "mm", "length of the second principal axis"),
    ("morph_pca_least_axis", "mm", "length of the shortest principal axis"),
    ("morph_pca_elongation", "1", "second over longest principal axis: small for elongated shapes"),
    ("morph_pca_flatness", "1", "shortest over longest principal axis: small for flat shapes"),
    ("morph_vol_dens_aabb", "1", "share of the bounding box that is filled"),
    ("morph_area_dens_aabb", "1", "surface relative to that of the bounding box"),
    ("morph_vol_dens_aee", "1", "volume relative to that of the ellipsoid of the principal axes"),
    ("morph_area_dens_aee", "1", "surface relative to that of the ellipsoid of the principal axes"),
    ("morph_vol_dens_conv_hull", "1", "share of the convex hull that is filled"),
    ("morph_area_dens_conv_hull", "1", "surface relative to that of the convex hull"),
    ("morph_integ_int", "intensity·mm³", "mean intensity times volume"),
    ("morph_moran_i", "1", "do near voxels resemble each other? 1 fully, 0 not at all, −1 opposites"),
    ("morph_geary_c", "1", "do near voxels differ? 0 not at all, 1 like far ones"),
)

_PLANAR = (
    "morph_com",
    "morph_pca_maj_axis",
    "morph_pca_min_axis",
    "morph_pca_elongation",
    "morph_moran_i",
    "morph_geary_c",
)

_LOCAL = (
    ("loc_peak_loc", "intensity", "mean within 6.2 mm of the brightest voxel"),
    ("loc_peak_glob", "intensity", "largest mean within 6.2 mm of any voxel"),
)

_FIRST_ORDER = (
    ("mean", "intensity", "mean"),
    ("var", "intensity²", "variance"),
    ("skew", "1", "skewness: positive with a tail of high values"),
    ("kurt", "1", "excess kurtosis: 0 for a normal distribution"),
    ("median", "intensity", "median"),
    ("min", "intensity", "smallest value"),
    ("p10", "intensity", "10th percentile"),
    ("p90", "intensity", "90th percentile"),
    ("max", "intensity", "largest value"),
    ("iqr", "intensity", "distance of the quartiles"),
    ("range", "intensity", "largest minus smallest value"),
    ("mad", "intensity", "mean distance to the mean"),
    ("rmad", "intensity", "mean distance to the mean between the 10th and 90th percentile"),
    ("medad", "intensity", "mean distance to the median"),
    ("cov", "1", "standard deviation over mean"),
    ("qcod", "1", "distance over sum of the quartiles"),
)

_STATISTICS_ONLY = (
    ("energy", "intensity²", "sum of squares"),
    ("rms", "intensity", "root of the mean square"),
)

_HISTOGRAM_ONLY = (
    ("mode", "level", "most frequent grey level"),
    ("entropy", "bit", "entropy of the grey levels"),
    ("uniformity", "1", "sum of squared frequencies of the grey levels: 1 for a flat lesion"),
    ("max_grad", "1", "steepest rise of the histogram"),
    ("max_grad_g", "level", "grey level of the steepest rise"),
    ("min_grad", "1", "steepest fall of the histogram"),
    ("min_grad_g", "level", "grey level of the steepest fall"),
)

_IVH = (
    ("ivh_v10", "1", "share of the lesion above 10 % of the intensity range"),
    ("ivh_v90", "1", "share of the lesion above 90 % of the intensity range"),
    ("ivh_i10", "intensity", "intensity that at most 10 % of the lesion reaches"),
    ("ivh_i90", "intensity", "intensity that at most 90 % of the lesion reaches"),
    ("ivh_diff_v10_v90", "1", "ivh_v10 − ivh_v90"),
    ("ivh_diff_i10_i90", "intensity", "ivh_i10 − ivh_i90"),
)

_GLCM = (
    ("cm_joint_max", "1", "frequency of the most frequent pair of neighbouring grey levels"),
    ("cm_joint_avg", "level", "mean grey level over neighbouring pairs"),
    ("cm_joint_var", "level²", "variance of the grey level over neighbouring pairs"),
    ("cm_joint_entr", "bit", "entropy of the pairs"),
    ("cm_diff_avg", "level", "mean difference of neighbours"),
    ("cm_diff_var", "level²", "variance of the difference of neighbours"),
    ("cm_diff_entr", "bit", "entropy of the difference of neighbours"),
    ("cm_sum_avg", "level", "mean sum of neighbours"),
    ("cm_sum_var", "level²", "variance of the sum of neighbours"),
    ("cm_sum_entr", "bit", "entropy of the sum of neighbours"),
    ("cm_energy", "1", "sum of squared pair frequencies: 1 for a flat lesion"),
    ("cm_contrast", "level²", "mean squared difference of neighbours"),
    ("cm_dissimilarity", "level", "mean absolute difference of neighbours"),
    ("cm_inv_diff", "1", "homogeneity: mean of 1 / (1 + difference)"),
    ("cm_inv_diff_norm", "1", "homogeneity with the difference relative to the number of levels"),
    ("cm_inv_diff_mom", "1", "homogeneity: mean of 1 / (1 + difference²)"),
    ("cm_inv_diff_mom_norm", "1", "homogeneity with the squared difference relative to the number of levels"),
    ("cm_inv_var", "1", "mean of 1 / difference² over unlike neighbours"),
    ("cm_corr", "1", "correlation of neighbours"),
    ("cm_auto_corr", "level²", "mean product of neighbours"),
    ("cm_clust_tend", "level²", "spread of the pair sums about their mean"),
    ("cm_clust_shade", "level³", "skewness of the pair sums, not normalised"),
    ("cm_clust_prom", "level⁴", "tails of the pair sums, not normalised"),
    ("cm_info_corr1", "1", "information that a pixel gives about its neighbour, relative: 0 none, −1 all"),
    ("cm_info_corr2", "1", "information that a pixel gives about its neighbour: 0 none, near 1 all"),
)

_NGTDM = (
    ("ngt_coarseness", "1", "how little pixels differ from their neighbourhood; 1,000,000 where not at all"),
    ("ngt_contrast", "1", "spread of grey levels times their difference from the neighbourhood"),
    ("ngt_busyness", "1", "rapid change between neighbouring pixels"),
    ("ngt_complexity", "1", "many sharp changes between unlike grey levels"),
    ("ngt_strength", "1", "how clearly coarse patterns stand out"),
)


class _Matrix(NamedTuple):
    """A family whose matrix counts `items` by grey level and `extent`; `suffixes` follow `_MATRIX_MEANINGS`."""

    family: Family
    items: str
    extent: str
    prefix: str
    suffixes: str


_MATRICES = (
    _Matrix(
        "glrlm",
        "runs of equal pixels",
        "length",
        "rlm",
        "sre lre lgre hgre srlge srhge lrlge lrhge glnu glnu_norm rlnu rlnu_norm r_perc gl_var rl_var rl_entr",
    ),
    _Matrix(
        "glszm",
        "zones of equal pixels",
        "size",
        "szm",
        "sze lze lgze hgze szlge szhge lzlge lzhge glnu glnu_norm zsnu zsnu_norm z_perc gl_var zs_var zs_entr",
    ),
    _Matrix(
        "gldzm",
        "zones of equal pixels",
        "distance to the edge",
        "dzm",
        "sde lde lgze hgze sdlge sdhge ldlge ldhge glnu glnu_norm zdnu zdnu_norm z_perc gl_var zd_var zd_entr",
    ),
    _Matrix(
        "ngldm",
        "pixels",
        "number of equal neighbours",
        "ngl",
        "lde hde lgce hgce ldlge ldhge hdlge hdhge glnu glnu_norm dcnu dcnu_norm dc_perc gl_var dc_var dc_entr "
        "dc_energy",
    ),
)

_MATRIX_MEANINGS = (
    "weight of {items} of small {extent}",
    "weight of {items} of large {extent}",
    "weight of {items} of low grey level",
    "weight of {items} of high grey level",
    "weight of {items} of small {extent} and low grey level",
    "weight of {items} of small {extent} and high grey level",
    "weight of {items} of large {extent} and low grey level",
    "weight of {items} of large {extent} and high grey level",
    "how unevenly {items} spread over grey levels",
    "how unevenly {items} spread over grey levels, relative to their number",
    "how unevenly {items} spread over {extent}",
    "how unevenly {items} spread over {extent}, relative to their number",
    "number of {items} over the possible number",
    "variance of the grey level over {items}",
    "variance of the {extent} over {items}",
    "entropy of grey level and {extent} over {items}",
    "sum of squared frequencies of grey level and {extent}",
)

_MATRIX_UNITS = {"gl_var": "level²", "entr": "bit"}


def _matrix_features(matrix: _Matrix) -> list[Feature]:
    return [
        Feature(
            f"{matrix.prefix}_{suffix}",
            matrix.family,
            next((unit for end, unit in _MATRIX_UNITS.items() if suffix.endswith(end)), "1"),
            meaning.format(items=matrix.items, extent=matrix.extent),
        )
        for suffix, meaning in zip(matrix.suffixes.split(), _MATRIX_MEANINGS, strict=False)
    ]


def _first_order(prefix: str, family: Family, others: tuple[tuple[str, str, str], ...]) -> list[Feature]:
    levels = family == "intensity_histogram"
    return [
        Feature(
            f"{prefix}_{name}",
            family,
            unit.replace("intensity", "level") if levels else unit,
            f"{meaning} of the grey levels" if levels and (name, unit, meaning) in _FIRST_ORDER else meaning,
        )
        for name, unit, meaning in _FIRST_ORDER + others
    ]


FEATURES: tuple[Feature, ...] = (
    *(Feature(name, "morphology", unit, meaning) for name, unit, meaning in _MORPHOLOGY),
    *(Feature(name, "planar", unit, meaning) for name, unit, meaning in _MORPHOLOGY if name in _PLANAR),
    *(Feature(name, "local_intensity", unit, meaning) for name, unit, meaning in _LOCAL),
    *_first_order("stat", "intensity_statistics", _STATISTICS_ONLY),
    *_first_order("ih", "intensity_histogram", _HISTOGRAM_ONLY),
    *(Feature(name, "ivh", unit, meaning) for name, unit, meaning in _IVH),
    *(Feature(name, "glcm", unit, meaning) for name, unit, meaning in _GLCM),
    *(feature for matrix in _MATRICES[:3] for feature in _matrix_features(matrix)),
    *(Feature(name, "ngtdm", unit, meaning) for name, unit, meaning in _NGTDM),
    *_matrix_features(_MATRICES[3]),
)
"""Every feature that can be had, in the order of the columns."""
