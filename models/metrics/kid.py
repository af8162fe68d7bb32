"""kid — do two sets of images look as if they came from one distribution? The kernel inception distance.

Bińkowski, Sutherland, Arbel and Gretton (ICLR 2018), section 3: the squared maximum mean discrepancy of features x_i of
m real and y_j of n synthesised images, by its unbiased estimate, with a cubic kernel over F features:

    k(x, y) = (xᵀy / F + 1)³                                                    (1)
    KID = 1/m(m−1) Σ_{i≠i'} k(x_i, x_i') + 1/n(n−1) Σ_{j≠j'} k(y_j, y_j') − 2/mn Σ_{i,j} k(x_i, y_j)

It is 0 in the mean over sets of one distribution, so that it can be below 0, whatever their sizes. The paper's features
are those of an Inception network; KIDs of other features are on another scale, and can be compared among themselves.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DEGREE = 3


def kernel_inception_distance(real: npt.ArrayLike, synthesised: npt.ArrayLike) -> float:
    """KID of features (M, F) and (N, F); NaN where a set has fewer than two images."""
    x, y = np.asarray(real, np.float64), np.asarray(synthesised, np.float64)
    if min(len(x), len(y)) < 2:
        return float("nan")
    return float(_mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _kernel(x, y).mean())


def _kernel(x: Floats, y: Floats) -> Floats:
    """Equation (1), of all pairs: (M, N)."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** DEGREE)


def _mean_of_pairs(x: Floats) -> float:
    """The mean of the kernel over pairs of two different images."""
    kernel, count = _kernel(x, x), len(x)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
