"""Numbers that describe a lesion: IBSI radiomics features of one region or of every lesion of a case, columns fixed.

`data_dictionary()` says what each column means.
"""

from models.radiomics.features import FEATURES, Feature
from models.radiomics.ibsi import IbsiConfig, columns, ibsi_features, units_of
from models.radiomics.lesions import (
    LesionRoi,
    RadiomicsConfig,
    data_dictionary,
    features_of_case,
    lesion_columns,
    lesion_rois,
)

__all__ = [
    "FEATURES",
    "Feature",
    "IbsiConfig",
    "LesionRoi",
    "RadiomicsConfig",
    "columns",
    "data_dictionary",
    "features_of_case",
    "ibsi_features",
    "lesion_columns",
    "lesion_rois",
    "units_of",
]
