"""Fill masked pixels from their surroundings, so that an image looks as it would without the lesion.

`INPAINTERS` names the methods; each is built with a radius in pixels and never touches a pixel outside the mask.
"""

from collections.abc import Callable

from models.inpainting.batch import Inpainter, inpaint_batch, inpaint_case
from models.inpainting.diffusion import navier_stokes, telea
from models.inpainting.harmonic import harmonic

INPAINTERS: dict[str, Callable[[float], Inpainter]] = {
    "navier_stokes": navier_stokes,
    "telea": telea,
    "harmonic": lambda radius: harmonic,  # looks no further than the next unmasked pixel
}

__all__ = ["INPAINTERS", "Inpainter", "harmonic", "inpaint_batch", "inpaint_case", "navier_stokes", "telea"]
