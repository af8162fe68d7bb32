import torch

from models.projection import Views, back_projected, mirrored, moved, projections, stacked, unstacked

GRID = (7, 4, 5)


def box() -> torch.Tensor:
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[1:4, 2:4, 0:3] = True
    return mask


def test_back_projecting_the_projections_of_a_box_gives_the_box():
    assert torch.equal(back_projected(projections(box())), box())


def test_the_coronal_view_is_z_by_x_and_the_sagittal_one_z_by_y():
    coronal, sagittal = projections(torch.rand(2, *GRID))
    assert coronal.shape == (2, 7, 5)
    assert sagittal.shape == (2, 7, 4)


def test_a_hull_contains_what_was_projected():
    mask = torch.rand(GRID, generator=torch.Generator().manual_seed(0)) > 0.95
    hull = back_projected(projections(mask))
    assert hull[mask].all()
    assert hull.sum() > mask.sum()


def test_a_back_projected_value_is_the_smaller_of_both_views():
    volume = torch.rand(GRID, generator=torch.Generator().manual_seed(0))
    views = projections(volume)
    whole = back_projected(views)
    assert whole[3, 1, 2] == min(views.coronal[3, 2], views.sagittal[3, 1])


def test_views_are_stacked_to_one_size_and_back_with_every_place_where_it_was():
    views = projections(torch.rand(2, *GRID))
    both = stacked(views, (8, 2))
    assert both.shape == (4, 1, 8, 6)
    again = unstacked(both[:, 0], GRID)
    assert all(torch.equal(before, after) for before, after in zip(views, again, strict=True))


def test_moved_views_are_those_of_the_moved_volume():
    volume = torch.zeros(1, *GRID)
    volume[0, 2:5, 1:3, 1:3] = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = moved(projections(volume), torch.tensor([[2, -1, 2]]))
    expected = projections(volume.roll((2, -1, 2), (1, 2, 3)))
    assert all(torch.equal(before, after) for before, after in zip(found, expected, strict=True))


def test_what_is_moved_out_does_not_come_in_on_the_other_side():
    found = moved(projections(torch.ones(1, *GRID)), torch.tensor([[3, 0, -2]]))
    assert found.coronal.sum() == (7 - 3) * (5 - 2)
    assert not found.coronal[0, :3].any()


def test_mirrored_views_are_those_of_the_mirrored_volume():
    volume = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(0))
    found = mirrored(projections(volume), torch.tensor([True, False]))
    expected = projections(torch.stack([volume[0].flip(-1), volume[1]]))
    assert all(torch.equal(before, after) for before, after in zip(found, expected, strict=True))


def test_what_is_stacked_beside_a_view_is_zero():
    both = stacked(Views(torch.ones(1, 3, 5), torch.ones(1, 3, 4)), (4, 4))
    assert both.sum() == 3 * 5 + 3 * 4
