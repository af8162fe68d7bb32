"""DeepLIFT's rules on the graph of one forward pass over images and their baselines, stacked as one batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency.hooks import graph_nodes, refuse_scripted

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus)
POOLS: dict[type[nn.Module], Callable[..., tuple[Tensor, Tensor]]] = {
    nn.MaxPool2d: F.max_pool2d_with_indices,
    nn.MaxPool3d: F.max_pool3d_with_indices,
}
SAME = 1e-10  # a smaller difference than any that rounding leaves between two values of a network
LINEAR = frozenset(
    (
        *("AccumulateGrad", "Add", "Addmm", "Convolution", "Mean", "Mm", "Neg", "Sub", "Sum"),
        *("AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "AvgPool2D", "AvgPool3D"),
        *("CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm"),
        *("Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd", "Expand", "Index", "Permute", "Repeat"),
        *("ReflectionPad2D", "ReplicationPad2D", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes"),
        *("Squeeze", "Stack", "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View"),
        *("UpsampleBilinear2D", "UpsampleNearest2D", "UpsampleNearest3D", "UpsampleTrilinear3D"),
    )
)
ONE_FACTOR = ("Div", "Mul")  # linear where only one of the two depends on the image
Rule = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def rescaled(model: nn.Module) -> Iterator[set[Node]]:
    """Every call of an activation and of max-pooling passes multipliers back; gives the graph nodes that do.

    The first half of a batch are images, the second their baselines; multipliers flow to the first half alone.
    """
    rules: set[Node] = set()
    entered: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered[module] = inputs[0].detach().clone()  # a module in place is about to overwrite it

    def leave(module: nn.Module, _inputs: object, output: Tensor) -> None:
        before, node = entered.pop(module), output.grad_fn
        if node is not None and not is_linear(node):
            rules.add(node)
            node.register_hook(_through(rule_of(module, before, output.detach())))

    refuse_scripted(model)
    hooked = [module for module in model.modules() if isinstance(module, (*ACTIVATIONS, *POOLS))]
    handles = [module.register_forward_pre_hook(enter) for module in hooked]
    handles += [module.register_forward_hook(leave) for module in hooked]
    try:
        yield rules
    finally:
        for handle in handles:
            handle.remove()


def rule_of(module: nn.Module, before: Tensor, after: Tensor) -> Rule:
    """How multipliers of this call's output become those of its input, both of images only.

    A rule gets the derivative by the input, for places without a difference, and the multipliers of the output.
    """
    (image_in, start_in), (image_out, start_out) = before.chunk(2), after.chunk(2)
    difference = image_in - start_in
    same = difference.abs() < SAME
    divisor = torch.where(same, 1, difference)
    if isinstance(module, ACTIVATIONS):
        slope = (image_out - start_out) / divisor
        return lambda derivative, multipliers: torch.where(same, derivative, multipliers * slope)
    higher = torch.maximum(image_out, start_out)
    image_at, start_at = maxima(module, image_in), maxima(module, start_in)

    def shared(derivative: Tensor, multipliers: Tensor) -> Tensor:
        gained = gathered(multipliers * (higher - start_out), image_at, difference)
        lost = gathered(multipliers * (image_out - higher), start_at, difference)
        return torch.where(same, derivative, (gained + lost) / divisor)

    return shared


def maxima(pool: nn.Module, values: Tensor) -> Tensor:
    """Where in the flattened grid of `values` (B, C, *grid) each window of `pool` has its maximum."""
    function = next(POOLS[kind] for kind in POOLS if isinstance(pool, kind))
    settings = [getattr(pool, name) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
    return function(values, *settings)[1].flatten(2)


def gathered(windows: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """What every place of a grid `like` gets from the windows that have their maximum there."""
    total = torch.zeros_like(like).flatten(2)
    return total.scatter_add(2, places, windows.flatten(2)).reshape(like.shape)


def _through(rule: Rule) -> Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor | None, ...]]:
    """A hook on a graph node that follows `rule`; nothing flows to the baselines."""

    def hook(inner: tuple[Tensor, ...], outer: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        passed = rule(inner[0].chunk(2)[0], outer[0].chunk(2)[0])
        return (torch.cat([passed, torch.zeros_like(passed)]), *inner[1:])

    return hook


def refuse_unscaled(score: Tensor, rules: set[Node], model: nn.Module) -> None:
    """ModelError if an operation between input and score is neither linear nor has a rule."""
    for node in graph_nodes(score):
        if node in rules or is_linear(node):
            continue
        raise ModelError(
            f"DeepLIFT has no rule for {node.name()}, which {type(model).__name__} runs: "
            "make it a module of a known kind (nn.ReLU, …), or use the saliency method 'integrated_gradients'"
        )


def is_linear(node: Node) -> bool:
    """Whether its outputs differ in proportion to its inputs, so that its gradient is the multiplier."""
    kind = kind_of(node)
    if kind in ONE_FACTOR:
        return sum(following is not None for following, _ in node.next_functions) == 1
    by_batch_statistics = getattr(node, "_saved_training", False)  # as instance normalisation runs
    return kind in LINEAR and not by_batch_statistics


def kind_of(node: Node) -> str:
    """`Convolution` for ConvolutionBackward0."""
    return node.name().rsplit("::", 1)[-1].rsplit("Backward", 1)[0]
