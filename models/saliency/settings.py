"""Saliency methods by name, with their settings checked and bound."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ConfigDict, create_model

from models.config import Config, validated
from models.errors import ModelError
from models.saliency.cam import cam
from models.saliency.deeplift import deeplift
from models.saliency.explanation import Explanation, Method, Sign
from models.saliency.grad_cam import grad_cam
from models.saliency.grad_cam_plus_plus import grad_cam_plus_plus
from models.saliency.gradient import gradient
from models.saliency.guided_backprop import guided_backprop
from models.saliency.guided_grad_cam import guided_grad_cam
from models.saliency.integrated_gradients import integrated_gradients
from models.saliency.occlusion import occlusion
from models.saliency.pathology_aware import pathology_aware
from models.saliency.rise import rise
from models.saliency.smoothgrad import smoothgrad

SALIENCY: dict[str, Method] = {
    "gradient": gradient,
    "guided_backprop": guided_backprop,
    "smoothgrad": smoothgrad,
    "cam": cam,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "guided_grad_cam": guided_grad_cam,
    "integrated_gradients": integrated_gradients,
    "deeplift": deeplift,
    "occlusion": occlusion,
    "rise": rise,
    "pathology_aware": pathology_aware,
}
GRADIENTS = ("gradient", "guided_backprop", "smoothgrad", "guided_grad_cam")
ONLY_POSITIVE = ("grad_cam", "grad_cam_plus_plus", "pathology_aware")
FROM_CODE_ONLY = ("generator", "method")


def default_sign(name: str) -> Sign:
    """The part of a method's attribution that marks lesions unless the user says otherwise.

    Negative for gradients (the iterative-refinement paper, section 2.2): a lesion is what would lower the score if it
    were brighter. Positive for evidence, which is in units of the score.
    """
    return "negative" if name in GRADIENTS else "positive"


def saliency_method(name: str, settings: Mapping[str, Any] = {}) -> Method:
    """The method called `name` with its keyword `settings` bound; ModelError for an unknown name or a wrong setting."""
    if name not in SALIENCY:
        raise ModelError(f"no saliency method is called '{name}'; there are: {', '.join(SALIENCY)}")
    if not settings:
        return SALIENCY[name]
    known = settings_of(SALIENCY[name])
    if unknown := sorted(set(settings) - set(known.model_fields)):
        has = f"it has: {', '.join(known.model_fields)}" if known.model_fields else "it has none"
        raise ModelError(f"{name} has no setting '{unknown[0]}'; {has}")
    checked = validated(known, dict(settings), where=f"saliency_settings of {name}")
    bound: Callable[..., Explanation] = partial(SALIENCY[name], **{key: getattr(checked, key) for key in settings})
    return bound


def settings_of(method: Callable[..., Explanation]) -> type[Config]:
    """The keyword parameters of a method as a configuration, with their types, ranges and defaults."""
    fields: dict[str, Any] = {
        one.name: (one.annotation, one.default)
        for one in inspect.signature(method).parameters.values()
        if one.kind is one.KEYWORD_ONLY and one.name not in FROM_CODE_ONLY
    }
    return create_model("Settings", __base__=_Settings, **fields)


class _Settings(Config):
    model_config = ConfigDict(arbitrary_types_allowed=True)  # `layer` may be a module
