import csv

import numpy as np
import pytest

from models.radiomics import IbsiConfig, ibsi_features
from tests.real_images import REAL_IMAGES

DATA = REAL_IMAGES / "ibsi"
IMAGE = DATA / "ibsi_1_digital_phantom" / "nifti" / "image" / "phantom.nii.gz"
MASK = DATA / "ibsi_1_digital_phantom" / "nifti" / "mask" / "mask.nii.gz"
TABLE = DATA / "ibsi_1_reference_values" / "ibsi_1_dig_phantom.csv"

NOT_OFFERED = {
    "morph_vol_dens_ombb",
    "morph_area_dens_ombb",
    "morph_vol_dens_mvee",
    "morph_area_dens_mvee",
    "ivh_auc",
}
"""Tags of the table that z-rad does not compute; the table gives no value for them either."""

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason=f"the IBSI phantom is not at {DATA} (set LESIONFLOW_DATA)")


@pytest.fixture(scope="module")
def features():
    nibabel = pytest.importorskip("nibabel")
    image, roi = (np.asarray(nibabel.load(path).dataobj).T for path in (IMAGE, MASK))
    values = {}
    for aggregation in ("2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb"):
        config = IbsiConfig(bin_width=1, intensity_range=(1, 6), aggregation=aggregation)
        computed, reason = ibsi_features(image, roi > 0, (2.0, 2.0, 2.0), config)
        assert reason == ""
        values.update(computed)
    return values


@pytest.fixture(scope="module")
def reference():
    with TABLE.open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    return {row["tag"]: (row["reference value"], row["tolerance"]) for row in rows}


def rounding(value):
    """Half a unit of the third digit: the table prints three."""
    return 0.5 * 10.0 ** (np.floor(np.log10(abs(value))) - 2) if value else 5e-4


def test_every_reference_value_of_the_phantom_comes_out(features, reference):
    compared = {
        tag: (float(value), max(float(tolerance), rounding(float(value))))
        for tag, (value, tolerance) in reference.items()
        if tag not in NOT_OFFERED
    }
    assert len(compared) == 482
    wrong = {
        tag: (features[tag], *ref) for tag, ref in compared.items() if abs(features[tag] - ref[0]) > ref[1] * 1.000001
    }
    assert wrong == {}


def test_what_the_table_has_and_we_do_not_is_known(features, reference):
    assert {tag for tag in reference if tag not in features} == NOT_OFFERED
    assert all(reference[tag] == ("", "") for tag in NOT_OFFERED)
