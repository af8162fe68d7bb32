"""Numbers that describe a lesion: IBSI radiomics features of one region or of every lesion of a case, columns fixed.

`data_dictionary()` says what each column means.
"""

from models.radiomics.features import FEATURES, Feature
from models.radiomics.ibsi import columns, ibsi_features
from models.radiomics.lesions import (
    LesionConfig,
    LesionRoi,
    RadiomicsConfig,
    VolumeRadiomicsConfig,
    data_dictionary,
    features_of_case,
    lesion_columns,
    lesion_rois,
    perturbed_lesions,
)
from models.radiomics.perturbation import StabilityConfig
from models.radiomics.preparation import units_of
from models.radiomics.settings import PRESETS, IbsiConfig, with_preset

__all__ = [
    "FEATURES",
    "PRESETS",
    "Feature",
    "IbsiConfig",
    "LesionConfig",
    "LesionRoi",
    "RadiomicsConfig",
    "StabilityConfig",
    "VolumeRadiomicsConfig",
    "columns",
    "data_dictionary",
    "features_of_case",
    "ibsi_features",
    "lesion_columns",
    "lesion_rois",
    "perturbed_lesions",
    "units_of",
    "with_preset",
]
