"""How fast is `localize`, beside what a user would write or use instead? All in one run, in turns; medians.

    python benchmarks/localize.py             a small network, a minute or two on two cores
    python benchmarks/localize.py --paper     VGG-16 at 512 pixels, some minutes on two cores

loop      `refine` ÷ (a bare forward and backward pass at the same batch, as often as the loop looks at an image,
          + OpenCV inpainting of the same masks on the same threads)
saliency  guided backpropagation by captum, MONAI and pytorch-grad-cam ÷ ours

pytorch-grad-cam imports torchvision, which its guided backpropagation does not use; where torchvision is absent, it is
stood in for while importing. Have it with `pip install --no-deps grad-cam ttach`, or in a folder of its own
(`pip install --no-deps --target DIR grad-cam ttach`, then `--grad-cam DIR`).
"""

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from captum.attr import GuidedBackprop
from monai.visualize import GuidedBackpropGrad
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.blocks.vgg import VGGConfig, VGGRegressor
from models.inpainting import INPAINTERS
from models.localization.refinement import RefinementConfig, refine
from models.saliency import guided_backprop, regression_output

Work = Callable[[], object]
NOT_INSTALLED = "not installed: pip install --no-deps grad-cam ttach"


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    warnings.simplefilter("ignore")
    report = {"machine": machine(options), "loop": loop(options), "saliency": saliency(options)}
    show(report, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the loop's images")
    parser.add_argument("--width", type=float, default=0.25, help="width of the loop's VGG")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=4, help="inpaintings an image")
    parser.add_argument("--saliency-size", type=int, default=224, help="pixels a side of the full-width VGG-16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--paper", action="store_true", help="VGG-16 at 512 pixels, batch 4, 8 images, 3 repeats")
    parser.add_argument("--grad-cam", type=Path, help="folder that pytorch-grad-cam was installed into")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.paper:
        paper = {
            "size": 512,
            "width": 1.0,
            "saliency_size": 512,
            "batch": 4,
            "images": 8,
            "iterations": 3,
            "repeats": 3,
        }
        vars(options).update(
            {name: value for name, value in paper.items() if getattr(options, name) == parser.get_default(name)}
        )
    return options


def machine(options: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    return f"{name}, {options.threads} threads, torch {torch.__version__}, OpenCV {cv2.__version__}"


def in_turns(works: dict[str, Work], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each work, one after the other, `repeats` times after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def loop(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a look of the loop and of its floor, and the median of the turns' ratios."""
    network = paper_vgg(options.size) if options.paper else small_vgg(options.size, options.width)
    network = network.eval().to(options.device)
    images = photographs(options.images, options.size)
    pairs = inpainted_pairs(network, images, options)
    works: dict[str, Work] = {
        "loop": lambda: run_loop(network, images, options),
        "forward and backward": lambda: bare_passes(network, images, options),
        "inpainting": lambda: bare_inpainting(pairs, options.threads),
    }
    seconds = in_turns(works, options.repeats, options.device)
    floor = [sum(turn) for turn in zip(seconds["forward and backward"], seconds["inpainting"], strict=True)]
    looks = options.images * (options.iterations + 1)
    ratios = [ours / least for ours, least in zip(seconds["loop"], floor, strict=True)]
    per_look = {name: statistics.median(values) / looks for name, values in seconds.items()}
    return {**per_look, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def small_vgg(size: int, width: float) -> VGGRegressor:
    config = VGGConfig(size=size, stem_stride=1, width=width, normalisation="batch", head=(64,), head_pool=1)
    return VGGRegressor(config)


def paper_vgg(size: int) -> VGGRegressor:
    """The paper's at 512 pixels; at other sizes block 5 is padded, so that every size from 64 on fits."""
    return VGGRegressor(VGGConfig(size=size, block5_valid=size == 512))


def photographs(number: int, size: int) -> np.ndarray:
    """(N, 3, size, size) uint8: smooth noise, as inpainting and compression meet it."""
    coarse = np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse]).transpose(
        0, 3, 1, 2
    )


def to_input(stored: Tensor) -> Tensor:
    return stored.float() / 128 - 1


def run_loop(
    network: VGGRegressor, images: np.ndarray, options: argparse.Namespace, inpainter: str = "navier_stokes"
) -> None:
    """Every image has all its iterations: the stop score is out of reach."""
    config = RefinementConfig(inpainter=inpainter, sign="absolute", max_iterations=options.iterations, stop_score=-1e30)
    settings = {"batch_size": options.batch, "device": options.device, "threads": options.threads}
    looks = 0
    for result in refine(network, to_input, enumerate(images), config, target=regression_output(), **settings):
        looks += len(result.scores)
    assert looks == len(images) * (options.iterations + 1), "an image stopped early: the floor would not be the loop's"


def inpainted_pairs(
    network: VGGRegressor, images: np.ndarray, options: argparse.Namespace
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (image, mask) that the loop inpaints."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def recording(radius: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        inpaint = INPAINTERS["navier_stokes"](radius)

        def inpainted(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
            pairs.append((image, mask.astype(np.uint8)))
            return inpaint(image, mask)

        return inpainted

    with mock.patch.dict(INPAINTERS, recording=recording):
        run_loop(network, images, options, inpainter="recording")
    return pairs


def bare_passes(network: VGGRegressor, images: np.ndarray, options: argparse.Namespace) -> None:
    """What any gradient costs: as many forward and backward passes as the loop has looks, at its batch size."""
    stored = torch.from_numpy(images).to(options.device)
    for _ in range(options.iterations + 1):
        for part in stored.split(options.batch):
            image = to_input(part).requires_grad_()
            torch.autograd.grad(network(image).sum(), image)


def bare_inpainting(pairs: list[tuple[np.ndarray, np.ndarray]], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: cv2.inpaint(*pair, 3.0, cv2.INPAINT_NS), pairs))


def saliency(options: argparse.Namespace) -> dict[str, dict[str, float] | str]:
    """Seconds an image of guided backpropagation on VGG-16, batch 4, and how far each lies from captum's."""
    network = paper_vgg(options.saliency_size).eval().to(options.device)
    spoilt = copy.deepcopy(network)  # for those that leave the model changed
    image = torch.randn(4, 3, options.saliency_size, options.saliency_size, device=options.device)
    works: dict[str, Work] = {
        "lesionflow": lambda: guided_backprop(network, image, regression_output()).attribution,
        "captum": lambda: GuidedBackprop(network).attribute(image.clone()),
        "MONAI": lambda: torch.cat([GuidedBackpropGrad(spoilt)(one[None].clone(), index=0) for one in image]),
    }
    with grad_cam_model(options.grad_cam) as guided_model:
        if guided_model is not None:
            works["pytorch-grad-cam"] = lambda: np.stack([guided_model(spoilt)(one[None].clone(), 0) for one in image])
        answers = {name: as_batch(work()) for name, work in works.items()}
        seconds = in_turns(works, options.repeats, options.device)
    rows: dict[str, dict[str, float] | str] = {
        name: {
            "seconds": statistics.median(values) / len(image),
            "ratio": statistics.median(
                theirs / ours for theirs, ours in zip(values, seconds["lesionflow"], strict=True)
            ),
            "difference": float(np.abs(answers[name] - answers["captum"]).max() / np.abs(answers["captum"]).max()),
        }
        for name, values in seconds.items()
    }
    return rows if guided_model is not None else {**rows, "pytorch-grad-cam": NOT_INSTALLED}


def as_batch(answer: object) -> np.ndarray:
    """(B, 3, H, W); pytorch-grad-cam answers with the channels last."""
    if isinstance(answer, Tensor):
        return answer.detach().cpu().numpy()
    return np.moveaxis(np.asarray(answer), -1, 1)


@contextmanager
def grad_cam_model(folder: Path | None) -> Iterator[type | None]:
    """pytorch-grad-cam's GuidedBackpropReLUModel, None where it is not installed."""
    path = [str(folder)] if folder else []
    with mock.patch.object(sys, "path", [*path, *sys.path]), mock.patch.dict(sys.modules, torchvision_stand_in()):
        try:
            module = importlib.import_module("pytorch_grad_cam.guided_backprop")
        except ImportError:
            module = None
        yield module and module.GuidedBackpropReLUModel


def torchvision_stand_in() -> dict[str, types.ModuleType]:
    """Modules with the names that pytorch-grad-cam imports; nothing where torchvision is there."""
    if importlib.util.find_spec("torchvision") is not None:
        return {}
    used = {
        "torchvision": (),
        "torchvision.transforms": ("Compose", "Normalize", "ToTensor"),
        "torchvision.transforms.functional": ("resize",),
    }
    modules = {name: types.ModuleType(name) for name in used}
    for name, attributes in used.items():
        vars(modules[name]).update(dict.fromkeys(attributes))
    return modules


def show(report: dict, options: argparse.Namespace) -> None:
    console, figures = Console(width=100), report["loop"]
    console.print(f"{report['machine']}; medians of {options.repeats} turns")
    title = f"{options.size} pixels, width {options.width}, batch {options.batch}, {options.iterations} iterations"
    table = Table(title, "ms a look")
    for name in ("loop", "forward and backward", "inpainting"):
        table.add_row(name, f"{1000 * figures[name]:.1f}")
    spread = f"{figures['lowest']:.2f} … {figures['highest']:.2f}"
    table.add_row("loop ÷ floor (aim ≤ 1.10)", f"{figures['ratio']:.2f}  ({spread})")
    console.print(table)
    title = f"VGG-16, {options.saliency_size} pixels, 4 images"
    table = Table(title, "ms an image", "÷ lesionflow", "difference from captum")
    for name, row in report["saliency"].items():
        table.add_row(name, *([row] if isinstance(row, str) else cells(row)))
    console.print(table)


def cells(row: dict[str, float]) -> list[str]:
    return [f"{1000 * row['seconds']:.0f}", f"{row['ratio']:.2f}", f"{row['difference']:.0e}"]


if __name__ == "__main__":
    main()
