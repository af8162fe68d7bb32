"""Where does the score come from? Saliency methods for any torch model, batched, in two and three dimensions.

Each method is `(model, image, target, **settings) -> Explanation` and leaves the model as it was; `SALIENCY` names
them, `saliency_method` binds their settings.
"""

from models.saliency.cam import cam
from models.saliency.deeplift import deeplift
from models.saliency.explanation import Explanation, Method, Sign, attribution_map
from models.saliency.grad_cam import grad_cam
from models.saliency.grad_cam_plus_plus import grad_cam_plus_plus
from models.saliency.gradient import gradient
from models.saliency.guided_backprop import guided_backprop
from models.saliency.guided_grad_cam import guided_grad_cam
from models.saliency.integrated_gradients import integrated_gradients
from models.saliency.occlusion import occlusion
from models.saliency.pathology_aware import PathologyMaps, pathology_aware, pathology_maps
from models.saliency.rise import rise
from models.saliency.settings import ONLY_POSITIVE, SALIENCY, default_sign, saliency_method, settings_of
from models.saliency.smoothgrad import smoothgrad
from models.saliency.targets import Target, class_logit, negated, regression_output

__all__ = [
    "ONLY_POSITIVE",
    "SALIENCY",
    "Explanation",
    "Method",
    "PathologyMaps",
    "Sign",
    "Target",
    "attribution_map",
    "cam",
    "class_logit",
    "deeplift",
    "default_sign",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "negated",
    "occlusion",
    "pathology_aware",
    "pathology_maps",
    "regression_output",
    "rise",
    "saliency_method",
    "settings_of",
    "smoothgrad",
]
