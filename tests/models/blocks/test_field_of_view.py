import pytest
import torch

from models.blocks.field_of_view import in_view


def disc(side: int = 40, level: int = 120) -> torch.Tensor:
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    lit = (row - side // 2) ** 2 + (column - side // 2) ** 2 <= (side // 3) ** 2
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[:, 0] = lit * level
    return image


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_the_lit_disc_is_in_view_whatever_its_type(dtype):
    image = disc()
    stored = image.to(dtype) * (257 if dtype == torch.uint16 else 1)
    assert torch.equal(in_view(stored)[0, 0], image[0, 0] > 0)


def test_a_dark_speck_inside_is_in_view_and_a_dark_corner_is_not():
    image = disc()
    image[..., 20:22, 18:21] = 0
    view = in_view(image)
    assert view[..., 18:24, 16:23].all()
    assert not view[..., :3, :3].any()


def test_what_fills_its_frame_is_in_view_to_the_edge():
    assert in_view(torch.full((2, 3, 9, 12), 200, dtype=torch.uint8)).all()


def test_a_noisy_surround_is_out_of_view():
    image = torch.maximum(disc(), torch.randint(0, 18, (1, 3, 40, 40), dtype=torch.uint8))
    assert torch.equal(in_view(image), in_view(disc()))
