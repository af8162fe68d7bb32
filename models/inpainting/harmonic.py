"""harmonic — the smoothest filling: the solution of Laplace's equation between the mask's borders.

    Σ_{v ∈ N(u)} (x(u) − x(v)) = 0  for every masked u, x(v) given for unmasked v

N(u) are the four neighbours that lie in the image, so nothing flows over the image's border. The system is sparse and
symmetric; one LU factorisation serves all channels. A linear ramp comes back exactly.
"""

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def harmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`image` (H, W, C) of any type with `mask` (H, W) filled; with an empty or a full mask it comes back as it is."""
    if not mask.any() or mask.all():
        return image.copy()
    laplacian, boundary = _laplace_system(image.astype(np.float64), mask)
    filled = image.copy()
    filled[mask] = _as_type(splu(laplacian).solve(boundary), image.dtype)
    return filled


def _laplace_system(image: np.ndarray, mask: np.ndarray) -> tuple[csc_array, np.ndarray]:
    """The matrix (n, n) over the n masked pixels and the right-hand side (n, C), their unmasked neighbours' sum."""
    y, x = np.nonzero(mask)
    number = np.full(mask.shape, -1)
    number[y, x] = np.arange(len(y))
    degree, boundary = np.zeros(len(y)), np.zeros((len(y), image.shape[2]))
    rows, columns = [], []
    for dy, dx in STEPS:
        inside = (y + dy >= 0) & (y + dy < mask.shape[0]) & (x + dx >= 0) & (x + dx < mask.shape[1])
        own, ny, nx = np.nonzero(inside)[0], (y + dy)[inside], (x + dx)[inside]
        masked = mask[ny, nx]
        degree[own] += 1
        boundary[own[~masked]] += image[ny[~masked], nx[~masked]]
        rows.append(own[masked])
        columns.append(number[ny, nx][masked])
    return _symmetric(degree, np.concatenate(rows), np.concatenate(columns)), boundary


def _symmetric(degree: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> csc_array:
    """`degree` on the diagonal, −1 at each pair of neighbours."""
    diagonal = np.arange(len(degree))
    values = np.concatenate([degree, -np.ones(len(rows))])
    places = (np.concatenate([diagonal, rows]), np.concatenate([diagonal, columns]))
    return csc_array(coo_array((values, places), shape=(len(degree), len(degree))))


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded and clipped to the range of an integer `dtype`."""
    if not np.issubdtype(dtype, np.integer):
        return np.asarray(values, dtype=dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), limits.min, limits.max), dtype=dtype)
