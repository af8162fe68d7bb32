"""Maps of a layer inside a network: its activation, the derivative of the score by it, and back to the input's grid."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency.explanation import Explanation
from models.saliency.gradient import derivative, leaf, scored
from models.saliency.hooks import CONVOLUTIONS, NORMALISATIONS, activations, evaluation, last_activation
from models.saliency.means import MeanOfMembers, mean_explanation
from models.saliency.targets import Target

Layer = str | nn.Module | None
Combine = Callable[[Tensor, Tensor], Tensor]
CONVOLUTIONAL = (*CONVOLUTIONS, *NORMALISATIONS, nn.ReLU)


def explained_at_layer(
    model: nn.Module,
    image: Tensor,
    target: Target,
    layer: Layer,
    combine: Combine,
    kinds: tuple[type[nn.Module], ...] = CONVOLUTIONAL,
) -> Explanation:
    """`combine` of a layer's activation and of ∂y/∂A, (B, K, *places) each → (B, 1, *places), on the input's grid.

    `layer` is a module of `model` or its dotted name; None: the last of `kinds` that runs on more than one pixel. A
    mean of models, each with such a layer of its own, gets the mean of their maps.
    """
    if isinstance(model, MeanOfMembers) and not isinstance(layer, nn.Module):
        each = (explained_at_layer(member, image, target, layer, combine, kinds) for member in model.members)
        return mean_explanation(each)
    with evaluation(model), last_activation(chosen_layers(model, layer, kinds)) as kept:
        score = scored(model, leaf(image), target)
        if not kept:
            raise no_activation(model, layer)
        (activation,) = kept
        coarse = combine(activation.detach(), derivative(score, activation))
        return Explanation(score.detach(), on_grid(coarse, image.shape[2:]))


def chosen_layers(model: nn.Module, layer: Layer, kinds: tuple[type[nn.Module], ...]) -> Iterable[nn.Module]:
    """The one layer that was named, or all of the `kinds`; ModelError where there is none of that name."""
    if isinstance(layer, nn.Module):
        return [layer]
    if layer is None:
        return [module for module in model.modules() if isinstance(module, kinds)]
    known = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    try:
        return [model.get_submodule(layer)]
    except AttributeError as error:
        raise ModelError(
            f"{type(model).__name__} has no layer '{layer}'; it has, among others: {', '.join(known[-5:])}"
        ) from error


def scored_with_activations(
    model: nn.Module, pixels: Tensor, target: Target, names: Sequence[str], *, differentiable: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """y (B,) and the activation (B, K, *places) of each layer called one of `names`; without any, of the last one.

    The last is the one that `explained_at_layer` finds. For use under `evaluation`. ModelError for a name that is not
    there or did not run.
    """
    if not names:
        with last_activation(chosen_layers(model, None, CONVOLUTIONAL), differentiable=differentiable) as last:
            score = scored(model, pixels, target)
        if not last:
            raise no_activation(model, None)
        return score, last
    modules = {name: module for name in names for module in chosen_layers(model, name, CONVOLUTIONAL)}
    with activations(modules.values()) as kept:
        score = scored(model, pixels, target)
    if missing := [name for name, module in modules.items() if module not in kept]:
        raise no_activation(model, missing[0])
    return score, [kept[module] for module in modules.values()]


def no_activation(model: nn.Module, layer: Layer) -> ModelError:
    """That `layer`, or any, did not run on more than one pixel."""
    return ModelError(
        "a map of activations needs a convolution with an output of more than one pixel; "
        f"{type(model).__name__} ran none" + (f" as {layer}" if isinstance(layer, str) else "")
    )


def on_grid(coarse: Tensor, spatial: torch.Size) -> Tensor:
    """Linear interpolation of (B, 1, *places) to (B, 1, *spatial), in as many dimensions as there are."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(spatial)]
    return F.interpolate(coarse, size=tuple(spatial), mode=mode, align_corners=False)
