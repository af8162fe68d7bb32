from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.localization.back_projection import BackProjection, strongest_piece, tumour_mask, tumour_masks

SHAPE = (24, 20, 22)
TUMOUR, ORGAN = (slice(8, 14), slice(7, 12), slice(6, 12)), (slice(18, 22), slice(4, 16), slice(4, 18))


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """A tumour of SUV 8 with a shoulder of 4 in a body of 1 beside an organ of 20, and a response about the tumour."""
    suv = np.ones(SHAPE, np.float32)
    suv[ORGAN] = 20
    suv[TUMOUR] = 8
    suv[8, TUMOUR[1], TUMOUR[2]] = 4
    place = np.indices(SHAPE).reshape(3, -1) - np.array([[11], [9], [9]])
    response = np.exp(-np.square(place).sum(axis=0) / (2 * 5**2)).reshape(SHAPE).astype(np.float32)
    return suv, response / response.max()


def truth() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[TUMOUR] = True
    return mask


def found(**settings: Any) -> np.ndarray:
    suv, response = phantom()
    return tumour_mask(suv, response, BackProjection(**settings))


def test_a_share_of_the_largest_suv_in_the_candidate_finds_the_tumour_beside_a_hotter_organ():
    assert np.array_equal(found(suv_share=0.41), truth())


def test_a_larger_share_leaves_out_the_shoulder():
    expected = truth()
    expected[8] = False
    assert np.array_equal(found(suv_share=0.6), expected)


def test_a_fixed_suv_cuts_at_that_suv():
    assert np.array_equal(found(threshold="suv", suv=3.5), truth())
    assert found(threshold="suv", suv=6).sum() == truth().sum() - 5 * 6


def test_no_threshold_gives_the_candidate():
    _, response = phantom()
    assert np.array_equal(found(threshold="none", response_share=0.7), response >= np.float32(0.7))


def test_the_gradient_finds_the_edge_of_a_blurred_ball_where_it_is_steepest():
    place = np.indices((30, 30, 30)).reshape(3, -1) - 14.5
    ball = (np.square(place).sum(axis=0) < 7**2).reshape(30, 30, 30)
    suv = (1 + 9 * ndimage.gaussian_filter(ball.astype(float), 1.2)).astype(np.float32)
    response = np.exp(-np.square(place).sum(axis=0) / (2 * 12**2)).reshape(ball.shape).astype(np.float32)
    mask = tumour_mask(suv, response, BackProjection(threshold="gradient", response_share=0.4))
    assert 2 * (mask & ball).sum() / (mask.sum() + ball.sum()) > 0.95


def test_of_the_whole_volume_the_threshold_finds_the_organ():
    everything = found(search="volume", pieces="all")
    assert everything[ORGAN].all()
    assert not everything[8, 9, 9]


def test_the_piece_with_the_strongest_response_is_kept_even_if_another_is_larger():
    pieces = np.zeros((1, 3, 9), bool)
    pieces[0, 1, 1], pieces[0, :, 4:] = True, True
    response = np.zeros(pieces.shape, np.float32)
    response[0, 1, 1], response[0, 1, 6], response[0, 0, 2] = 0.8, 0.7, 1.0
    suv = np.where(response == 0.7, 9, 1).astype(np.float32)
    assert np.argwhere(strongest_piece(pieces, response, suv)).tolist() == [[0, 1, 1]]


def test_of_equal_responses_the_piece_with_the_hottest_voxel_is_kept():
    pieces, suv = np.zeros((1, 3, 5), bool), np.ones((1, 3, 5), np.float32)
    pieces[0, 1, 1] = pieces[0, 1, 3] = True
    suv[0, 1, 3] = 2
    assert np.argwhere(strongest_piece(pieces, np.ones_like(suv), suv)).tolist() == [[0, 1, 3]]


def test_all_pieces_are_kept_where_asked():
    suv, response = phantom()
    suv[11, 9, 14] = 8
    both, one = (tumour_mask(suv, response, BackProjection(pieces=pieces)) for pieces in ("all", "strongest"))
    assert np.array_equal(one, truth())
    assert np.argwhere(both & ~one).tolist() == [[11, 9, 14]]


@pytest.mark.parametrize("threshold", ["suv_share", "suv", "gradient", "none"])
def test_where_nothing_responds_nothing_is_found(threshold: str):
    suv, response = phantom()
    assert not tumour_mask(suv, np.zeros_like(response), BackProjection(threshold=threshold)).any()


@pytest.mark.parametrize("threshold", ["suv_share", "suv", "gradient", "none"])
def test_a_tumour_lies_where_both_views_respond(threshold: str):
    _, response = phantom()
    assert (response[found(threshold=threshold)] >= 0.5).all()


def test_a_batch_is_done_volume_by_volume():
    suv, response = (torch.from_numpy(one) for one in phantom())
    both = tumour_masks(torch.stack([suv, suv]), torch.stack([response, response * 0]), BackProjection())
    assert np.array_equal(both[0].numpy(), truth())
    assert not both[1].any()
