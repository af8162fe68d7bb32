import numpy as np
import pandas as pd
import pytest

from storage import Cohort, CohortError


def saliency(cases, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(cases), 32, 32)).astype(np.float32)


def notes(cases, score=1.5) -> pd.DataFrame:
    return pd.DataFrame({"score": [score] * len(cases), "iterations": cases, "stop_reason": ["cap"] * len(cases)})


def test_maps_are_read_back_as_they_were_written(cohort):
    cases = [1, 4, 6]
    trajectory = np.arange(12, dtype=np.float32).reshape(3, 4)
    inpainted = cohort.images(cases)
    arrays = {"trajectory": trajectory, "inpainted": inpainted}
    cohort.write_maps("refinement/v1", cases, saliency(cases), notes(cases), arrays, {"decay": 0.3})
    maps = Cohort.open(cohort.path).maps("refinement/v1")
    assert maps.indices.tolist() == cases
    assert np.array_equal(maps.saliency(4), saliency(cases)[1])
    assert np.array_equal(maps.array("trajectory", 6), trajectory[2])
    assert np.array_equal(maps.array("inpainted", 1), inpainted[0])
    assert maps.attrs == {"decay": 0.3}
    assert maps.table.loc[4].to_dict() == {"score": 1.5, "iterations": 4, "stop_reason": "cap"}
    assert maps.table.index.tolist() == cases


def test_a_rewritten_map_replaces_the_old_one_and_only_that(cohort):
    cohort.write_maps("m", [1, 2], saliency([1, 2]), notes([1, 2]))
    cohort.write_maps("m", [5, 2], saliency([5, 2], seed=9), notes([5, 2], score=7.0))
    maps = cohort.maps("m")
    assert sorted(maps.indices.tolist()) == [1, 2, 5]
    assert np.array_equal(maps.saliency(1), saliency([1, 2])[0])
    assert np.array_equal(maps.saliency(2), saliency([5, 2], seed=9)[1])
    assert maps.table["score"].to_dict() == {1: 1.5, 2: 7.0, 5: 7.0}


def test_maps_written_again_with_none_that_is_new_take_their_places(cohort):
    cohort.write_maps("m", [1, 4], saliency([1, 4]), notes([1, 4]))
    cohort.write_maps("m", [4], saliency([4], seed=1), notes([4], score=2.5))
    maps = cohort.maps("m")
    assert (maps.indices.tolist(), maps.table["score"].tolist()) == ([1, 4], [1.5, 2.5])
    assert np.array_equal(maps.saliency(4), saliency([4], seed=1)[0])


def test_maps_do_not_change_the_content_digest(cohort):
    before = cohort.content_digest()
    cohort.write_maps("m", [0], saliency([0]), notes([0]))
    assert cohort.content_digest() == before


def test_maps_can_be_written_from_a_snapshot_of_the_past(cohort, make_case):
    old = Cohort.open(cohort.path, cohort.snapshot)
    cohort.append([make_case(8)])
    old.write_maps("m", [7], saliency([7]), notes([7]))
    newest = Cohort.open(cohort.path)
    assert (len(newest), newest.maps("m").indices.tolist()) == (9, [7])


def test_the_names_of_nested_sets_are_listed(cohort):
    assert cohort.map_names() == []
    for name in ("cam", "refinement/v2", "refinement/v1"):
        cohort.write_maps(name, [0], saliency([0]), notes([0]))
    assert cohort.map_names() == ["cam", "refinement/v1", "refinement/v2"]


def test_dropped_maps_are_gone_and_can_be_written_anew(cohort):
    cohort.write_maps("m", [0], saliency([0]), notes([0]), attrs={"a": 1})
    cohort.drop_maps("m")
    assert cohort.map_names() == []
    cohort.write_maps("m", [1], saliency([1]), pd.DataFrame({"other": [1.0]}))
    assert (cohort.maps("m").indices.tolist(), cohort.maps("m").attrs) == ([1], {})


def test_unknown_maps_are_named_with_those_that_are_there(cohort):
    cohort.write_maps("m", [0], saliency([0]), notes([0]))
    with pytest.raises(CohortError, match="no maps 'n'; it has: m"):
        cohort.maps("n")


def test_a_case_without_map_is_named(cohort):
    cohort.write_maps("m", [0], saliency([0]), notes([0]))
    with pytest.raises(CohortError, match="case 3 has no map in 'm'"):
        cohort.maps("m").saliency(3)


def test_missing_text_is_kept_as_empty(cohort):
    table = pd.DataFrame({"reason": ["flat", None]})
    cohort.write_maps("m", [0, 1], saliency([0, 1]), table)
    assert cohort.maps("m").table["reason"].tolist() == ["flat", ""]


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"score": ["high"]}), pd.DataFrame({"score": [1.0], "new": [2.0]}), pd.DataFrame()]
)
def test_rows_of_another_kind_are_refused_and_nothing_written(cohort, table):
    cohort.write_maps("m", [0], saliency([0]), pd.DataFrame({"score": [1.0]}))
    with pytest.raises(CohortError, match="maps 'm'"):
        cohort.write_maps("m", [1], saliency([1]), table)
    assert Cohort.open(cohort.path).maps("m").indices.tolist() == [0]


def test_maps_of_another_size_are_refused(cohort):
    with pytest.raises(CohortError, match="a map of shape"):
        cohort.write_maps("m", [0], np.zeros((1, 8, 8), np.float32), notes([0]))


def test_a_map_for_a_case_that_is_not_there_is_refused(cohort):
    with pytest.raises(CohortError, match="maps for cases 8 to 8"):
        cohort.write_maps("m", [8], saliency([8]), notes([8]))


@pytest.mark.parametrize("name", ["", "a//b", "../m", "/m"])
def test_a_name_that_is_no_path_of_words_is_refused(cohort, name):
    with pytest.raises(CohortError, match="cannot be called"):
        cohort.write_maps(name, [0], saliency([0]), notes([0]))
