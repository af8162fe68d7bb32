"""Back-projection — a tumour's mask in a PET volume from its response on the two projections.

Amyar, Modzelewski, Vera, Morard and Ruan, sections 2.1 and 5; what the paper leaves open is read so. A view's mask is
where its response M is at least a share of its maximum, which equation (1) of the paper makes 1. The candidate is the
intersection of both back-projected masks. In it the tumour is what the local threshold leaves, and of this the piece
that holds the strongest response, min(M_coronal, M_sagittal).

The candidate by itself is much too large: a map's cell measures centimetres. The threshold is one of

    suv_share  SUV ≥ share · max SUV in the candidate (41 % is the habit of the clinic)
    suv        SUV ≥ a fixed value
    gradient   the watershed of the SUV's gradient between the hottest voxels and what lies around the candidate
    none       the candidate itself: the hull of what the views show

in   suv       (z, y, x) SUV        response  (z, y, x) in 0 … 1
out  mask      (z, y, x) bool
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat
from scipy import ndimage
from skimage.segmentation import watershed
from torch import Tensor

from models.config import Config
from models.metrics.froc import components

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

INSIDE, OUTSIDE = 1, 2  # the markers of the watershed
BODY = np.ones((3, 3, 3), bool)
MARGIN = 4  # voxels: as far from the candidate as its gradient is flooded, and one for the slope there


class BackProjection(Config):
    """`response_share` of a view's maximum is its mask; `threshold` cuts the tumour out of the candidate.

    `search` in the `volume` takes all of it for the candidate, whatever the response: what the threshold would find by
    itself. Of the pieces found, `strongest` keeps the one with the strongest response. `core_share` is from which share
    of the largest SUV on voxels are surely inside, for the gradient.
    """

    response_share: float = Field(default=0.5, gt=0, le=1)
    search: Literal["candidate", "volume"] = "candidate"
    threshold: Literal["suv_share", "suv", "gradient", "none"] = "suv_share"
    suv_share: float = Field(default=0.41, gt=0, lt=1)
    suv: NonNegativeFloat = 2.5
    core_share: float = Field(default=0.7, gt=0, lt=1)
    pieces: Literal["strongest", "all"] = "strongest"


def tumour_masks(suv: Tensor, response: Tensor, config: BackProjection) -> Tensor:
    """The tumour of each volume of a batch, SUV and response (B, z, y, x): bool, the same shape, on their device."""
    volumes = zip(suv.float().cpu().numpy(), response.float().cpu().numpy(), strict=True)
    found = [torch.from_numpy(tumour_mask(*volume, config)) for volume in volumes]
    return torch.stack(found).to(suv.device)


def tumour_mask(suv: Floats, response: Floats, config: BackProjection) -> Mask:
    """The tumour in one volume; nothing where the response is nowhere positive."""
    everywhere = config.search == "volume"
    candidate = np.ones(suv.shape, bool) if everywhere else response >= np.float32(config.response_share)
    tumour = np.zeros(suv.shape, bool)
    if not candidate.any():
        return tumour
    box = box_around(candidate)
    found = thresholded(suv[box], candidate[box], config)
    tumour[box] = found if config.pieces == "all" else strongest_piece(found, response[box], suv[box])
    return tumour


def box_around(candidate: Mask) -> tuple[slice, ...]:
    """The part of the volume that a threshold looks at: all of the candidate, which is not empty, and some about it."""
    [box] = ndimage.find_objects(candidate.view(np.uint8))
    return tuple(slice(max(0, part.start - MARGIN), part.stop + MARGIN) for part in box)


def thresholded(suv: Floats, candidate: Mask, config: BackProjection) -> Mask:
    """What the local threshold leaves of the candidate (z, y, x), which is not empty."""
    match config.threshold:
        case "suv_share":
            return np.asarray(candidate & (suv >= config.suv_share * suv[candidate].max()))
        case "suv":
            return candidate & (suv >= config.suv)
        case "gradient":
            return within_edges(suv, candidate, config.core_share)
        case _:
            return candidate


def within_edges(suv: Floats, candidate: Mask, core_share: float) -> Mask:
    """The candidate's part on the inner side of the steepest fall from voxels ≥ `core_share` of its largest SUV.

    A watershed floods the gradient's size from these and from outside of the candidate; where they meet is the edge.
    """
    near = ndimage.binary_dilation(candidate, BODY)
    markers = np.where(near, 0, OUTSIDE)
    markers[candidate & (suv >= core_share * suv[candidate].max())] = INSIDE
    steepness = np.sqrt(sum(np.square(slope) for slope in np.gradient(suv)))
    found = watershed(steepness, markers, mask=ndimage.binary_dilation(near, BODY))
    return np.asarray(candidate & (found == INSIDE))


def strongest_piece(found: Mask, response: Floats, suv: Floats) -> Mask:
    """The connected component of `found` that holds its voxel of the strongest response; nothing of nothing.

    Of equal responses, as a hull has them, the voxel with the largest SUV.
    """
    if not found.any():
        return found
    pieces, _ = components(found)
    strong = found & (response == response[found].max())
    strongest = np.argmax(np.where(strong, suv, -np.inf))
    return np.asarray(pieces == pieces.flat[strongest])
