"""The one place that touches a model to look inside it, and that leaves it as it was, also after an exception.

A model under one of these contexts belongs to one thread.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from models.errors import ModelError

RELU_NODE = "ReluBackward0"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d, nn.InstanceNorm3d)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients on and parameters frozen; each module's mode and each parameter's flag comes back.

    Frozen parameters spare the backward pass the weights' gradients, and the forward pass what it would keep for them.
    Works under `no_grad` and `inference_mode` (Lightning's predict loop), too.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            model.eval()
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
            for module, training in modes:
                module.training = training


@contextmanager
def guided_relus(model: nn.Module) -> Iterator[set[Node]]:
    """Every nn.ReLU, by type, passes back the positive part of its gradient only; gives the graph nodes that do.

    What is hooked is the node of each call in the graph, so an in-place ReLU and a module used twice are no special
    cases, and a path around the ReLU keeps its gradient. ModelError where a call has no node of its own.
    """
    guided: set[Node] = set()

    def guide(module: nn.Module, _inputs: object, output: Tensor) -> None:
        node = output.grad_fn
        if node is None:
            return
        if node.name() != RELU_NODE:
            raise ModelError(
                f"{module} runs as {node.name()}, overridden or in place on part of a tensor, and can't be guided: "
                "make it nn.ReLU(inplace=False), or use the saliency method 'gradient'"
            )
        guided.add(node)
        node.register_hook(_positive_part)

    refuse_scripted(model)
    handles = [module.register_forward_hook(guide) for module in model.modules() if isinstance(module, nn.ReLU)]
    try:
        yield guided
    finally:
        for handle in handles:
            handle.remove()


def _positive_part(outgoing: tuple[Tensor, ...], _incoming: object) -> tuple[Tensor, ...]:
    """The positive part of 1[x > 0] · R, in place: a ReLU's backward pass has just made this tensor for nobody else."""
    return (outgoing[0].clamp_min_(0),)


def refuse_scripted(model: nn.Module) -> None:
    """ModelError where TorchScript hides the ReLUs."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} is TorchScript, whose ReLUs can't be guided: load the model as Python code"
        )


def refuse_functional_relus(score: Tensor, guided: set[Node], model: nn.Module) -> None:
    """ModelError if a ReLU that is no module lies between input and score: it would silently get the plain gradient."""
    for node in graph_nodes(score):
        if node.name() == RELU_NODE and node not in guided:
            raise ModelError(
                f"{type(model).__name__} calls a functional ReLU (F.relu or torch.relu), which can't be guided: "
                "make it an nn.ReLU module, or use the saliency method 'gradient'"
            )


def graph_nodes(tensor: Tensor) -> Iterator[Node]:
    """Every node of the autograd graph behind `tensor`, once."""
    seen: set[Node] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
            yield node


@contextmanager
def last_activation(layers: Iterable[nn.Module], *, differentiable: bool = False) -> Iterator[list[Tensor]]:
    """Keep the output of whichever of `layers` runs last on more than one pixel; the graph starts there, at a leaf.

    With `differentiable` it goes on from there to the image.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, output: Tensor) -> Tensor:
        kept[:] = [_in_graph(output) if differentiable else output.detach().requires_grad_()]
        return kept[0]

    with _outputs_to(keep, layers):
        yield kept


@contextmanager
def activations(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep what each of `layers` last put out on more than one pixel; one graph goes through them all."""
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, output: Tensor) -> Tensor:
        kept[module] = _in_graph(output)
        return kept[module]

    with _outputs_to(keep, layers):
        yield kept


def _in_graph(output: Tensor) -> Tensor:
    """`output`, or where no graph leads to it a leaf with its values."""
    return output if output.requires_grad else output.detach().requires_grad_()


@contextmanager
def _outputs_to(keep: Callable[[nn.Module, Tensor], Tensor], layers: Iterable[nn.Module]) -> Iterator[None]:
    """Hand outputs of more than one pixel to `keep`.

    What follows works on a copy of what it gives back, so that an in-place ReLU does not change what was kept.
    """

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        return None if output[0, 0].numel() == 1 else keep(module, output).clone()

    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
