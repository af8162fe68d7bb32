from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from storage import CohortError
from storage.layout import Corrections
from storage.loading import CohortImages, memory_needed


def test_an_item_is_the_image_its_label_and_its_case(cohort):
    item = CohortImages(cohort.path, cohort.snapshot, [6, 2], "grade")[1]
    assert item["image"].dtype == torch.uint8
    assert np.array_equal(item["image"].numpy(), cohort.image(2))
    assert (item["label"].dtype, float(item["label"]), item["case"]) == (torch.float32, 2.0, 2)


def test_the_mask_of_the_named_lesions_comes_along(cohort):
    item = CohortImages(cohort.path, cohort.snapshot, [6], "grade", lesions=["MA"])[0]
    assert np.array_equal(item["mask"].numpy(), cohort.mask(6, ["MA"]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_the_same_from_memory_and_from_the_store(cohort, in_memory):
    data = CohortImages(cohort.path, cohort.snapshot, range(8), "grade", in_memory=in_memory)
    batches = list(DataLoader(data, batch_size=3))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.from_numpy(cohort.images(range(8))))


def test_writing_into_an_item_does_not_change_the_cohort_in_memory(cohort):
    data = CohortImages(cohort.path, cohort.snapshot, [0], "grade")
    data[0]["image"].zero_()
    assert np.array_equal(data[0]["image"].numpy(), cohort.image(0))


def test_spawned_workers_read_every_case_and_transform_it(cohort):
    data = CohortImages(cohort.path, cohort.snapshot, range(8), "grade", transform=partial(dict, seen=True))
    assert len(data[0]["image"]) == 3  # read into memory here, which must not travel to the workers
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    batches = list(loader)
    assert torch.cat([batch["case"] for batch in batches]).tolist() == list(range(8))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.from_numpy(cohort.images(range(8))))
    assert all(batch["seen"].all() for batch in batches)


def test_a_snapshot_is_read_although_the_cohort_went_on(cohort, make_case):
    data = CohortImages(cohort.path, cohort.snapshot, range(8), "grade", in_memory=False)
    cohort.record([make_case(8)], corrections=Corrections(labels={0: {"grade": 4.0}}))
    assert float(data[0]["label"]) == 0.0


def test_an_unknown_label_is_named_with_those_that_are_there(cohort):
    with pytest.raises(CohortError, match="no label 'stage'; it has: grade"):
        CohortImages(cohort.path, cohort.snapshot, [0], "stage")


def test_the_memory_estimate_is_what_the_arrays_take(cohort):
    masks = np.stack([cohort.mask(case) for case in range(8)])
    assert memory_needed(cohort, 8) == cohort.images(range(8)).nbytes
    assert memory_needed(cohort, 8, lesions=True) == cohort.images(range(8)).nbytes + masks.nbytes
