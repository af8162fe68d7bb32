"""What every system is: a LightningModule that trains and predicts from tensors alone.

Keys of a batch       image, label, mask, points, boxes, spacing, case, and weight where the loss balances the labels
Keys of a prediction  score, saliency, mask, boxes, points, image, embedding, transform
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from lightning import LightningModule
from torch import Tensor

from models.config import Config, with_section
from models.errors import ModelError
from models.saliency import Explanation, Target, regression_output
from models.saliency.gradient import gradient

Batch = dict[str, Tensor]
Prediction = dict[str, Tensor]
Localization = Literal["iterative-refinement", "saliency", "own"]


class Stage(LightningModule):
    """One stage of a system's training: its steps and optimisers, and by what its best epoch is told.

    `monitor` names a value that it logs; None: the last epoch's weights are kept. A stage of a system with several
    holds those networks of the system that it trains.
    """

    monitor: ClassVar[str | None] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"


class System(Stage):
    """One published system. A subclass narrows the annotation of `config`, which is how the registry knows its type.

    `inputs` are the keys of a batch that it trains on: `label` (a number a case) where it has a target, `mask` where
    it learns from lesion masks. `localization` is how its maps are made unless a user says otherwise: by the refinement
    loop, by a saliency method alone, or as its own `predict_step` answers them. `starts_from` names the system whose
    model its training must be given, if there is one; `measures` names the figures that it has of its own.
    `map_settings` names the section of its configuration by which `predict_step` makes its own maps of what was learnt,
    if there is one: a user may change it in use. A configuration with `lesion_from` says from which value on its own
    maps show a lesion. The configuration travels in the checkpoint, so that `registry.restore` needs nothing else.
    """

    name: ClassVar[str] = ""  # set by the registry
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    localization: ClassVar[Localization] = "own"
    starts_from: ClassVar[str | None] = None
    measures: ClassVar[tuple[str, ...]] = ()
    map_settings: ClassVar[str | None] = None
    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.save_hyperparameters({"system": self.name, "config": config.model_dump(mode="json")}, logger=False)

    def stages(self) -> dict[str, Stage]:
        """The stages of training by name, in their order; by default one, the system itself.

        They share the system's networks. Each is trained to its end, and goes on from where the one before stopped.
        """
        return {"training": self}

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

    def score(self, image: Tensor) -> Tensor | None:
        """The score (B,) of stored images without a map; None for a system that learns no label or has no forward."""
        if "label" not in self.inputs or type(self).forward is System.forward:
            return None
        return self.target(self(self.to_input(image)))

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take weights of the public layout that the system's paper starts from; ModelError where it has none."""
        raise ModelError(f"{self.name} has no public layout of pre-trained weights; start from a model of its own")

    def start_from(self, other: "System") -> None:
        """Take what this system needs of a trained one of another kind; ModelError where it needs nothing of it."""
        raise ModelError(f"{self.name} cannot start from a model of {other.name}; start from a model of its own")

    @classmethod
    def map_config(cls, config: Config, settings: Mapping[str, Any], where: str) -> Config:
        """`config` with `settings` on top of its section `map_settings`; `where` is who gave them, for an error.

        Raises:
            ModelError: its own maps take no settings, or not these.
        """
        if not settings:
            return config
        if cls.map_settings is None:
            raise ModelError(f"{cls.name} makes its own maps, which take no settings; name another method")
        return with_section(config, cls.map_settings, settings, where=where)

    def with_map_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same system, all its networks shared, with the `map_config` of `settings`; errors as there."""
        if not settings:
            return self
        changed = copy.copy(self)
        changed.config = self.map_config(self.config, settings, where=self.name)
        return changed

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Figures of each case, of a system that `measures`: by name (B,), or (B, L) with a column a mask class.

        `batch` has `image`, `label` and `masks` (B, L, *spatial) bool. NaN where a figure does not apply to a case.
        `real_features` and `synthetic_features` (B, F) are no figures, but what two sets of images are compared by.
        """
        raise NotImplementedError(f"{type(self).__name__} measures nothing by itself")

    def synthesize(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """A new image after each stored one (B, C, *spatial), as float32 in stored intensities; random by its seed.

        Raises:
            ModelError: the system synthesises none.
        """
        raise ModelError(f"{self.name} synthesises no images; systems of the family synthesis do")

    def explain(self, image: Tensor) -> Explanation:
        """Score and attribution of stored images (B, C, *spatial); the plain gradient unless a system overrides it."""
        return gradient(self, self.to_input(image), self.target)
