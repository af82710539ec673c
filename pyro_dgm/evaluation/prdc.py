r"""Precision, recall, density and coverage: are the samples good, and are they diverse?

In the space of a feature network (`embed`), the ball :math:`B(x_i)` around a datum reaches to its k-th nearest
neighbour among the other data; the union of all is an estimate of where the data live, and likewise for the samples
:math:`y_j`.

.. math::
    \text{precision} &= \frac1m \sum_j 1\bigl[y_j \in \textstyle\bigcup_i B(x_i)\bigr] &
    \text{recall} &= \frac1n \sum_i 1\bigl[x_i \in \textstyle\bigcup_j B(y_j)\bigr] \\
    \text{density} &= \frac{1}{k m} \sum_j \sum_i 1\bigl[y_j \in B(x_i)\bigr] &
    \text{coverage} &= \frac1n \sum_i 1\bigl[\exists j: y_j \in B(x_i)\bigr]

Precision and density judge the quality of single samples, recall and coverage their diversity. One outlier among the
data has a ball wide enough to bless bad samples, and one among the samples to raise the recall; density and coverage
use balls around data only, and count them, which outliers hardly change.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..objectives.discrepancy import distances
from .vectors import blocks, centred, pair


class PRDC(NamedTuple):
    """Quality and diversity of samples.

    Attributes:
        precision: share of samples that lie where data are, 0 to 1.
        recall: share of data that lie where samples are, 0 to 1.
        density: mean number of data whose balls hold a sample, over k; 1 for a perfect model, more where samples
            crowd where data are dense.
        coverage: share of data whose ball holds a sample, 0 to 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in self._asdict().items())


def prdc(x: Tensor, y: Tensor, neighbours: int = 5) -> PRDC:
    r"""Precision, recall, density and coverage of samples y of a model, against data x.

    A model whose samples cannot be told from data has expectations that depend on nothing but n, m and k, of density 1
    and of coverage :math:`1 - \prod_{i=1}^k (n - i) / (n + m - i)`, about :math:`1 - 2^{-k}` for n = m. Its precision
    and recall depend on the data. Distances are held in blocks, in float64; time is O((n + m)^2 D).

    References:
        Tuomas Kynkäänniemi, Tero Karras, Samuli Laine, Jaakko Lehtinen, Timo Aila: Improved precision and recall metric
        for assessing generative models, 2019, arXiv:1904.06991 (with k = 3).
        Muhammad Ferjad Naeem, Seong Joon Oh, Youngjung Uh, Yunjey Choi, Jaejun Yoo: Reliable fidelity and diversity
        metrics for generative models, 2020, arXiv:2002.09797 (density and coverage; k = 5).

    Args:
        x: features of data, with shape `[n, D]`; further dimensions are flattened.
        y: features of samples, with shape `[m, D]`.
        neighbours: k, less than n and m.

    Returns:
        The four figures.

    Raises:
        ValueError: shapes differ, something is not finite, or there are no k neighbours.

    Example:
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> print(prdc(x, x))
        precision 1.000, recall 1.000, density 1.200, coverage 1.000
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours}.")
    x, y = centred(*pair(x, y, least=neighbours + 1))
    radii_x, radii_y = _radii(x, neighbours), _radii(y, neighbours)
    balls = torch.zeros(len(y), dtype=torch.long, device=x.device)  # around data, that hold each sample
    covered, recalled = [], []
    for points, radii in zip(blocks(x, len(y)), blocks(radii_x, len(y)), strict=True):
        apart = distances(points, y)  # exact, as ties hang on it
        inside = apart <= radii[:, None]
        balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((apart <= radii_y).any(1))
    return PRDC(
        precision=(balls > 0).double().mean().item(),
        recall=torch.cat(recalled).double().mean().item(),
        density=balls.double().mean().item() / neighbours,
        coverage=torch.cat(covered).double().mean().item(),
    )


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """The distance of each point to its k-th nearest neighbour; the nearest of all is the point itself."""
    nearest = [distances(points, x).kthvalue(neighbours + 1).values for points in blocks(x, len(x))]
    return torch.cat(nearest)
