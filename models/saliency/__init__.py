"""Where does the score come from? Saliency methods for any torch model, batched, in two and three dimensions.

Each method is `(model, image, target) -> Explanation` and leaves the model as it was; `SALIENCY` names them.
"""

from models.saliency.explanation import Explanation, Method, Sign, attribution_map
from models.saliency.grad_cam import grad_cam
from models.saliency.gradient import gradient
from models.saliency.guided_backprop import guided_backprop
from models.saliency.smoothgrad import smoothgrad
from models.saliency.targets import Target, class_logit, negated, regression_output

SALIENCY: dict[str, Method] = {
    "gradient": gradient,
    "guided_backprop": guided_backprop,
    "grad_cam": grad_cam,
    "smoothgrad": smoothgrad,
}
ONLY_POSITIVE = ("grad_cam",)


def default_sign(name: str) -> Sign:
    """The part of a method's attribution that marks lesions unless the user says otherwise.

    Negative for gradients (the iterative-refinement paper, section 2.2); positive for maps that have no other part.
    """
    return "positive" if name in ONLY_POSITIVE else "negative"


__all__ = [
    "ONLY_POSITIVE",
    "SALIENCY",
    "Explanation",
    "Method",
    "Sign",
    "Target",
    "attribution_map",
    "class_logit",
    "default_sign",
    "grad_cam",
    "gradient",
    "guided_backprop",
    "negated",
    "regression_output",
    "smoothgrad",
]
