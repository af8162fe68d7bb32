import pytest
import torch
from torch import nn

from models.losses import critic_loss, generator_loss, gradient_penalty, interpolated, wasserstein_distance

SHAPE = (3, 4, 4)


def linear_critic(norm: float) -> nn.Module:
    """D(x) = w · x + b with ‖w‖ = `norm`."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 1)).double()
    with torch.no_grad():
        critic[1].weight *= norm / critic[1].weight.norm()
    return critic


def smooth_critic() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1)).double()


def images(count: int, seed: int = 0):
    return torch.rand(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", [1.0, 0.25, 3.0])
def test_the_penalty_of_a_linear_critic_is_its_norm_s_distance_from_one_squared(norm):
    assert gradient_penalty(linear_critic(norm), images(5)).item() == pytest.approx((norm - 1) ** 2, abs=1e-12)


def test_the_penalty_of_a_constant_critic_is_one_and_its_gradient_finite():
    critic = linear_critic(1.0)
    with torch.no_grad():
        critic[1].weight.zero_()
    penalty = gradient_penalty(critic, images(3))
    penalty.backward()
    assert penalty.item() == 1
    assert torch.isfinite(critic[1].weight.grad).all()


def test_the_penalty_is_differentiated_rightly_by_the_critic_s_weights():
    critic, image = smooth_critic(), images(2)
    names, weights = zip(*critic.named_parameters(), strict=True)

    def penalty(*values):
        def of(place):
            return torch.func.functional_call(critic, dict(zip(names, values, strict=True)), (place,))

        return gradient_penalty(of, image)

    assert torch.autograd.gradcheck(penalty, weights)


def test_the_penalty_leaves_the_images_without_a_gradient():
    image = images(2).requires_grad_()
    gradient_penalty(smooth_critic(), image).backward()
    assert image.grad is None


def test_interpolated_images_lie_between_their_pair_at_one_share_each():
    real, generated = images(3, 1), images(5, 2)
    between = interpolated(real, generated)
    assert between.shape == real.shape
    share = (between - generated[:3]) / (real - generated[:3])
    assert torch.allclose(share, share.flatten(1).mean(1).reshape(3, 1, 1, 1).expand_as(share))
    assert ((share > 0) & (share < 1)).all()
    assert len(share.flatten(1).mean(1).unique()) == 3


def test_the_distance_is_the_difference_of_means():
    assert wasserstein_distance(torch.tensor([3.0, 5.0]), torch.tensor([[1.0], [2.0], [3.0]])).item() == 2


def test_the_critic_s_loss_is_the_penalty_less_the_distance():
    critic, real, generated = linear_critic(3.0), images(4, 1), images(6, 2)
    loss, distance = critic_loss(critic, real, generated, penalty=10.0)
    expected = critic(real).mean() - critic(generated).mean()
    assert distance.item() == pytest.approx(expected.item())
    assert not distance.requires_grad
    assert loss.item() == pytest.approx(10 * 4 - expected.item())


@pytest.mark.parametrize(("real", "generated"), [(0, 4), (4, 0)])
def test_with_nothing_to_tell_apart_the_critic_s_gradients_are_zero(real, generated):
    critic = smooth_critic()
    loss, distance = critic_loss(critic, images(real), images(generated), penalty=10.0)
    loss.backward()
    assert (loss.item(), distance.item()) == (0, 0)
    assert all((weight.grad == 0).all() for weight in critic.parameters())


def test_a_critic_told_to_descend_finds_the_distance_of_two_places():
    """Between a and −a with ‖a‖ = 1 it is 2; L_D is least where ‖∇D‖ = 1 + 2/20, and there W is 2.2."""
    critic, place = linear_critic(1.0), torch.full((8, *SHAPE), 48**-0.5, dtype=torch.float64)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.02)
    for _ in range(200):
        loss, distance = critic_loss(critic, place, -place, penalty=10.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert distance.item() == pytest.approx(2.2, abs=0.05)


def test_the_generator_s_loss_is_the_critic_s_answer_turned_round():
    assert generator_loss(torch.tensor([[1.0], [3.0]])).item() == -2
