"""A model as MLflow serves it: images in, scores and maps out; no pickle, and the code it needs beside the weights.

    in    image     (B, C, *grid) of the cohort's dtype, intensities as stored
    out   what the system's `predict_step` hands out: score (B,), saliency (B, *grid), mask, image, …

MLflow imports this module to load a model, where lesionflow need not be installed: the packages `models` and `tasks`
travel with the model, so this module imports no other of this project.
"""

import tempfile
import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from packaging.version import Version

from models.errors import ModelError
from models.system import System
from tasks.model_files import DESCRIPTION, WEIGHTS, describe_model, load_model
from tasks.reuse import PROJECT

warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)  # the signature is complete

ARTIFACT = "model"
INSIDE = Path("data", "model")  # where an MLflow model directory keeps the model folder
IMAGE = "image"
CODE = ("models", "tasks")
PACKAGES = (
    "lightning",
    "mlflow",
    "monai",
    "numpy",
    "opencv-python-headless",
    "pydantic",
    "safetensors",
    "scikit-image",
    "scipy",
    "torch",
)
SOME_SIDE = 64  # of the image by which a model for any size shows what it hands out


class ServedModel:
    """A system behind `mlflow.pyfunc`, on the GPU where there is one."""

    def __init__(self, system: System) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._system = system.to(self._device)
        self._turn = threading.Lock()  # requests come in threads, and explanations put hooks on the network

    def predict(self, model_input: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All that the system predicts of `image` (B, C, *grid), by name."""
        image = torch.from_numpy(np.array(model_input[IMAGE])).to(self._device)
        with self._turn:
            predicted = self._system.predict_step({IMAGE: image}, 0)
        return {name: tensor.detach().cpu().numpy() for name, tensor in predicted.items()}


def export_pyfunc(model_folder: Path, out: Path) -> Path:
    """Make the MLflow model directory `out` of a model folder, whose files it holds once, in `data/model`.

    Raises:
        ModelError: no model lies there, or it does not say what images it takes.
    """
    about = describe_model(model_folder)
    served = ServedModel(load_model(model_folder, about))
    with tempfile.TemporaryDirectory() as staging:
        data = Path(staging, INSIDE.name)  # MLflow names its copy after this
        data.mkdir()
        for name in (WEIGHTS, DESCRIPTION):
            (data / name).symlink_to((model_folder / name).resolve())
        mlflow.pyfunc.save_model(
            str(out),
            loader_module=__name__,
            data_path=str(data),
            code_paths=[str(PROJECT / package) for package in CODE],
            pip_requirements=requirements(),
            signature=signature(served, about),
            metadata={key: about[key] for key in ("system", "version", "target", "snapshot") if about.get(key)},
        )
    return out


def signature(served: ServedModel, about: dict[str, Any]) -> ModelSignature:
    """The shapes and types of what goes in and comes out, -1 for what may vary; learnt from one blank image."""
    dtype, channels, grid = image_type(about)
    shape = (channels, *(SOME_SIDE if side == -1 else side for side in grid))
    predicted = served.predict({IMAGE: np.zeros((1, *shape), dtype)})
    varies = -1 in grid
    outputs = [
        TensorSpec(array.dtype, (-1, *(-1 if varies else side for side in array.shape[1:])), name)
        for name, array in predicted.items()
    ]
    return ModelSignature(Schema([TensorSpec(dtype, (-1, channels, *grid), IMAGE)]), Schema(outputs))


def image_type(about: dict[str, Any]) -> tuple[np.dtype[Any], int, tuple[int, ...]]:
    """Dtype, channels and grid of the images of the model's cohort, -1 along an axis where they differ in size.

    A model saved before `image` was written down took square photographs.
    """
    known = about.get(IMAGE)
    if known:
        grid = known["grid"] or [-1] * len(known["dims"])
        return np.dtype(known["dtype"]), len(known["channels"]), tuple(grid)
    try:
        network = about["config"]["network"]
        return np.dtype(np.uint8), network["in_channels"], (network["size"],) * 2
    except KeyError as error:
        raise ModelError(f"the model {about['version']} does not say what images it takes ({error})") from error


def requirements() -> list[str]:
    """What a server of the model needs, in the versions that made it."""
    return [f"{package}=={Version(version(package)).public}" for package in PACKAGES]


def _load_pyfunc(data_path: str) -> ServedModel:
    """What MLflow calls to load a model."""
    return ServedModel(load_model(Path(data_path)))
