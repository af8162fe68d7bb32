import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency import (
    class_logit,
    grad_cam,
    negated,
    pathology_aware,
    pathology_maps,
    regression_output,
    saliency_method,
)
from models.saliency.means import MeanOfMembers
from models.saliency.pathology_aware import active_features, inertia_rank, moment_of_inertia, relative_inertia

ALL = {"active": 0.0, "low": 0.5, "high": 0.6}  # of two features the one with the smaller J, and the other


def points(*places, side=9, value=1.0):
    """One feature (1, 1, side, …) with `value` at each of `places`."""
    feature = torch.zeros(*[side] * len(places[0]), dtype=torch.float64)
    for place in places:
        feature[place] = value
    return feature[None, None]


class Channels(nn.Module):
    """y = Σ_k Σ_u slope_k A^k(u), whose layer `seen` puts out the image itself: A = x and ∂y/∂A^k = slope_k."""

    def __init__(self, slopes):
        super().__init__()
        self.seen = nn.Identity()
        self.register_buffer("slopes", torch.as_tensor(slopes, dtype=torch.float64))

    def forward(self, image):
        return (self.seen(image) * self.slopes).flatten(1).sum(dim=1)


class Mean(nn.Module, MeanOfMembers):
    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image):
        return torch.stack([member(image) for member in self.members]).mean(dim=0)


def seen(model, image, **settings):
    return pathology_maps(model, image, regression_output(), layers=["seen"], **{**ALL, **settings})


def channels(*slopes):
    return Channels(torch.tensor(slopes).reshape(1, -1, 1, 1))


def spot_and_ring():
    """A compact feature of two points and a spread one of four, (1, 2, 9, 9)."""
    return torch.cat([points((4, 4), (4, 5)), points((0, 0), (0, 8), (8, 0), (8, 8))], dim=1)


def test_a_single_pixel_has_no_moment_of_inertia():
    for place in ((0, 0), (3, 7), (8, 8)):
        assert moment_of_inertia(points(place, value=0.3)).item() == 0
    assert moment_of_inertia(torch.zeros(1, 1, 5, 5)).item() == 0


def test_the_moment_of_inertia_does_not_change_when_the_feature_moves():
    feature = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    feature[..., 2:7, 3:9] = torch.rand(5, 6)
    moved = feature.roll((8, 5), dims=(2, 3))
    assert torch.allclose(moment_of_inertia(feature), moment_of_inertia(moved), rtol=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "d2"), [((0, 0), (3, 4), 25), ((2, 1), (2, 8), 49), ((0, 1, 2), (1, 3, 4), 9)]
)
def test_two_unit_points_d_apart_have_d_squared_over_two(one, other, d2):
    assert moment_of_inertia(points(one, other)).item() == pytest.approx(d2 / 2)


def test_doubling_a_feature_doubles_its_moment_of_inertia():
    feature = torch.rand(3, 4, 6, 7, dtype=torch.float64)
    assert torch.allclose(moment_of_inertia(2 * feature), 2 * moment_of_inertia(feature))


def test_the_moment_of_inertia_is_the_sum_over_all_places():
    """Equation (2) as it stands, in three dimensions."""
    feature = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (4, 5, 6)], indexing="ij"))
    for case in range(2):
        for k in range(3):
            mass = feature[case, k]
            centroid = (grid * mass).sum(dim=(1, 2, 3)) / mass.sum()
            expected = ((grid - centroid[:, None, None, None]).square().sum(dim=0) * mass).sum()
            assert moment_of_inertia(feature)[case, k].item() == pytest.approx(expected.item())


def test_active_is_what_exceeds_a_share_of_the_largest_feature_of_its_own_case():
    features = torch.tensor([[0.05, -1.0, 0.1, 0.11], [5.0, 0.0, 0.0, 0.6]])[..., None, None]
    assert active_features(features, 0.1).tolist() == [[False, True, False, True], [True, False, False, True]]
    assert not active_features(torch.zeros(1, 2, 3, 3), 0.0).any()


def test_relative_is_over_the_largest_active_moment_and_rank_is_the_share_of_smaller_ones():
    inertia = torch.tensor([[4.0, 1.0, 8.0, 100.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, 1.0, 0.0]])
    active = torch.tensor([[True, True, True, False, True], [True] * 5, [True] + [False] * 4])
    relative, rank = relative_inertia(inertia, active), inertia_rank(inertia, active)
    assert relative[0, [0, 1, 2, 4]].tolist() == [0.5, 0.125, 1.0, 0.25]
    assert rank[0, [0, 1, 2, 4]].tolist() == pytest.approx([2 / 3, 0, 1, 1 / 3])
    assert relative[1].tolist() == rank[1].tolist() == [0.0] * 5
    assert (relative[2, 0], rank[2, 0]) == (1, 0)


@pytest.mark.parametrize("thresholds", ["quantile", "relative"])
@pytest.mark.parametrize("weights", ["elementwise", "pooled"])
def test_the_compact_feature_is_the_low_map_and_the_spread_one_the_high_map(thresholds, weights):
    image = spot_and_ring()
    score, low, high, low_empty, high_empty = seen(channels(3.0, 0.5), image, thresholds=thresholds, weights=weights)
    assert score.item() == 3 * 2 + 0.5 * 4
    assert torch.equal(low, 3 * image[:, :1])
    assert torch.equal(high, 0.5 * image[:, 1:])
    assert not low_empty.any()
    assert not high_empty.any()


def test_pooled_weights_are_the_mean_slope_and_elementwise_ones_the_positive_slope_of_each_place():
    image = torch.cat([torch.rand(1, 1, 6, 6), 50 * torch.rand(1, 1, 6, 6)], dim=1).double()
    slopes = torch.randn(1, 2, 6, 6, dtype=torch.float64) + 0.2
    model = Channels(slopes)
    only = {"thresholds": "relative", "active": 0.0, "low": 0.99, "high": 1.0}  # the first feature alone
    pooled, elementwise = (seen(model, image, weights=weights, **only).low for weights in ("pooled", "elementwise"))
    assert torch.allclose(pooled, torch.relu(slopes[:, :1].mean() * image[:, :1]))
    assert torch.allclose(elementwise, torch.relu(slopes[:, :1]) * image[:, :1])


def test_elementwise_features_are_judged_as_they_are_weighted():
    """The spread feature speaks for the score at one place alone, so it is the compact one."""
    image = spot_and_ring()
    slopes = torch.ones(1, 2, 9, 9, dtype=torch.float64)
    slopes[0, 1] = -1
    slopes[0, 1, 0, 0] = 2
    maps = seen(Channels(slopes), image, weights="elementwise")
    assert torch.equal(maps.low, 2 * points((0, 0)))
    assert torch.equal(maps.high, image[:, :1])
    assert seen(Channels(slopes), image, weights="pooled").high_empty.tolist() == [True]


def test_features_that_speak_against_the_score_count_in_the_sum_which_is_then_clipped():
    """Pooled weights of two compact features in one place, 3 and −1; and of two spread ones, 1 and −2."""
    spot, ring = points((4, 4), (4, 5)), points((0, 0), (0, 8), (8, 0), (8, 8))
    image = torch.cat([spot, spot, ring, ring], dim=1)
    maps = seen(channels(3.0, -1.0, 1.0, -2.0), image, weights="pooled")
    assert torch.equal(maps.low, 2 * spot)
    assert (maps.high == 0).all()
    assert (maps.low_empty.tolist(), maps.high_empty.tolist()) == ([False], [True])


@pytest.mark.parametrize("weights", ["elementwise", "pooled"])
def test_signed_maps_keep_what_speaks_against_the_score(weights):
    """The spread feature speaks for the score at one place, and against it at the three others."""
    image = spot_and_ring()
    slopes = torch.ones(1, 2, 9, 9, dtype=torch.float64)
    slopes[0, 1] = -1
    slopes[0, 1, 0, 0] = 500
    maps = seen(Channels(slopes), image, weights=weights, low=0.0, high=0.5, signed=True)
    kept = slopes[:, 1:].mean() if weights == "pooled" else slopes[:, 1:]
    spread = "high" if weights == "pooled" else "low"  # elementwise it is judged by the one place, where it is compact
    of_ring = seen(Channels(slopes), image, weights=weights, low=0.5, high=0.6, signed=True)
    assert torch.equal(getattr(of_ring, spread), kept * image[:, 1:])
    assert maps.low_empty.item()
    clipped = seen(Channels(slopes), image, weights=weights, low=0.5, high=0.6)
    assert torch.equal(getattr(clipped, spread), torch.relu(getattr(of_ring, spread)))


def test_signed_maps_of_all_features_add_up_to_a_linear_score():
    model, image = channels(3.0, -0.5, 1.0), torch.rand(2, 3, 9, 9, dtype=torch.float64)
    maps = seen(model, image, weights="pooled", signed=True, active=0.0, low=0.4, high=0.45)
    assert torch.allclose((maps.low + maps.high).flatten(1).sum(dim=1), maps.score)


def test_a_group_without_features_has_an_empty_map_case_by_case():
    """Relative to the largest: 0.5 / 128 is low, 64 / 128 in neither group."""
    far, near, middle = points((0, 0), (0, 8), (8, 0), (8, 8)), points((4, 4), (4, 5)), points((0, 0), (8, 8))
    image = torch.cat([torch.cat([far, near], dim=1), torch.cat([far, middle], dim=1)])
    maps = seen(channels(1.0, 1.0), image, thresholds="relative", low=0.1, high=0.9)
    assert maps.low_empty.tolist() == [False, True]
    assert maps.high_empty.tolist() == [False, False]
    nothing = seen(channels(1.0, 1.0), torch.zeros_like(image))
    assert nothing.low_empty.all()
    assert nothing.high_empty.all()
    against = seen(channels(-1.0, -1.0), image)
    assert against.low_empty.all()
    assert against.high_empty.all()


def test_by_rank_a_group_is_never_empty_where_features_differ():
    image = torch.rand(5, 12, 9, 9, dtype=torch.float64)
    maps = seen(channels(*torch.rand(12).tolist()), image, low=0.1, high=0.9)
    assert not maps.low_empty.any()
    assert not maps.high_empty.any()


class Pyramid(nn.Module):
    """y = Σ fine + Σ coarse, coarse the sums of 2 × 2 pixels: both layers carry half of the score."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Identity(), nn.Identity()

    def forward(self, image):
        fine = self.fine(image)
        coarse = self.coarse(4 * F.avg_pool2d(image, 2))
        return fine.flatten(1).sum(dim=1) + coarse.flatten(1).sum(dim=1)


def test_layers_are_summed_by_what_they_carry_of_the_score():
    """Away from the border, where linear interpolation keeps the sum, each of two layers adds half of it."""
    image = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    image[..., 4:12, 4:12] = torch.rand(8, 8)
    settings = {"target": regression_output(), "thresholds": "relative", "low": 0.0, "high": 0.5}
    high = [
        pathology_maps(Pyramid(), image, layers=layers, **settings).high
        for layers in (["fine"], ["coarse"], ["fine", "coarse"])
    ]
    assert torch.allclose(high[0], image)
    assert torch.allclose(high[2], high[0] + high[1] / 4)
    assert high[2].sum().item() == pytest.approx(
        pathology_maps(Pyramid(), image, **settings, layers=["fine"]).score.item()
    )


@pytest.mark.parametrize("settings", [{"weights": "pooled", "thresholds": "relative"}, {"layers": ["4", "7.0", "1"]}])
def test_a_batch_of_four_equals_four_singles(settings):
    model = classifier().double()
    image = torch.rand(4, 1, 16, 16, dtype=torch.float64)
    together = pathology_maps(model, image, class_logit(1), **settings)
    singles = [pathology_maps(model, one[None], class_logit(1), **settings) for one in image]
    for part, alone in zip(together, zip(*singles, strict=True), strict=True):
        assert torch.allclose(part.double(), torch.cat(alone).double(), atol=1e-12)


def classifier(activation=nn.ReLU):
    """Two stages, in-place ReLUs, one module that runs twice."""
    torch.manual_seed(4)
    twice = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), activation())
    first = [nn.Conv2d(1, 8, 3, padding=1), activation(), nn.BatchNorm2d(8)]
    pool = [nn.AvgPool2d(2), twice, nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1), twice]
    return nn.Sequential(*first, *pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_without_a_name_it_is_the_layer_of_grad_cam():
    """Pooled weights of all features are Grad-CAM's; here one feature is each group in turn."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model.append(nn.Linear(4, 1))
    image = torch.rand(2, 1, 12, 12)
    for target in (regression_output(), negated(regression_output())):
        low = pathology_aware(model, image, target, weights="pooled").attribution
        assert torch.allclose(low, grad_cam(model, image, target).attribution, atol=1e-7)


def test_several_layers_leave_no_trace_and_in_place_relus_do_not_change_what_was_kept():
    image = torch.rand(2, 1, 16, 16)
    results = []
    for inplace in (False, True):
        model = classifier(lambda inplace=inplace: nn.ReLU(inplace=inplace)).train()
        before = copy.deepcopy(model.state_dict())
        maps = pathology_maps(model, image, class_logit(0), layers=["0", "4.0", "7"])
        results.append(maps)
        assert not any(part.requires_grad for part in maps)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert all(module.training and not module._forward_hooks for module in model.modules())
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_volumes_have_maps_on_their_own_grid(volume_model):
    volume = torch.rand(2, 2, 8, 10, 12)
    maps = pathology_maps(volume_model, volume, class_logit(1), layers=["1", "4"])
    assert maps.low.shape == maps.high.shape == (2, 1, 8, 10, 12)
    assert (maps.low >= 0).all()


def test_a_mean_of_models_gets_the_mean_of_their_maps_and_is_empty_where_all_are():
    image = spot_and_ring()
    first, second = channels(3.0, -1.0), channels(1.0, -1.0)
    mean = seen(Mean(first, second), image, weights="pooled")
    assert torch.equal(mean.low, 2 * image[:, :1])
    assert mean.score.item() == (seen(first, image).score + seen(second, image).score).item() / 2
    assert (mean.low_empty.tolist(), mean.high_empty.tolist()) == ([False], [True])
    assert seen(Mean(first, channels(1.0, 1.0)), image).high_empty.tolist() == [False]


def test_the_method_hands_out_the_group_that_was_asked_for():
    image = spot_and_ring()
    for group in ("low", "high"):
        method = saliency_method("pathology_aware", {"group": group, "layers": ["seen"], **ALL})
        given = method(channels(3.0, 0.5), image, regression_output())
        assert torch.equal(given.attribution, getattr(seen(channels(3.0, 0.5), image), group))


class Smooth(nn.Module):
    """Infinitely often differentiable, with a score that is not linear in either layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Softplus())
        self.second = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1, stride=2), nn.Softplus())
        self.head = nn.Linear(6, 4)

    def forward(self, image):
        pooled = self.second(self.first(image)).flatten(2).square().mean(dim=2)
        return torch.tanh(self.head(pooled)).sum(dim=1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("weights", ["elementwise", "pooled"])
@pytest.mark.parametrize("layers", [(), ("second",), ("first", "second")])
def test_the_maps_are_differentiable_by_the_image_through_the_derivative(weights, layers, signed):
    model = Smooth().double()
    image = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    settings = {"weights": weights, "layers": layers, "low": 0.3, "high": 0.7, "signed": signed, "differentiable": True}

    def maps(pixels):
        score, low, high, _, _ = pathology_maps(model, pixels, regression_output(), **settings)
        return score, low, high

    assert any((one != 0).any() for one in maps(image)[1:])
    assert torch.autograd.gradcheck(maps, (image,), eps=1e-6, atol=1e-7)


def test_differentiable_maps_are_those_without_a_graph_and_leave_no_gradient_on_the_model():
    model = classifier(lambda: nn.ReLU(inplace=True)).train()
    image = torch.rand(2, 1, 16, 16, requires_grad=True)
    settings = {"layers": ["1", "4"], "low": 0.3, "high": 0.7}
    maps = pathology_maps(model, image, class_logit(0), **settings, differentiable=True)
    plain = pathology_maps(model, image, class_logit(0), **settings)
    assert all(torch.equal(one, other) for one, other in zip(maps, plain, strict=True))
    (maps.low.sum() + maps.high.sum()).backward()
    assert (image.grad != 0).any()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_through_relus_the_gradient_is_the_slope_of_the_maps_away_from_kinks():
    model = classifier(lambda: nn.ReLU(inplace=True)).double()
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    settings = {"layers": ["1", "4"], "low": 0.3, "high": 0.7, "differentiable": True}

    def loss(pixels):
        maps = pathology_maps(model, pixels, class_logit(0), **settings)
        return maps.low.square().sum() + maps.high.square().sum()

    step = 1e-7
    (slope,) = torch.autograd.grad(loss(image), image)
    with torch.no_grad():
        difference = (loss(image + step * direction) - loss(image - step * direction)) / (2 * step)
    assert (slope * direction).sum().item() == pytest.approx(difference.item(), rel=1e-5)


MISTAKES = {
    (("low", 0.9),): "pathology_aware needs low below high, not low=0.9 and high=0.9",
    (("layers", ("19",)),): "Sequential has no layer '19'; it has, among others: ",
    (("layers", ("0", "19")),): "Sequential has no layer '19'",
    (("layers", ("0", "8")),): "Sequential ran none as 8",
    (("layers", ("10",)),): "Sequential ran none as 10",
}


@pytest.mark.parametrize(("settings", "line"), MISTAKES.items())
def test_a_mistake_is_one_line(settings, line):
    with pytest.raises(ModelError, match=line) as raised:
        pathology_maps(classifier(), torch.rand(1, 1, 16, 16), class_logit(0), **dict(settings))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "line"),
    [({"group": "middle"}, "group: .*'low' or 'high', not 'middle'"), ({"active": 1.0}, "active: .*less than 1")],
)
def test_a_setting_that_is_not_there_is_refused_by_name(setting, line):
    with pytest.raises(ModelError, match=line):
        saliency_method("pathology_aware", setting)


def test_without_a_convolution_it_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ModelError, match="needs a convolution"):
        pathology_aware(model, torch.randn(1, 1, 4, 4), regression_output())
