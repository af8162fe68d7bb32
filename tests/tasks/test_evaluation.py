import numpy as np

from models.metrics import case_evidence
from tasks.evaluation import empty_maps, said_of_empty_maps


def test_empty_maps_are_counted_over_the_cases_with_lesions_and_said_where_there_are_any():
    lesion, healthy = np.eye(8, dtype=bool), np.zeros((8, 8), dtype=bool)
    nothing, something = np.zeros((8, 8)), np.ones((8, 8))
    evidence = {
        "low": [case_evidence(*one) for one in ((nothing, lesion), (something, lesion), (nothing, healthy))],
        "high": [case_evidence(*one) for one in ((something, lesion), (something, lesion), (nothing, healthy))],
    }
    counted = empty_maps(evidence)
    assert counted == {"low": {"empty": 1, "of": 2}, "high": {"empty": 0, "of": 2}}
    assert said_of_empty_maps({"empty_maps": counted}) == "Empty maps, counted as energy 0: low 1 of 2."
    assert said_of_empty_maps({"empty_maps": {"high": counted["high"]}}) == ""
