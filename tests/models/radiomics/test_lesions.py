import numpy as np
import pytest

from models.errors import ModelError
from models.radiomics import (
    RadiomicsConfig,
    data_dictionary,
    features_of_case,
    ibsi_features,
    lesion_columns,
    lesion_rois,
)


def photograph(seed=0, side=40):
    return np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)


def two_classes(side=40):
    exudates, haemorrhages = np.zeros((2, side, side), dtype=bool)
    exudates[5:9, 5:11] = exudates[9, 11] = True  # the pixel at the corner belongs to it
    exudates[20:23, 30:33] = True
    haemorrhages[8:12, 8:12] = True  # touches an exudate of the other class
    haemorrhages[0, 0] = True
    return {"EX": exudates, "HE": haemorrhages}


def test_lesions_are_components_of_their_class_after_the_whole():
    masks = two_classes()
    found = list(lesion_rois(masks))
    assert [(one.lesion, one.lesion_class, int(one.roi.sum())) for one in found] == [
        (0, "all", int((masks["EX"] | masks["HE"]).sum())),
        (1, "EX", 25),
        (2, "EX", 9),
        (3, "HE", 1),
        (4, "HE", 16),
    ]
    for one in found[1:]:
        assert masks[one.lesion_class][one.box][one.roi].all()


def test_small_lesions_get_no_row_but_belong_to_the_whole():
    masks = two_classes()
    found = list(lesion_rois(masks, min_pixels=10))
    assert [one.roi.sum() for one in found] == [(masks["EX"] | masks["HE"]).sum(), 25, 16]
    assert [one.lesion for one in found] == [0, 1, 2]


def test_an_array_of_masks_is_named_by_index():
    masks = np.stack(list(two_classes().values()))
    assert [one.lesion_class for one in lesion_rois(masks)] == ["all", "0", "0", "1", "1"]


def test_a_row_says_where_and_how_large_the_lesion_is():
    rows = features_of_case(photograph(), two_classes(), (0.02, 0.01))
    row = rows[2]
    assert (row["lesion"], row["lesion_class"], row["n_pixels"], row["units"]) == (2, "EX", 9, "mm")
    assert row["area"] == pytest.approx(9 * 0.02 * 0.01)
    assert (row["centroid_y"], row["centroid_x"]) == (21, 31)
    assert row["stat_mean"] == photograph()[1, 20:23, 30:33].mean()


def test_unknown_spacing_gives_pixels_and_says_so():
    row = features_of_case(photograph(), two_classes(), (np.nan, np.nan))[2]
    assert (row["units"], row["area"]) == ("pixel", 9)


def test_the_crop_changes_no_value():
    image, masks = photograph(), two_classes()
    for row, one in zip(features_of_case(image, masks, (0.02, 0.02)), lesion_rois(masks), strict=True):
        roi = np.zeros((1, 40, 40), dtype=bool)
        roi[0][one.box] = one.roi
        whole, reason = ibsi_features(image[1][None], roi, (1.0, 0.02, 0.02), RadiomicsConfig())
        assert reason == row["reason"]
        assert {name: row[name] for name in whole} == pytest.approx(whole, nan_ok=True, abs=1e-12)


def test_a_lesion_is_the_same_wherever_it_lies_and_whatever_is_around_it():
    lesion = photograph(1, 6)
    rows = []
    for seed, (y, x) in ((2, (0, 0)), (3, (34, 34)), (4, (11, 20))):
        image, mask = photograph(seed), np.zeros((40, 40), dtype=bool)
        image[:, y : y + 6, x : x + 6], mask[y : y + 6, x : x + 6] = lesion, True
        row = features_of_case(image, {"EX": mask}, (0.02, 0.02))[1]
        rows.append({name: value for name, value in row.items() if not name.startswith("centroid")})
    assert rows[0] == rows[1] == rows[2]


def test_every_case_has_the_same_columns_even_one_without_lesions():
    empty = {"EX": np.zeros((40, 40), dtype=bool), "HE": np.zeros((40, 40), dtype=bool)}
    rows = features_of_case(photograph(), empty, (np.nan, np.nan))
    assert len(rows) == 1
    assert (rows[0]["lesion"], rows[0]["n_pixels"], rows[0]["area"]) == (0, 0, 0)
    assert rows[0]["reason"] == "the region is empty"
    for row in rows + features_of_case(photograph(), two_classes(), (0.02, 0.02)):
        assert tuple(row) == lesion_columns()


@pytest.mark.parametrize(
    ("channel", "weights"), [("green", (0, 1, 0)), ("grey", (0.299, 0.587, 0.114)), (2, (0, 0, 1))]
)
def test_the_channel_is_chosen_by_the_configuration(channel, weights):
    row = features_of_case(photograph(), two_classes(), (1, 1), RadiomicsConfig(channel=channel))[2]
    expected = np.tensordot(weights, photograph()[:, 20:23, 30:33].astype(float), axes=1).mean()
    assert row["stat_mean"] == pytest.approx(expected)


def test_one_channel_is_its_own_intensity():
    image = photograph()[:1]
    assert features_of_case(image, two_classes(), (1, 1))[2]["stat_mean"] == image[0, 20:23, 30:33].mean()


def test_wrong_channels_and_grids_are_one_clear_line():
    with pytest.raises(ModelError, match="the image has 2 channels"):
        features_of_case(photograph()[:2], two_classes(), (1, 1))
    with pytest.raises(ModelError, match="channel 5 does not exist"):
        features_of_case(photograph(), two_classes(), (1, 1), RadiomicsConfig(channel=5))
    with pytest.raises(ModelError, match="the mask of 'EX' has shape"):
        features_of_case(photograph(), two_classes(side=41), (1, 1))


def test_the_dictionary_explains_every_column_once():
    table = data_dictionary()
    assert tuple(table["name"]) == lesion_columns()
    assert table["name"].is_unique
    assert (table["meaning"].str.len() > 0).all()
    tagged = table[table["ibsi_tag"] != ""]
    assert set(tagged["unit"]) <= {"1", "mm", "intensity", "intensity²", "level", "level²", "level³", "level⁴", "bit"}
    assert tagged.set_index("name").loc["cm_contrast_2D_comb", "ibsi_tag"] == "cm_contrast_2D_comb"
