"""The refinement loop: explain, mask, inpaint, predict again, until the image looks healthy.

González-Gonzalo, Liefers, van Ginneken and Sánchez (MIDL 2018), section 2.2:

    s_i = saliency of y_i = f(I_i)                                              (step 1)
    I_{i+1} = inpaint(I_i, binarise(s_i))                                       (step 2)
    stop when y_i ≤ stop_score or i = max_iterations                            (steps 3 and 4)
    S = Σ_i exp(−λ i) s_i   over the images that were still above stop_score    (step 5)

in   images (C, H, W) as stored        out  one `Refinement` an image; maps raw, in score per unit of the model's input

Two half batches take turns: while the masks of one are inpainted by threads, the other is on the device. An image
that stops makes room for the next, so the device always sees a full batch.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self

import cv2
import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from skimage.filters import threshold_otsu
from torch import nn

from models.config import Config
from models.errors import ModelError
from models.inpainting import INPAINTERS, Inpainter, inpaint_case
from models.saliency import ONLY_POSITIVE, SALIENCY, Method, Sign, Target, default_sign, saliency_method
from models.saliency.streaming import ToInput, explained

StopReason = Literal["score", "cap", "empty_mask"]
STEP_SIDE = 128  # pixels: the longer side of `Refinement.steps` at most


class RefinementConfig(Config):
    """What the paper gives: guided backpropagation, negative gradients, Navier–Stokes, the stop score 1.

    What it leaves open: `threshold` (a percentile of the map, Otsu's, or a fraction of the map's maximum) and its
    `threshold_value` in percent or as a fraction (Otsu has none); `dilation` of the mask and inpainting `radius` in
    pixels; the `decay` λ; `max_iterations`. `saliency_settings` are keyword settings of the saliency method. `sign`
    None is the method's own: negative for gradients, positive for evidence.
    """

    saliency: str = "guided_backprop"
    saliency_settings: dict[str, Any] = Field(default_factory=dict)
    sign: Sign | None = None
    threshold: Literal["percentile", "otsu", "fraction"] = "percentile"
    threshold_value: NonNegativeFloat = 99.5
    dilation: NonNegativeInt = 2
    inpainter: str = "navier_stokes"
    radius: PositiveFloat = 3.0
    decay: NonNegativeFloat = 1.0
    max_iterations: NonNegativeInt = 10
    stop_score: float = Field(default=1.0, allow_inf_nan=False)

    @property
    def map_sign(self) -> Sign:
        """`sign`, or the method's own."""
        return self.sign or default_sign(self.saliency)

    @property
    def method(self) -> Method:
        """The saliency method with its settings."""
        return saliency_method(self.saliency, self.saliency_settings)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for what, name, known in (("saliency", self.saliency, SALIENCY), ("inpainter", self.inpainter, INPAINTERS)):
            if name not in known:
                raise ValueError(f"{what} '{name}' is unknown; there are: {', '.join(known)}")
        try:
            saliency_method(self.saliency, self.saliency_settings)
        except ModelError as error:
            raise ValueError(str(error)) from error
        if self.saliency in ONLY_POSITIVE and self.sign == "negative":
            raise ValueError(f"{self.saliency} maps have no negative part: leave sign away or set it to positive")
        limit = {"percentile": 100.0, "fraction": 1.0, "otsu": math.inf}[self.threshold]
        if self.threshold_value >= limit:
            raise ValueError(f"threshold_value {self.threshold_value:g} must be < {limit:g} for '{self.threshold}'")
        return self


@dataclass(frozen=True, eq=False)
class Refinement:
    """What the loop found in one case.

    `saliency` is S and `initial_saliency` s_0, (H, W) float32; `scores` y_0 … y_n (n + 1,) float32 with
    n = `iterations` inpaintings; `inpainted` (C, H, W) is the last image, of the stored type. `stop_reason`: the score
    was reached, the cap was, or the map was flat. `steps` (n + 1, h, w) float32 are the sums of step 5 up to each
    iteration, from s_0 to S, as means over square blocks: of one pixel up to 128 pixels of a side, then larger.
    """

    case: int
    saliency: np.ndarray
    initial_saliency: np.ndarray
    scores: np.ndarray
    iterations: int
    stop_reason: StopReason
    inpainted: np.ndarray
    steps: np.ndarray


@dataclass(eq=False)
class _Case:
    """A case in the loop: s_0, the latest s_i, their sum so far, and its next image (None for an empty mask)."""

    case: int
    image: np.ndarray
    scores: list[float] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    initial: np.ndarray = field(init=False)
    latest: np.ndarray = field(init=False)
    total: np.ndarray = field(init=False)
    filling: "Future[np.ndarray | None]" = field(init=False)


def refine(
    model: nn.Module,
    to_input: ToInput,
    images: Iterable[tuple[int, np.ndarray]],
    config: RefinementConfig,
    *,
    target: Target,
    batch_size: int,
    device: torch.device | str,
    threads: int,
) -> Iterator[Refinement]:
    """Refine each (case, image (C, H, W)): read as room for it appears, yielded as it stops, so in no fixed order.

    `model` is on `device`; `batch_size` images are on it at a time and as many are being inpainted by `threads`. A
    case's result does not depend on its batch. One iteration costs one inpainting and what the saliency method does:
    one forward and one backward pass for guided backpropagation. ModelError where a score is not a number.
    """
    inpainter = INPAINTERS[config.inpainter](config.radius)
    waiting = iter(images)
    resting: list[_Case] = []
    active: list[_Case] = []
    with ThreadPoolExecutor(max_workers=threads) as pool:
        while True:
            stopped, active = _collect(active)
            yield from stopped
            active += [_Case(case, image) for case, image in islice(waiting, batch_size - len(active))]
            if not active and not resting:
                return
            if active:
                _look(model, to_input, active, config, target=target, device=device)
                stopped, active = _stop(active, config)
                for case in active:
                    case.filling = pool.submit(_filled, case.image, case.latest, config, inpainter)
                yield from stopped
            active, resting = resting, active


def _collect(cases: list[_Case]) -> tuple[list[Refinement], list[_Case]]:
    """Wait for the next images of `cases`; those without a mask have stopped."""
    stopped, going = [], []
    for case in cases:
        filled = case.filling.result()
        if filled is None:
            stopped.append(_result(case, "empty_mask"))
        else:
            case.image = filled
            going.append(case)
    return stopped, going


def _look(
    model: nn.Module,
    to_input: ToInput,
    cases: list[_Case],
    config: RefinementConfig,
    *,
    target: Target,
    device: torch.device | str,
) -> None:
    """y_i and s_i of every case by one call of the saliency method, and the sum of step 5 so far."""
    method, sign = config.method, config.map_sign
    images = [case.image for case in cases]
    scores, maps = explained(model, to_input, images, method, target=target, sign=sign, device=device)
    for case, score, saliency in zip(cases, scores.tolist(), maps, strict=True):
        if not math.isfinite(score):
            raise ModelError(f"case {case.case} gets the score {score}, which is not a number: the model is not usable")
        _remember(case, score, saliency, config)


def _remember(case: _Case, score: float, saliency: np.ndarray, config: RefinementConfig) -> None:
    iteration = len(case.scores)
    case.scores.append(score)
    case.latest = saliency
    if iteration == 0:
        case.initial, case.total = saliency.copy(), saliency.copy()  # the map is a view of its batch's
    elif score > config.stop_score:
        case.total += np.float32(math.exp(-config.decay * iteration)) * saliency
    case.steps.append(block_means(case.total, STEP_SIDE))


def _stop(cases: list[_Case], config: RefinementConfig) -> tuple[list[Refinement], list[_Case]]:
    """Steps 3 and 4: the cases whose score is low enough or that had their iterations, and the others."""
    stopped, going = [], []
    for case in cases:
        if case.scores[-1] <= config.stop_score:
            stopped.append(_result(case, "score"))
        elif len(case.scores) > config.max_iterations:
            stopped.append(_result(case, "cap"))
        else:
            going.append(case)
    return stopped, going


def _filled(
    image: np.ndarray, saliency: np.ndarray, config: RefinementConfig, inpainter: Inpainter
) -> np.ndarray | None:
    """Step 2: I_{i+1}, or None where s_i has nothing to mask."""
    mask = binarised(saliency, config)
    return inpaint_case(inpainter, image, dilated(mask, config.dilation)) if mask.any() else None


def binarised(saliency: np.ndarray, config: RefinementConfig) -> np.ndarray:
    """The pixels of a map (H, W) ≥ 0 that reach its own threshold; a map that is zero or constant has none.

    Reach, not exceed: where more pixels share the maximum than the percentile leaves, they are the mask.
    """
    lowest = saliency.min()
    if saliency.max() == lowest:
        return np.zeros(saliency.shape, dtype=bool)
    match config.threshold:
        case "percentile":
            limit = np.percentile(saliency, config.threshold_value)
        case "otsu":
            limit = threshold_otsu(saliency)
        case "fraction":
            limit = config.threshold_value * saliency.max()
    return np.asarray((saliency >= limit) & (saliency > lowest))


def block_means(saliency: np.ndarray, side: int) -> np.ndarray:
    """A map (H, W) as means over the smallest square blocks that leave at most `side` of them along each axis.

    New memory, of the same dtype; the blocks at the bottom and right edges are smaller where `side` does not divide.
    """
    block = -(-max(saliency.shape) // side)
    if block == 1:
        return saliency.copy()
    height, width = saliency.shape
    rows, columns = -(-height // block), -(-width // block)
    padded = cv2.copyMakeBorder(saliency, 0, rows * block - height, 0, columns * block - width, cv2.BORDER_CONSTANT)
    means = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
    means[-1] *= block / (height - (rows - 1) * block)
    means[:, -1] *= block / (width - (columns - 1) * block)
    return np.asarray(means)


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` (H, W) grown by a disc of radius `pixels`."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc)).astype(bool)


def _result(case: _Case, reason: StopReason) -> Refinement:
    return Refinement(
        case=case.case,
        saliency=case.total,
        initial_saliency=case.initial,
        scores=np.array(case.scores, dtype=np.float32),
        iterations=len(case.scores) - 1,
        stop_reason=reason,
        inpainted=case.image,
        steps=np.stack(case.steps),
    )
