from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAffined, RandCropByPosNegLabeld, RandFlipd, RandScaleIntensityd
from torch.utils.data import DataLoader

from storage import Cohort, CohortError
from storage.geometry import plain
from storage.layout import Corrections
from storage.loading import CohortImages, LoadingError, explained, padded_batch


@pytest.fixture
def volumes(tmp_path, make_case) -> Callable[..., Cohort]:
    """Makes a cohort of volumes of the given shapes, ragged where they differ, with a lesion voxel each."""

    def make(*shapes: tuple[int, ...]) -> Cohort:
        cohort = Cohort.create(
            tmp_path / "volumes",
            grid=shapes[0] if len(set(shapes)) == 1 else None,
            dims=("z", "y", "x"),
            channels=("CT", "PET"),
            dtype="int16",
            lesions=("tumour",),
            labels=("grade",),
        )
        cohort.append([make_case(number, **_volume(number, shape)) for number, shape in enumerate(shapes)])
        return cohort

    return make


def _volume(number: int, shape: tuple[int, ...]) -> dict[str, object]:
    image = np.random.default_rng(number).integers(-1000, 1000, (2, *shape), dtype=np.int16)
    tumour = np.zeros(shape, bool)
    tumour[tuple(length // 2 for length in shape)] = True
    return {"image": image, "masks": {"tumour": tumour}, "geometry": plain(shape, (3.0, 0.5, 0.5))}


def images(cohort: Cohort, indices: object = None, **options: object) -> CohortImages:
    wanted = range(len(cohort)) if indices is None else indices
    return CohortImages(cohort.path, cohort.snapshot, wanted, "grade", **options)


def test_an_item_is_the_image_its_label_and_its_case(cohort):
    item = images(cohort, [6, 2])[1]
    assert item["image"].dtype == torch.uint8
    assert np.array_equal(item["image"].numpy(), cohort.image(2))
    assert (item["label"].dtype, float(item["label"]), item["case"]) == (torch.float32, 2.0, 2)


def test_a_cohort_may_be_loaded_without_a_label(cohort):
    assert set(CohortImages(cohort.path, cohort.snapshot, [0], None)[0]) == {"image", "spacing", "case"}


def test_the_spacing_of_each_axis_comes_along_in_mm(cohort, make_case):
    cohort.append([make_case(8, geometry=plain((32, 32), (0.25, 0.5)))])
    batch = next(iter(DataLoader(images(cohort, [8, 8]), batch_size=2)))
    assert batch["spacing"].tolist() == [[0.25, 0.5], [0.25, 0.5]]


def test_the_mask_of_the_named_lesions_comes_along_with_an_axis_for_channels(cohort):
    item = images(cohort, [6], lesions=["MA"])[0]
    assert np.array_equal(item["mask"].numpy(), cohort.mask(6, ["MA"])[None])


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_the_same_from_memory_and_from_the_store(cohort, in_memory):
    batches = list(DataLoader(images(cohort, in_memory=in_memory), batch_size=3))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.from_numpy(cohort.images(range(8))))


@pytest.mark.parametrize("in_memory", [True, False])
def test_volumes_of_one_grid_make_batches(volumes, in_memory):
    cohort = volumes((6, 5, 4), (6, 5, 4))
    batch = next(iter(DataLoader(images(cohort, lesions=["tumour"], in_memory=in_memory), batch_size=2)))
    assert torch.equal(batch["image"], torch.from_numpy(cohort.images([0, 1])))
    assert batch["mask"].shape == (2, 1, 6, 5, 4)
    assert batch["spacing"].tolist() == [[3.0, 0.5, 0.5]] * 2


@pytest.mark.parametrize("in_memory", [True, False])
def test_ragged_volumes_keep_their_own_shapes(volumes, in_memory):
    cohort = volumes((6, 5, 4), (3, 7, 4))
    shapes = [tuple(batch["image"].shape) for batch in DataLoader(images(cohort, in_memory=in_memory))]
    assert shapes == [(1, 2, 6, 5, 4), (1, 2, 3, 7, 4)]


def test_a_padded_batch_ends_in_zeros_where_a_case_is_smaller(volumes):
    cohort = volumes((6, 5, 4), (3, 7, 4))
    batch = next(iter(DataLoader(images(cohort, lesions=["tumour"]), batch_size=2, collate_fn=padded_batch)))
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 2, 6, 7, 4), torch.int16)
    assert np.array_equal(batch["image"][1, :, :3], cohort.image(1))
    assert not batch["image"][1, :, 3:].any()
    assert not batch["image"][0, :, :, 5:].any()
    assert batch["mask"].flatten(1).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["uint16", "float16", "complex64"])
def test_padding_keeps_any_dtype(dtype):
    batch = padded_batch([{"image": torch.from_numpy(np.ones((1, n, 2), dtype))} for n in (2, 3)])
    assert batch["image"].numpy().dtype == dtype
    assert batch["image"].shape == (2, 1, 3, 2)


def test_ragged_cases_in_a_plain_batch_are_told_of_the_padded_one(volumes):
    loader = DataLoader(images(volumes((6, 5, 4), (3, 7, 4))), batch_size=2)
    with pytest.raises(LoadingError, match="differ in shape: pass collate_fn=padded_batch"):
        list(explained(loader))


def test_writing_into_an_item_does_not_change_the_cohort_in_memory(cohort):
    data = images(cohort, [0])
    data[0]["image"].zero_()
    assert np.array_equal(data[0]["image"].numpy(), cohort.image(0))


def test_iterating_ends_after_the_last_case(cohort):
    assert [item["case"] for item in images(cohort, [3, 1])] == [3, 1]


def test_a_snapshot_is_read_although_the_cohort_went_on(cohort, make_case):
    data = images(cohort, range(8), in_memory=False)
    cohort.record([make_case(8)], corrections=Corrections(labels={0: {"grade": 4.0}}))
    assert float(data[0]["label"]) == 0.0


def test_an_unknown_label_is_named_with_those_that_are_there(cohort):
    with pytest.raises(CohortError, match="no label 'stage'; it has: grade"):
        CohortImages(cohort.path, cohort.snapshot, [0], "stage")


def test_an_unknown_lesion_class_is_named_with_those_that_are_there(cohort):
    with pytest.raises(CohortError, match="no lesion class 'EX'; it has: HE, MA"):
        images(cohort, lesions=["EX"])


def test_a_monai_flip_takes_image_and_mask_along(cohort):
    flip = RandFlipd(keys=["image", "mask"], prob=1.0, spatial_axis=0)
    item = images(cohort, [3], lesions=["MA"], transform=flip)[0]
    assert np.array_equal(item["image"], cohort.image(3)[:, ::-1])
    assert np.array_equal(item["mask"], cohort.mask(3, ["MA"])[None, ::-1])


def test_composed_monai_transforms_work_on_volumes_in_batches(volumes):
    affine = RandAffined(keys=["image", "mask"], prob=1.0, rotate_range=0.2, mode=("bilinear", "nearest"))
    turned = Compose([RandFlipd(keys=["image", "mask"], prob=0.5, spatial_axis=2), affine])
    turned.set_random_state(seed=1)
    data = images(volumes((6, 5, 4), (6, 5, 4)), lesions=["tumour"], transform=turned)
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["image"].shape == (2, 2, 6, 5, 4)
    assert batch["image"].isfinite().all()


def test_monai_crops_by_label_become_one_batch(volumes):
    crops = RandCropByPosNegLabeld(
        keys=["image", "mask"], label_key="mask", spatial_size=(3, 3, 3), pos=1, neg=0, num_samples=2
    )
    data = images(volumes((6, 5, 4), (5, 7, 4)), lesions=["tumour"], transform=crops)
    batch = next(iter(DataLoader(data, batch_size=2, collate_fn=padded_batch)))
    assert batch["image"].shape == (4, 2, 3, 3, 3)
    assert batch["mask"].flatten(1).any(1).all()
    assert batch["case"].tolist() == [0, 0, 1, 1]


def test_a_failing_transform_names_the_case_and_its_own_error(cohort):
    with pytest.raises(LoadingError, match=r"^the transform failed on case 'c2' of .*: KeyError: .*absent.*"):
        images(cohort, [2], transform=RandFlipd(keys="absent", prob=1.0))[0]


def test_two_workers_do_not_draw_the_same_numbers(make_case, empty_cohort):
    empty_cohort.append([make_case(number, image=np.full((3, 32, 32), 100, np.uint8)) for number in range(4)])
    scaled = RandScaleIntensityd(keys="image", factors=0.9, prob=1.0)
    scaled.set_random_state(seed=0)
    data = images(empty_cohort, transform=scaled)
    loader = DataLoader(data, num_workers=2, multiprocessing_context="fork", timeout=60)
    torch.manual_seed(0)
    drawn = [float(batch["image"].mean()) for batch in loader]
    assert len(set(drawn)) == 4


def test_a_transform_may_be_any_function_of_the_item(cohort):
    assert images(cohort, [1], transform=partial(dict, seen=True))[0]["seen"]
