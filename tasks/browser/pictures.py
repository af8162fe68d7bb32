"""The pictures of a case as bytes: images as JPEG, what lies over them as PNG with a palette and alpha.

A picture's name says what it shows. Planes are `image`, or of volumes `axial-12` (a slice) and `mip-0` (the maximum
along an axis); `image.jpg` is the plane of a colour photograph, `axial-12-channel-1.jpg` of one channel, and
`image-lesion-0.png` the outline of a lesion class in it. Of a map set: `image.png` the map in a plane, `steps.png` the
map as it grew, below each other, `inpainted.jpg`, `small.png` the map for the thumbnail.
"""

import io
import re
import textwrap
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from storage.errors import CohortError
from storage.export import display
from storage.export.display import LESION_COLOURS, View
from tasks.browser.cohorts import MapSet, Shown

THUMBNAIL, LONGEST, OUTLINED = 256, 1600, 1024  # pixels of the longer side
PLANE = r"(?P<plane>image|axial|mip)(?:-(?P<place>\d{1,5}))?"
IMAGE_NAME = re.compile(PLANE + r"(?:-channel-(?P<channel>\d{1,3}))?\.jpg")
OUTLINE_NAME = re.compile(PLANE + r"-lesion-(?P<lesion>\d{1,3})\.png")
MAP_NAME = re.compile(PLANE + r"\.png")
STEPS, INPAINTED, SMALL = "steps.png", "inpainted.jpg", "small.png"
JPEG, PNG = "image/jpeg", "image/png"


def plane_names(shown: Shown, case: int) -> list[str]:
    """`image`, or the three projections and all axial slices of a volume."""
    if len(shown.cohort.dims) == 2:
        return ["image"]
    return [*(f"mip-{axis}" for axis in range(3)), *(f"axial-{z}" for z in range(shown.cohort.shape(case)[0]))]


def channel_suffixes(shown: Shown) -> dict[str, str]:
    """How the names of images end, by channel name."""
    if shown.is_colour:
        return {"colour": ""}
    return {name: f"-channel-{number}" for number, name in enumerate(shown.cohort.channels)}


def image_names(shown: Shown, case: int) -> list[str]:
    """The names of the images of a case."""
    suffixes = channel_suffixes(shown).values()
    return [f"{plane}{suffix}.jpg" for plane in plane_names(shown, case) for suffix in suffixes]


def outline_names(shown: Shown, case: int) -> list[str]:
    """The names of its outlines, where there is something to outline; CohortError where its masks are damaged."""
    marked = marked_planes(shown, case).items()
    return [f"{plane}-lesion-{lesion}.png" for lesion, planes in marked for plane in planes]


def map_picture_names(shown: Shown, maps: MapSet, case: int) -> list[str]:
    """The names of all pictures of a case's map."""
    if case not in maps.cases:
        return []
    more = [name for name, there in ((STEPS, has_steps(maps)), (INPAINTED, has_inpainted(maps))) if there]
    return [SMALL, *more, *(f"{plane}.png" for plane in plane_names(shown, case))]


def has_steps(maps: MapSet) -> bool:
    """Whether the set holds the map as it grew, of pictures."""
    return "steps" in maps.maps.array_names and "scores" in maps.maps.array_names and len(maps.cohort.dims) == 2


def has_inpainted(maps: MapSet) -> bool:
    """Whether the set holds inpainted pictures."""
    return "inpainted" in maps.maps.array_names and len(maps.cohort.dims) == 2


def marked_planes(shown: Shown, case: int) -> dict[int, list[str]]:
    """The planes in which each lesion class of a case is marked, by its number; CohortError where masks are damaged."""
    masks = shown.cohort.masks(case)
    return {
        lesion: [plane for plane in plane_names(shown, case) if view_of(plane, masks.shape[1:]).of(mask).any()]
        for lesion, mask in enumerate(masks)
        if mask.any()
    }


def view_of(plane: str, grid: tuple[int, ...]) -> View:
    """The plane of this name of a case of this shape; KeyError where there is none."""
    kind, _, place = plane.partition("-")
    if len(grid) == 2 and plane == "image":
        return View("")
    if len(grid) == 3 and kind == "mip" and place.isdigit() and int(place) < 3:
        return View("", int(place))
    if len(grid) == 3 and kind == "axial" and place.isdigit() and int(place) < grid[0]:
        return View("", 0, int(place))
    raise KeyError(plane)


def shown_size(shown: Shown, case: int, view: View, longest: int, grow: bool = False) -> tuple[int, int]:
    """(height, width) of a plane true to mm: its finer axis at its own resolution, or `longest` where that is less.

    With `grow` it is `longest` in any case.
    """
    grid = shown.cohort.shape(case)
    rest = grid if view.axis is None else tuple(n for axis, n in enumerate(grid) if axis != view.axis)
    spacing = view.spacing(shown.cohort.spacing(case))
    extent = np.array(rest) * np.array(spacing) / min(spacing)
    factor = longest / extent.max()
    height, width = np.maximum(1, np.round(extent * (factor if grow else min(1.0, factor)))).astype(int)
    return int(height), int(width)


def case_picture(shown: Shown, case: int, name: str) -> tuple[bytes, str]:
    """A picture of a case and its kind; KeyError for a name that is none, CohortError where pixels are damaged."""
    grid = shown.cohort.shape(case)
    if found := IMAGE_NAME.fullmatch(name):
        view, channel = view_of(_plane(found), grid), int(found["channel"] or 0)
        if shown.is_colour == bool(found["channel"]) or channel >= len(shown.cohort.channels):
            raise KeyError(name)
        return jpeg(plane_image(shown, case, view, channel, shown_size(shown, case, view, LONGEST))), JPEG
    if found := OUTLINE_NAME.fullmatch(name):
        view, lesion = view_of(_plane(found), grid), int(found["lesion"])
        if lesion >= len(shown.cohort.lesions):
            raise KeyError(name)
        return outline(shown, case, view, lesion), PNG
    raise KeyError(name)


def _plane(found: re.Match[str]) -> str:
    return found["plane"] + (f"-{found['place']}" if found["place"] else "")


def plane_image(shown: Shown, case: int, view: View, channel: int, size: tuple[int, int]) -> np.ndarray:
    """A plane of an image in `size`, (y, x, 3) uint8."""
    if shown.is_colour:
        return display.resized(np.moveaxis(shown.cohort.image(case), 0, -1), size)
    low, high = grey_values(shown, case, channel)
    return display.resized(display.grey(read_plane(shown, case, view, channel), low, high), size)


def read_plane(shown: Shown, case: int, view: View, channel: int) -> np.ndarray:
    """A plane of a channel; of a slice only the blocks that it touches are read."""
    if view.place is None:
        return view.of(shown.cohort.image(case)[channel])
    _, height, width = shown.cohort.shape(case)
    return np.asarray(shown.cohort.patch(case, (view.place, 0, 0), (1, height, width))[channel, 0])


@lru_cache(maxsize=1024)
def grey_values(shown: Shown, case: int, channel: int) -> tuple[float, float]:
    """The values of a whole case that are shown black and white."""
    return display.window(shown.cohort.channels[channel], shown.cohort.image(case)[channel])


def thumbnail(shown: Shown, case: int) -> bytes:
    """The case in small: of a volume one view of its last channel."""
    view, channel = thumbnail_view(shown, case), len(shown.cohort.channels) - 1
    return jpeg(plane_image(shown, case, view, channel, shown_size(shown, case, view, THUMBNAIL)), 85)


def first_slice(shown: Shown, case: int) -> int:
    """The axial slice with most lesion; the middle one where none is known."""
    try:
        marked = shown.cohort.mask(case).sum(axis=(1, 2))
    except CohortError:
        marked = np.zeros(shown.cohort.shape(case)[0])
    return int(marked.argmax()) if marked.any() else len(marked) // 2


def thumbnail_view(shown: Shown, case: int) -> View:
    """The picture; of PET the coronal projection, of other volumes the slice with most lesion, or the middle one."""
    cohort = shown.cohort
    if len(cohort.dims) == 2:
        return View("")
    if display.is_projected(cohort.channels[-1]):
        return View("", 1)
    return View("", 0, first_slice(shown, case))


def outline(shown: Shown, case: int, view: View, lesion: int) -> bytes:
    """A line around the lesions of a class in its colour, clear elsewhere."""
    longest = OUTLINED if view.axis is None else OUTLINED // 2  # planes of volumes stand side by side, and are smaller
    size = shown_size(shown, case, view, longest, grow=True)
    mask = display.shown_mask(view.of(shown.cohort.masks(case)[lesion]), size)
    line = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=2) & ~mask
    return palette_png(line.astype(np.uint8), np.array([(0, 0, 0), lesion_colour(lesion)]), np.array([0, 255]))


def lesion_colour(lesion: int) -> tuple[int, int, int]:
    """The colour of a lesion class, by its number."""
    return LESION_COLOURS[lesion % len(LESION_COLOURS)]


def map_picture(shown: Shown, maps: MapSet, case: int, name: str) -> tuple[bytes, str]:
    """A picture of a case's map and its kind; KeyError for a name that is none, CohortError where it is damaged."""
    if case not in maps.cases:
        raise KeyError(name)
    if name == SMALL:
        view = thumbnail_view(shown, case)
        size = shown_size(shown, case, view, THUMBNAIL // 2)
        return heat(display.resized(view.of(maps.maps.saliency(case)), size), maps.scale), PNG
    if name == STEPS and has_steps(maps):
        return heat(np.concatenate(steps(maps, case)), maps.scale), PNG
    if name == INPAINTED and has_inpainted(maps):
        return jpeg(inpainted(shown, maps, case)), JPEG
    if found := MAP_NAME.fullmatch(name):
        view = view_of(_plane(found), shown.cohort.shape(case))
        size = shown_size(shown, case, view, LONGEST)
        return heat(display.resized(view.of(maps.maps.saliency(case)), size), maps.scale), PNG
    raise KeyError(name)


def scores(maps: MapSet, case: int) -> np.ndarray:
    """y_0 … y_n of a refined case, else its score alone."""
    if "scores" in maps.maps.array_names:
        path = np.asarray(maps.maps.array("scores", case), np.float64)
        return path[np.isfinite(path)]
    noted = maps.table
    return np.array([noted.at[case, "score"]], np.float64) if "score" in noted else np.array([])


def steps(maps: MapSet, case: int) -> np.ndarray:
    """The map up to each iteration of the case, (n + 1, h, w)."""
    return np.asarray(maps.maps.array("steps", case), np.float32)[: max(1, len(scores(maps, case)))]


def inpainted(shown: Shown, maps: MapSet, case: int) -> np.ndarray:
    """The image without the lesions that were found, (y, x, 3) uint8."""
    image, size = maps.maps.array("inpainted", case), shown_size(shown, case, View(""), LONGEST)
    if shown.is_colour:
        return display.resized(np.moveaxis(np.clip(image, 0, 255).astype(np.uint8), 0, -1), size)
    channel = len(image) - 1
    return display.resized(display.grey(image[channel], *grey_values(shown, case, channel)), size)


def heat(saliency: np.ndarray, scale: float) -> bytes:
    """A map (y, x) in colour, the fainter the clearer; 0 and below is clear, `scale` and above white."""
    strength = np.round(np.clip(np.nan_to_num(saliency) / scale, 0, 1) * 255).astype(np.uint8)
    level = np.linspace(0, 1, 256)
    return palette_png(strength, display.heat_colours(level), np.round(255 * np.clip(2 * level, 0, 1)))


def palette_png(indices: np.ndarray, colours: np.ndarray, alpha: np.ndarray) -> bytes:
    """Pixels (y, x) uint8 that name one of some colours (N, 3) and its alpha (N,), 0 to 255."""
    picture = Image.fromarray(indices, mode="L")
    picture.putpalette(np.asarray(colours, np.uint8).tobytes())
    buffer = io.BytesIO()
    bits = 1 if len(colours) == 2 else 8
    picture.save(buffer, "PNG", transparency=np.asarray(alpha, np.uint8).tobytes(), bits=bits)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    """(y, x, 3) uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
    return buffer.getvalue()


def placeholder(reason: str, kind: str) -> bytes:
    """A picture that says why there is none."""
    picture = Image.new("RGB", (360, 360), (32, 24, 22))
    words = "\n".join(textwrap.wrap(reason, 46)[:12])
    font = ImageFont.load_default(14)
    ImageDraw.Draw(picture).multiline_text((180, 180), words, (238, 138, 104), font, "mm", spacing=6, align="center")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if kind == JPEG else "PNG")
    return buffer.getvalue()
