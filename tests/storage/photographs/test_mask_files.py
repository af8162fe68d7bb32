import pytest

from storage.errors import SourceError
from storage.sources.photographs.mask_files import assign_masks, check_pattern, lesion_classes

PHOTOGRAPHS = ["IDRiD_01.jpg", "IDRiD_02.jpg"]


def test_classes_are_discovered_from_the_files():
    assigned = assign_masks(["IDRiD_01_MA.png", "IDRiD_02_HE.png"], PHOTOGRAPHS, "{stem}_{lesion}.png", None)
    assert lesion_classes(assigned) == ("HE", "MA")
    assert assigned["IDRiD_01.jpg"] == {"MA": "IDRiD_01_MA.png"}


def test_a_class_whose_name_has_the_separator_is_read_whole():
    assigned = assign_masks(["IDRiD_01_hard_exudate.png"], PHOTOGRAPHS, "{stem}_{lesion}.png", None)
    assert assigned == {"IDRiD_01.jpg": {"hard_exudate": "IDRiD_01_hard_exudate.png"}}


def test_classes_that_were_not_asked_for_are_left_out():
    assigned = assign_masks(["IDRiD_01_MA.png", "IDRiD_01_OD.png"], PHOTOGRAPHS, "{stem}_{lesion}.png", ["MA"])
    assert lesion_classes(assigned) == ("MA",)


def test_a_class_may_be_a_folder():
    assigned = assign_masks(["MA/IDRiD_01.tif"], PHOTOGRAPHS, "{lesion}/{stem}.tif", None)
    assert assigned == {"IDRiD_01.jpg": {"MA": "MA/IDRiD_01.tif"}}


def test_a_pattern_without_classes_shows_one():
    assert assign_masks(["IDRiD_01_mask.png"], PHOTOGRAPHS, "{stem}_mask.png", None) == {
        "IDRiD_01.jpg": {"lesion": "IDRiD_01_mask.png"}
    }
    assert assign_masks(["IDRiD_01_mask.png"], PHOTOGRAPHS, "{stem}_mask.png", ["nevus"]) == {
        "IDRiD_01.jpg": {"nevus": "IDRiD_01_mask.png"}
    }


def test_masks_follow_their_photograph_into_sub_folders():
    photographs = ["left/a.png", "right/a.png", "right/b.png"]
    assigned = assign_masks(["left/a_MA.png", "a_HE.png", "b_HE.png"], photographs, "{stem}_{lesion}.png", None)
    assert assigned == {"left/a.png": {"MA": "left/a_MA.png"}, "right/b.png": {"HE": "b_HE.png"}}


@pytest.mark.parametrize("pattern", ["masks.png", "{lesion}.png", "{stem}{lesion}.png", "{stem}_{stem}.png"])
def test_an_unclear_pattern_is_a_mistake(pattern):
    with pytest.raises(SourceError, match="not clear"):
        check_pattern(pattern, None)
