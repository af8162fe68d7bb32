"""guided backpropagation — the gradient along paths that were switched on and that speak for the score.

Springenberg, Dosovitskiy, Brox and Riedmiller (2015), section 3.4; at every ReLU f = relu(x), backwards:

    R_x = 1[x > 0] · 1[R_f > 0] · R_f

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, C, *spatial), score per unit of input; of either sign, since the first layer's weights are
"""

from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.gradient import derivative, leaf, scored
from models.saliency.hooks import evaluation, guided_relus, refuse_functional_relus
from models.saliency.targets import Target


def guided_backprop(model: nn.Module, image: Tensor, target: Target) -> Explanation:
    """Guides every nn.ReLU (other activations keep their gradient); a ReLU that is no module raises ModelError."""
    with evaluation(model), guided_relus(model) as guided:
        pixels = leaf(image)
        score = scored(model, pixels, target)
        refuse_functional_relus(score, guided, model)
        return Explanation(score.detach(), derivative(score, pixels))
