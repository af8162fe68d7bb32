"""DeepLIFT — how much of the score's difference from a baseline goes through each pixel?

Shrikumar, Greenside and Kundaje (2017), section 3.5.1 (the Rescale rule). With Δ the difference between the image's
value and the baseline's, multipliers m run backwards like gradients, through linear layers as gradients do and

    through an activation f        m_in = m_out · Δf / Δin        (f′ where Δin is 0)
    through max-pooling            Σ_in m_in Δin = m_out · Δout   (shared by the two inputs that were the maxima)
    a(u) = Σ_c m_c(u) Δx_c(u),     Σ_u a(u) = y(x) − y(x')        (equation 1, summation to delta)

Each call of an activation has a rule of its own, so that in-place ReLUs, a ReLU used twice and residual sums are no
special cases. captum's DeepLift agrees with this where there is no max-pooling behind a ReLU. Where there is, it misses
the pooling's rule, and where windows overlap it overwrites shares, so that its sums are not y(x) − y(x'); at a module
that is used twice, as in MONAI's ResNet, it raises. Its LRP takes a residual sum for a plain gradient: on a ResNet-18
the relevance of a score of −0.3 grew to −4·10¹⁵. So there is no LRP here.

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) of either sign, in units of the score
"""

import torch
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.gradient import derivative, leaf, scored
from models.saliency.hooks import evaluation
from models.saliency.perturbation import Fill, filling
from models.saliency.rescaling import refuse_unscaled, rescaled
from models.saliency.targets import Target


def deeplift(model: nn.Module, image: Tensor, target: Target, *, baseline: Fill = "darkest") -> Explanation:
    """One forward and backward pass of twice the batch; `baseline` x': see `perturbation.filling`.

    ModelError for a network with a layer that no rule is known for, such as a softmax or instance normalisation.
    """
    with evaluation(model), rescaled(model) as rules:
        pixels = leaf(image)
        start = filling(pixels.detach(), baseline).expand_as(pixels)
        both = scored(model, torch.cat([pixels, start]), target)
        refuse_unscaled(both, rules, model)
        score = both[: len(image)]
        multipliers = derivative(score, pixels)
        return Explanation(score.detach(), (multipliers * (pixels.detach() - start)).sum(dim=1, keepdim=True))
