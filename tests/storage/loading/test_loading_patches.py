from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.transforms import RandGaussianNoised
from torch.utils.data import DataLoader

from storage import Cohort, CohortError
from storage.geometry import plain
from storage.loading import CohortPatches, patches
from storage.loading.patches import drawn_voxels

SHAPES = [(12, 10, 8), (5, 16, 9), (20, 6, 7)]


@pytest.fixture
def volumes(tmp_path, make_case) -> Callable[..., Cohort]:
    """Makes a ragged cohort of volumes with the given masks, {class: (z, y, x)} or None, a volume each."""

    def make(*masks: dict[str, np.ndarray] | None) -> Cohort:
        cohort = Cohort.create(
            tmp_path / "volumes",
            grid=None,
            dims=("z", "y", "x"),
            channels=("PET",),
            dtype="float32",
            lesions=("node", "tumour"),
            labels=("grade",),
        )
        cohort.append([_case(make_case, number, given) for number, given in enumerate(masks)])
        return cohort

    return make


def _case(make_case, number: int, masks: dict[str, np.ndarray] | None):
    shape = SHAPES[number] if masks is None else next(iter(masks.values())).shape
    image = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(1, *shape)
    return make_case(number, image=image, masks=masks, geometry=plain(shape, (3.0, 1.0, 1.0)))


def _voxel(shape: tuple[int, ...], *at: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


def drawn(cohort: Cohort, patch: tuple[int, ...], **options: object) -> CohortPatches:
    return CohortPatches(cohort.path, cohort.snapshot, range(len(cohort)), "grade", patch, **options)


def test_a_patch_is_the_part_of_the_volume_that_begins_at_start(volumes):
    cohort = volumes(*[{"tumour": np.random.default_rng(0).random(shape) < 0.1} for shape in SHAPES])
    for item in drawn(cohort, (4, 5, 6), patches_per_case=4, lesions=["tumour"]):
        z, y, x = item["start"].tolist()
        box = (slice(z, z + 4), slice(y, y + 5), slice(x, x + 6))
        assert np.array_equal(item["image"][0], cohort.image(item["case"])[0][box])
        assert np.array_equal(item["mask"][0], cohort.mask(item["case"], ["tumour"])[box])
        assert item["spacing"].tolist() == [3.0, 1.0, 1.0]


def test_patches_of_pictures_have_two_axes(cohort):
    item = drawn(cohort, (7, 9), patches_per_case=2, lesions=["MA"])[5]
    y, x = item["start"].tolist()
    assert item["case"] == 2
    assert np.array_equal(item["image"], cohort.image(2)[:, y : y + 7, x : x + 9])


def test_a_patch_larger_than_the_case_begins_at_zero_and_ends_in_zeros(volumes):
    cohort = volumes({"tumour": _voxel((5, 16, 9), 4, 15, 8)})
    item = drawn(cohort, (8, 4, 12), lesions=["tumour"], lesion_share=1.0)[0]
    y = item["start"][1]
    assert item["start"].tolist() == [0, y, 0]
    assert np.array_equal(item["image"][0, :5, :, :9], cohort.image(0)[0, :, y : y + 4])
    assert float(item["image"].sum()) == cohort.image(0)[0, :, y : y + 4].sum()
    assert item["mask"].sum() == 1


def test_a_lesion_voxel_is_in_the_middle_unless_the_border_is_near(volumes):
    cohort = volumes({"tumour": _voxel(SHAPES[0], 6, 5, 4)}, {"tumour": _voxel(SHAPES[1], 0, 15, 4)})
    data = drawn(cohort, (3, 3, 3), lesions=["tumour"], lesion_share=1.0)
    assert data[0]["start"].tolist() == [5, 4, 3]
    assert data[1]["start"].tolist() == [0, 13, 3]


def test_the_share_of_patches_on_lesions_is_the_one_asked_for(volumes):
    cohort = volumes({"tumour": _voxel((40, 40, 40), 20, 20, 20)})
    data = drawn(cohort, (2, 2, 2), patches_per_case=400, lesions=["tumour"], lesion_share=0.3)
    share = np.mean([bool(item["mask"].any()) for item in data])
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)  # by chance a patch in 8,000 meets the voxel


def test_a_small_class_is_shown_as_often_as_a_large_one(volumes):
    large = np.zeros((30, 30, 30), bool)
    large[:10] = True
    cohort = volumes({"tumour": large, "node": _voxel(large.shape, 25, 15, 15)})
    data = drawn(cohort, (2, 2, 2), patches_per_case=400, lesions=["node", "tumour"], lesion_share=1.0)
    nodes = np.mean([data[index]["start"][0] == 24 for index in range(400)])
    assert abs(nodes - 0.5) < 4 * np.sqrt(0.25 / 400)


def test_cases_that_nobody_annotated_or_without_the_lesion_are_drawn_from_anywhere(volumes):
    cohort = volumes(None, {"tumour": np.zeros(SHAPES[1], bool)})
    data = drawn(cohort, (2, 2, 2), patches_per_case=50, lesions=["tumour"], lesion_share=1.0)
    assert len({tuple(item["start"].tolist()) for item in data}) > 60


def test_a_patch_may_begin_anywhere_it_fits(volumes):
    cohort = volumes({"tumour": np.zeros((3, 2, 2), bool)})
    data = drawn(cohort, (2, 2, 1), patches_per_case=100)
    assert {tuple(item["start"].tolist()) for item in data} == {(z, 0, x) for z in (0, 1) for x in (0, 1)}


def test_the_same_epoch_draws_the_same_patches_and_another_one_others(volumes):
    cohort = volumes(*[{"tumour": np.random.default_rng(0).random(shape) < 0.1} for shape in SHAPES])
    data = drawn(cohort, (3, 3, 3), patches_per_case=5, lesions=["tumour"], seed=7)
    first = [data[index]["start"].tolist() for index in range(15)]
    again = drawn(cohort, (3, 3, 3), patches_per_case=5, lesions=["tumour"], seed=7)
    assert [again[index]["start"].tolist() for index in reversed(range(15))] == first[::-1]
    data.set_epoch(1)
    assert [data[index]["start"].tolist() for index in range(15)] != first
    data.set_epoch(0)
    assert [data[index]["start"].tolist() for index in range(15)] == first


@pytest.mark.slow
def test_patches_and_noise_are_the_same_however_many_workers_draw_them(volumes):
    cohort = volumes(*[{"tumour": np.random.default_rng(0).random(shape) < 0.1} for shape in SHAPES])
    noise = RandGaussianNoised(keys="image", prob=1.0)
    data = drawn(cohort, (3, 3, 3), patches_per_case=4, lesions=["tumour"], transform=noise)
    options = {"multiprocessing_context": "spawn", "persistent_workers": True, "timeout": 60}
    loader = DataLoader(data, batch_size=2, num_workers=2, **options)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        worked = list(loader)
        for key in ("image", "start", "case"):
            alone = [batch[key] for batch in DataLoader(data, batch_size=2)]
            assert torch.equal(torch.cat([batch[key] for batch in worked]), torch.cat(alone))


def test_masks_are_looked_through_once_and_images_never_read_whole(volumes, monkeypatch):
    cohort = volumes({"tumour": _voxel((40, 20, 20), 20, 5, 5)})
    looked_at = []
    patch_of = Cohort.mask_patch
    monkeypatch.setattr(Cohort, "image", None)
    monkeypatch.setattr(Cohort, "mask_patch", lambda *given: looked_at.append(np.prod(given[3])) or patch_of(*given))
    list(drawn(cohort, (2, 2, 2), patches_per_case=20, lesions=["tumour"], lesion_share=1.0))
    assert sorted(looked_at) == [8] * 20 + [40 * 20 * 20]


def test_voxels_of_long_forgotten_cases_make_room(volumes, monkeypatch):
    monkeypatch.setattr(patches, "VOXELS_REMEMBERED", 100)
    cohort = volumes(*[{"tumour": np.ones(shape, bool)} for shape in SHAPES])
    data = drawn(cohort, (2, 2, 2), lesions=["tumour"], lesion_share=1.0)
    assert len(list(data)) == 3
    assert list(data._voxels) == [2]


def test_every_lesion_voxel_is_as_likely_whatever_slab_it_is_in(monkeypatch):
    mask = np.zeros((5, 2, 2), bool)
    mask[[0, 1, 1, 1, 3, 4], [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1]] = True
    monkeypatch.setattr(patches, "SLAB_VOXELS", 8)  # two slices
    monkeypatch.setattr(patches, "VOXELS_A_CLASS", 3)
    store = SimpleNamespace(mask_patch=lambda case, start, shape, _: mask[start[0] : start[0] + shape[0]])
    generator, counts = np.random.default_rng(0), np.zeros(mask.shape)
    for _ in range(2000):
        voxels = drawn_voxels(store, 0, mask.shape, "tumour", generator)
        assert len(voxels) == 3
        counts[tuple(voxels.T)] += 1
    assert not counts[~mask].any()
    assert np.abs(counts[mask] / 2000 - 3 / 6).max() < 4 * np.sqrt(0.25 / 2000)


def test_a_patch_of_other_axes_than_the_cohort_is_refused(cohort):
    with pytest.raises(CohortError, match=r"a patch of \(4, 4, 4\) voxels: .* needs one length for each of y, x"):
        drawn(cohort, (4, 4, 4))
