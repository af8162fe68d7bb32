"""What class-response can be told: its network, its losses, how its maps become a tumour."""

from math import log2
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from models.config import Config
from models.localization.back_projection import BackProjection
from models.optimisers import OptimiserConfig

LAYERS = 8
STRIDED = (1, 3, 5, 7, 0, 2, 4, 6)  # the layers that halve the map, in the order in which they are asked to

Weights = Literal["softmax", "sharpened"]
DistanceForm = Literal["mean_distance", "soft_argmax"]
Pair = tuple[float, float]


class ResponseNetwork(Config):
    """Eight convolutions of 3 × 3 with `channels`, which the paper leaves open.

    `cell_mm` is the side of a place of the map: as many layers have a stride of 2 as come nearest to it from voxels of
    `spacing_mm` along (z, y, x). The paper's 1/16 at 2 mm is 32 mm. `size` is that of cubes; any other grid will do.
    """

    size: PositiveInt | None = None
    in_channels: PositiveInt = 1
    channels: tuple[PositiveInt, ...] = Field(default=(16, 16, 32, 32, 64, 64, 128, 128), min_length=8, max_length=8)
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (2.0, 2.0, 2.0)
    cell_mm: PositiveFloat = 32.0

    @property
    def pixel_mm(self) -> Pair:
        """Sides of a view's pixel: along z, and along y or x, which one network sees alike."""
        z, y, x = self.spacing_mm
        return z, (y + x) / 2

    @property
    def halvings(self) -> tuple[int, int]:
        """How often each side of a pixel is doubled to come nearest to a cell."""
        z, across = (max(0, round(log2(self.cell_mm / side))) for side in self.pixel_mm)
        return z, across

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels of a view along each side of a place of the map."""
        z, across = self.halvings
        return 2**z, 2**across

    @property
    def layer_strides(self) -> list[tuple[int, int]]:
        """The stride of each layer; their product is `stride`."""
        z, across = (STRIDED[:count] for count in self.halvings)
        return [(2 if layer in z else 1, 2 if layer in across else 1) for layer in range(LAYERS)]

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if self.in_channels != 1:
            raise ValueError(f"it takes PET alone, one channel, not {self.in_channels}")
        if max(self.halvings) > LAYERS:
            raise ValueError(f"{LAYERS} layers cannot shrink pixels of {self.pixel_mm} mm to {self.cell_mm:g} mm")
        return self


class ResponseOptimiser(OptimiserConfig):
    """Adam at its usual rate, where the paper says nothing."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    weight_decay: NonNegativeFloat = 0.0


class ClassResponseConfig(Config):
    """`distance_weight` is λ; SUVs are clipped to `suv_range` and scaled to 0 … 1; `lesions` are mask classes, () all.

    In training, where `mirrored`, left and right change sides every other time, and each case is moved by up to
    `shift_mm` along each axis, in whole pixels: the trainer's own augmentation interpolates whole volumes, which costs
    more than the network. The paper says nothing of either.

    `back_projection` holds for maps that are made with other settings, too: `localize --set threshold=none`.
    """

    network: ResponseNetwork = ResponseNetwork()
    suv_range: Pair = (0.0, 30.0)
    distance_weight: NonNegativeFloat = 1.0
    distance: DistanceForm = "mean_distance"
    weights: Weights = "softmax"
    lesions: tuple[str, ...] = ()
    mirrored: bool = False
    shift_mm: NonNegativeFloat = 0.0
    abnormal_from: float = 1.0
    back_projection: BackProjection = BackProjection()
    optimiser: ResponseOptimiser = ResponseOptimiser()

    @property
    def decides_from(self) -> float:
        """The label from which on a score above 0 is right."""
        return self.abnormal_from

    @property
    def shift_pixels(self) -> tuple[int, int]:
        """The largest shift along z, and along y or x."""
        z, across = (int(self.shift_mm // side) for side in self.network.pixel_mm)
        return z, across

    @property
    def lesion_from(self) -> float:
        """The value from which on a map shows the tumour."""
        return self.back_projection.response_share

    @model_validator(mode="after")
    def _clips_to_a_range(self) -> Self:
        low, high = self.suv_range
        if low >= high:
            raise ValueError(f"suv_range goes up: {low:g} to {high:g} does not")
        return self
