"""Items into batches, and batches onto the device ahead of their use."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from storage.loading.cases import Item
from storage.loading.failures import explained


def padded_batch(items: Sequence[Item | list[Item]]) -> dict[str, Any]:
    """A batch of items that differ in shape: each tensor is followed by zeros up to the largest of its key.

    Items may be lists of items, which MONAI's RandCropByPosNegLabeld makes. `case` tells whose shape one had.
    """
    flat = [one for item in items for one in (item if isinstance(item, list) else [item])]
    largest = {key: _largest([item[key] for item in flat]) for key, value in flat[0].items() if _has_axes(value)}
    padded = [{**item, **{key: _padded(item[key], shape) for key, shape in largest.items()}} for item in flat]
    batch: dict[str, Any] = default_collate(padded)
    return batch


def prefetched(batches: Iterable[Any], device: str | torch.device) -> Iterator[Any]:
    """`batches` with all their tensors on `device`; failures of the loader are LoadingErrors of one line.

    The next batch travels on a CUDA stream of its own while the current one is used, so two are on the device. A loader
    with `pin_memory=True` pins in a thread of its own, which saves pinning here. On a CPU batches pass through.
    """
    place = torch.device(device)
    if place.type != "cuda":
        yield from explained(batches)
        return
    stream, ahead = torch.cuda.Stream(place), None
    for batch in explained(batches):
        coming = _sent(batch, place, stream)
        if ahead is not None:
            yield _arrived(*ahead, place)
        ahead = coming
    if ahead is not None:
        yield _arrived(*ahead, place)


def _sent(batch: Any, device: torch.device, stream: torch.cuda.Stream) -> tuple[Any, torch.cuda.Event]:
    def send(tensor: Tensor) -> Tensor:
        pinned = tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)

    with torch.cuda.stream(stream):
        moved = _mapped(batch, send)
        return moved, stream.record_event()


def _arrived(batch: Any, event: torch.cuda.Event, device: torch.device) -> Any:
    """`batch`, safe to use on the current stream, whose memory is not given away while that stream uses it."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)

    def keep(tensor: Tensor) -> Tensor:
        tensor.record_stream(current)
        return tensor

    return _mapped(batch, keep)


def _mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: _mapped(value, change) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [_mapped(value, change) for value in batch]
    return batch


def _has_axes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _largest(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(max(lengths) for lengths in zip(*(tensor.shape for tensor in tensors), strict=True))


def _padded(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    whole = tensor.new_zeros(shape)
    whole[tuple(slice(0, length) for length in tensor.shape)] = tensor
    return whole
