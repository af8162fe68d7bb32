"""The files of a stage, written whole or not at all, each checkpoint named by its place and its own SHA-256.

A stage's folder holds `<epoch>-<batch>-<digest>.ckpt` (all that is needed to go on), `best-<digest>.safetensors` (the
system's weights after its best epoch) and, once it is over, `finished.safetensors` (the weights it hands on).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tasks.errors import TrainingError
from tasks.reuse import file_digest

FINISHED = "finished.safetensors"
DIGEST = 16


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage, the newest first."""
    return sorted(folder.glob("[0-9]*-*-*.ckpt"), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose content is what it was when written."""
    return next((file for file in checkpoints(folder) if _is_whole(file)), None)


def forget_mid_epoch(folder: Path) -> None:
    """Drop the checkpoints inside an epoch, whose positions count parts of batches that are now of another size."""
    for file in checkpoints(folder):
        if int(file.name.split("-")[1]):
            file.unlink()


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> Path:
    """Weights without pickle, whole or not at all; of tensors that share memory each gets its own copy."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    with replacing(file) as partial:
        save_file(plain, partial)
    return file


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it becomes `file` when all of it is on the disk, and is gone otherwise.

    Raises:
        TrainingError: it could not be written, such as on a full disk.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _to_disk(partial)
        partial.replace(file)
        _to_disk(file.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{file} could not be written ({reason}); what was there before is whole") from error
    finally:
        partial.unlink(missing_ok=True)


def digest_named(file: Path) -> Path:
    """`file` with the first digits of its content's SHA-256 in its name."""
    return file.with_name(f"{file.stem}-{file_digest(file)[:DIGEST]}{file.suffix}")


def _is_whole(file: Path) -> bool:
    return file_digest(file)[:DIGEST] == file.stem.rpartition("-")[2]


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
