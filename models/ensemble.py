"""Several trained systems of one configuration as one: f(x) = 1/n Σ_i f_i(x).

Attribution by gradient, guided backpropagation and SmoothGrad is linear in the output, so that of the mean is the mean
of the members'; Grad-CAM is not, and the mean of the members' maps is what it gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.saliency import Explanation, Target
from models.saliency.means import MeanOfMembers, mean_explanation
from models.system import Batch, Prediction, System

AVERAGED = ("score", "saliency", "mask", "image")


class Ensemble(System, MeanOfMembers):
    """The mean of trained systems: it explains and predicts as one of them, and is not trained itself.

    Its `config` is theirs, its weights are `members.0.…`, `members.1.…`.
    """

    def __init__(self, members: Sequence[System]):
        first = _alike(members)
        super().__init__(first.config)
        self.members = nn.ModuleList(members)

    @property
    def systems(self) -> list[System]:
        """The members."""
        return [member for member in self.members if isinstance(member, System)]

    @property
    def target(self) -> Target:
        """The members' own."""
        return self.systems[0].target

    def to_input(self, image: Tensor) -> Tensor:
        """As any member: they share a configuration."""
        return self.systems[0].to_input(image)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → the mean of the members' outputs (B, K)."""
        outputs = [member(image.clone()) for member in self.systems]  # a first layer may work in place
        return torch.stack(outputs).mean(dim=0)

    def explain(self, image: Tensor) -> Explanation:
        """The mean of the members' scores and attributions of stored images (B, C, *spatial)."""
        return mean_explanation(member.explain(image) for member in self.systems)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The mean of the members' predictions, key by key; of masks that are bool, where half of them agree.

        Raises:
            ModelError: they predict what has no mean, such as boxes.
        """
        predictions = [member.predict_step(batch, batch_idx) for member in self.systems]
        return {key: _mean(key, [one[key] for one in predictions]) for key in predictions[0]}


def _alike(members: Sequence[System]) -> System:
    """The first of members that are of one configuration.

    Raises:
        ModelError: they are not, or there is none.
    """
    if not members:
        raise ModelError("an ensemble needs one model or more")
    first = members[0]
    for number, member in enumerate(members):
        if type(member) is not type(first):
            raise ModelError(f"an ensemble is of one system: model {number} is {member.name}, model 0 {first.name}")
        if member.config != first.config:
            raise ModelError(f"an ensemble is of one configuration: that of model {number} differs from model 0's")
    return first


def _mean(key: str, values: Sequence[Tensor]) -> Tensor:
    if key not in AVERAGED:
        raise ModelError(f"an ensemble cannot average '{key}'; it averages: {', '.join(AVERAGED)}")
    stacked = torch.stack(list(values))
    return stacked.float().mean(dim=0) >= 0.5 if stacked.dtype == torch.bool else stacked.mean(dim=0)
