"""Settings of patho-gan: its networks, what is explained and how, the optimisers; defaults are the paper's."""

from typing import Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from models.blocks.critic import CriticConfig
from models.blocks.unet import refuse_uneven
from models.classification.classifier import ClassifierConfig
from models.classification.network import ClassifierNetwork
from models.config import Config, validated
from models.errors import ModelError
from models.optimisers import OptimiserConfig
from models.saliency.pathology_aware import Active, Share, Thresholds, Weights
from models.segmentation.vessel_unet import VesselUNetConfig

LAST_CONVOLUTIONS = 2  # of the critic, after those that halve the sides


class PathoGANNetwork(Config):
    """G and D; widths multiply the channels of their published forms, `critic_strided` is how often D halves the sides.

    `size` is the image's side in pixels, a multiple of 16. With `conditional` D judges an image together with its
    vessels, place by place (Isola et al. 2017, sections 3.1 and 3.2.2); the paper's judges an image as a whole.
    """

    size: PositiveInt = 512
    in_channels: PositiveInt = 3
    generator_width: PositiveFloat = 1.0
    critic_width: PositiveFloat = 1.0
    critic_strided: int = Field(default=4, ge=0, le=6)
    conditional: bool = False

    @model_validator(mode="after")
    def _networks_fit_the_size(self) -> Self:
        refuse_uneven(self.size)
        if self.size < (smallest := self.critic.smallest_size):
            raise ValueError(
                f"size {self.size} is too small for a critic of {self.critic_strided} halvings: {smallest}"
            )
        return self

    @property
    def critic(self) -> CriticConfig:
        """D's, which judges colours, too."""
        own: dict[str, Any] = {
            "width": self.critic_width,
            "layers": self.critic_strided + LAST_CONVOLUTIONS,
            "sees_brightness": True,
        }
        return CriticConfig(in_channels=self.in_channels + self.conditional, strided=self.critic_strided, **own)


class Evidence(Config):
    """How the classifier is explained, in the words of `pathology_maps`; names of layers begin with `network`.

    The defaults are the equations as the paper prints them, at the last convolution.
    """

    layers: tuple[str, ...] = ()
    weights: Weights = "pooled"
    signed: bool = True
    thresholds: Thresholds = "quantile"
    active: Active = 0.1
    low: Share = 0.1
    high: Share = 0.9

    @model_validator(mode="after")
    def _groups_are_apart(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        return self


class Location(Evidence):
    """How evidence is located: by weights place by place, and without what speaks against the score."""

    weights: Weights = "elementwise"
    signed: bool = False


class PathoGANOptimiser(OptimiserConfig):
    """G's and D's: plain SGD with 2e-4. `critic_learning_rate` None: the same as G's."""

    learning_rate: PositiveFloat = 2e-4
    momentum: NonNegativeFloat = Field(default=0.0, lt=1.0)
    weight_decay: NonNegativeFloat = 0.0
    critic_learning_rate: PositiveFloat | None = None

    @property
    def critic(self) -> OptimiserConfig:
        """D's."""
        return self.model_copy(update={"learning_rate": self.critic_learning_rate or self.learning_rate})


class PathoGANConfig(Config):
    """`classifier` is what is explained, `vessels` the segmenter, which is that of the model that training starts from.

    Both have the channels, and the classifier the size, that `network` says. `pathology_weight` is λ of equation (5)
    for the relative L_patho, `generator_steps` how often G is updated for each update of D, `noise` the deviation of z.
    `evidence` is what L_patho compares, `located_by` the maps that are shown, and whose share within masks is measured.
    """

    network: PathoGANNetwork = PathoGANNetwork()
    classifier: ClassifierConfig = ClassifierConfig()
    vessels: VesselUNetConfig = VesselUNetConfig()
    evidence: Evidence = Evidence()
    located_by: Location = Location()
    pathology_weight: NonNegativeFloat = 1.0
    generator_steps: PositiveInt = 2
    noise: NonNegativeFloat = 0.01
    optimiser: PathoGANOptimiser = PathoGANOptimiser()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.classifier.intensities != "photograph":
            raise ValueError("patho-gan synthesises photographs: leave classifier.intensities as it is")
        try:
            self.explained  # noqa: B018 its networks can be built
        except ModelError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def abnormal_from(self) -> float:
        """The label from which on an image is abnormal, and takes part in the adversarial stage."""
        return self.classifier.abnormal_from

    @property
    def decides_from(self) -> float:
        """The label from which on a score above 0 is right."""
        return self.abnormal_from

    @property
    def synthesizes_from(self) -> float:
        """The label from which on G has learnt to make images."""
        return self.abnormal_from

    @property
    def explained(self) -> ClassifierConfig:
        """The classifier's, for these images."""
        given = self.classifier.network.model_dump()
        given |= {"size": self.network.size, "in_channels": self.network.in_channels}
        network = validated(ClassifierNetwork, given, where="classifier")
        return self.classifier.model_copy(update={"network": network})

    @property
    def segmenter(self) -> VesselUNetConfig:
        """The vessel network's, for these images."""
        network = self.vessels.network.model_copy(update={"in_channels": self.network.in_channels})
        return self.vessels.model_copy(update={"network": network})
