"""Which number is explained: a target turns the model's output (B, K) into one score a case (B,)."""

from collections.abc import Callable

from torch import Tensor

from models.errors import ModelError

Target = Callable[[Tensor], Tensor]


def regression_output() -> Target:
    """The only output of a regressor, (B,) or (B, 1)."""

    def score(output: Tensor) -> Tensor:
        if output.dim() > 1 and output[0].numel() != 1:
            raise ModelError(f"the model has outputs of shape {tuple(output[0].shape)}, not one: use class_logit(k)")
        return output.reshape(len(output))

    return score


def class_logit(k: int) -> Target:
    """Output number `k` of a classifier (B, K), before any softmax."""

    def score(output: Tensor) -> Tensor:
        if output.dim() != 2 or not 0 <= k < output.shape[1]:
            raise ModelError(f"there is no class {k} in an output of shape {tuple(output.shape)} (cases, classes)")
        return output[:, k]

    return score


def negated(target: Target) -> Target:
    """The same score with its sign turned, so that lesions that raise it push the explanation down."""
    return lambda output: -target(output)
