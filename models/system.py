"""What every system is: a LightningModule that trains and predicts from tensors alone.

Keys of a batch       image, label, mask, points, boxes, spacing, case
Keys of a prediction  score, saliency, mask, boxes, points, image, embedding, transform
"""

from collections.abc import Mapping
from typing import ClassVar

from lightning import LightningModule
from torch import Tensor

from models.config import Config
from models.errors import ModelError
from models.saliency import Explanation, Target, regression_output
from models.saliency.gradient import gradient

Batch = dict[str, Tensor]
Prediction = dict[str, Tensor]


class System(LightningModule):
    """One published system. A subclass narrows the annotation of `config`, which is how the registry knows its type.

    The configuration travels in the checkpoint, so that `registry.restore` needs nothing else.
    """

    name: ClassVar[str] = ""  # set by the registry
    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.save_hyperparameters({"system": self.name, "config": config.model_dump(mode="json")}, logger=False)

    @property
    def target(self) -> Target:
        """Which number of the output is explained; by default the single output of a regressor."""
        return regression_output()

    def to_input(self, image: Tensor) -> Tensor:
        """(B, C, *spatial) as stored → the float tensor that `forward` takes; same shape."""
        raise NotImplementedError(f"{type(self).__name__} does not say how stored images become its input")

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → the output (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward pass")

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take weights of the public layout that the system's paper starts from; ModelError where it has none."""
        raise ModelError(f"{self.name} has no public layout of pre-trained weights; start from a model of its own")

    def explain(self, image: Tensor) -> Explanation:
        """Score and attribution of stored images (B, C, *spatial); the plain gradient unless a system overrides it."""
        return gradient(self, self.to_input(image), self.target)
