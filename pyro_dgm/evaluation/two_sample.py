"""Two-sample tests: are two sets of samples from one distribution?

Given x_1, ..., x_n ~ P and y_1, ..., y_m ~ Q, and no density, decide whether P = Q. This is the way to
judge an implicit model (P the data, Q the model), and a way to judge the sampler of any other.

Two answers are offered, which fail differently:

    c2st   the accuracy of a classifier trained to tell x from y: 1/2 if P = Q, up to 1 if they are
           disjoint. It finds structure by itself, but needs hundreds of samples and up to a minute.
    mmd    the squared maximum mean discrepancy, zero if and only if P = Q for a Gaussian kernel k of
           bandwidth h,

               MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(a, b) = exp(-|a - b|^2 / (2 h^2)).

           It is quick and has an exact permutation test, but sees only differences on the scale h, and
           little in high dimensions, where all distances are alike.

Samples are flattened to vectors first; for images pass features of a network
(`embed`), not pixels.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..objectives.discrepancy import RBF
from .vectors import blocks, flat, pair

_MAX_WIDTH = 256  # widest classifier, reached at 26 dimensions
_MEDIAN_POINTS = 1000  # points used for the median heuristic


class C2ST(NamedTuple):
    """Result of a classifier two-sample test.

    Attributes:
        accuracy: held-out accuracy of the classifier, 0.5 (same distribution) to 1 (disjoint).
        standard_error: binomial standard error of the accuracy.
    """

    accuracy: float
    standard_error: float


def c2st(x: Tensor, y: Tensor, folds: int = 5, seed: int = 0) -> C2ST:
    """Classifier two-sample test: how well can a small neural network tell x from y?

    A perceptron with two hidden layers of min(10 D, 256) ReLU units is trained (at most 1000 epochs) on all
    but one fold and scored on that fold, for each fold; both sets are standardised by the mean and standard
    deviation of x. Under P = Q the accuracy a is 1/2 up to its standard error, given as the binomial
    sqrt(a (1 - a) / 2n). That is somewhat small, as folds share training data: the spread measured over 100
    pairs of equal sets (n = 200, D = 2) was 1.3 times as large.

    References:
        David Lopez-Paz, Maxime Oquab: Revisiting classifier two-sample tests, 2017, arXiv:1610.06545.
        Jan-Matthis Lueckmann, Jan Boelts, David Greenberg, Pedro Goncalves, Jakob Macke: Benchmarking
        simulation-based inference, 2021, arXiv:2101.04653 (this classifier and this protocol).

    Args:
        x: samples of P, with shape `[n] + event_shape`.
        y: samples of Q, with the same shape, so that chance is 1/2.
        folds: number of cross-validation folds.
        seed: seed of folds and classifier; the global generators are not touched.

    Returns:
        Accuracy and its standard error.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: the shapes differ, or there are fewer samples than folds.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install scikit-learn") from error
    if x.shape != y.shape:
        raise ValueError(
            f"y: expected the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}; "
            "use as many of the one as of the other."
        )
    if not 2 <= folds <= len(x):
        raise ValueError(f"folds: expected 2 to n = {len(x)}, got {folds}.")
    x, y = flat(x, "x"), flat(y, "y")
    mean, sd = x.mean(0), x.std(0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    pool = ((torch.cat([x, y]) - mean) / sd).cpu().numpy()
    labels = torch.arange(2 * len(x), device="cpu").ge(len(x)).numpy()
    width = min(10 * pool.shape[1], _MAX_WIDTH)
    classifier = MLPClassifier((width, width), activation="relu", max_iter=1000, random_state=seed)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # on equal samples there is nothing to learn, and it may never settle
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy = float(cross_val_score(classifier, pool, labels, cv=split, scoring="accuracy").mean())
    return C2ST(accuracy, math.sqrt(accuracy * (1.0 - accuracy) / len(pool)))


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Tensor:
    r"""Unbiased estimate of the squared maximum mean discrepancy with a Gaussian kernel.

    .. math::
        \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}

    Being unbiased, it is often negative when P = Q. Computed in float64 in blocks: memory is bounded, time is
    O((n + m)^2 D).

    References:
        Arthur Gretton, Karsten Borgwardt, Malte Rasch, Bernhard Schölkopf, Alexander Smola: A kernel
        two-sample test, Journal of Machine Learning Research 13, 2012 (lemma 6).

    Args:
        x: samples of P, with shape `[n] + event_shape`, n >= 2.
        y: samples of Q, with shape `[m] + event_shape`, m >= 2.
        bandwidth: h, in the unit of x. Default: the median distance between points of x and y together
            (from at most about 1000 of them, evenly spaced).

    Returns:
        MMD^2, a scalar without unit, at most 2.

    Raises:
        ValueError: fewer than two samples, different event shapes, or a bandwidth that is not positive.
    """
    pool, labels, h = _pooled(x, y, bandwidth)
    return _mmd_of_labels(pool, labels, h)[0]


def mmd_test(x: Tensor, y: Tensor, permutations: int = 200, seed: int = 0, *, bandwidth: float | None = None) -> float:
    r"""P-value of the hypothesis P = Q, from the MMD under random exchanges of x and y.

    With T_0 the MMD^2 of the samples and T_1, ..., T_B that of random re-labellings of the pooled samples,

    .. math:: p = (1 + \#\{b : T_b \ge T_0\}) / (B + 1),

    which is valid for any sample size. All permutations share one pass over the kernel matrix.

    References:
        Arthur Gretton et al.: A kernel two-sample test, Journal of Machine Learning Research 13, 2012.

    Args:
        x: samples of P, with shape `[n] + event_shape`.
        y: samples of Q, with shape `[m] + event_shape`.
        permutations: B; the smallest possible p-value is 1 / (B + 1).
        seed: seed of the permutations; the global generator is not touched.
        bandwidth: as in `mmd`.

    Returns:
        The p-value; reject P = Q at level 5 % if it is below 0.05.

    Raises:
        ValueError: as in `mmd`, or permutations is less than 1.
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}.")
    pool, labels, h = _pooled(x, y, bandwidth)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    orders = [torch.randperm(len(pool), generator=generator, device="cpu") for _ in range(permutations)]
    shuffled = labels[torch.stack(orders, dim=1).to(pool.device), 0]
    t = _mmd_of_labels(pool, torch.cat([labels, shuffled], dim=1), h)
    ties = 1e-12 * t.abs().max()  # equal up to rounding counts as equal
    return (1 + t[1:].ge(t[0] - ties).sum().item()) / (permutations + 1)


def _pooled(x: Tensor, y: Tensor, bandwidth: float | None) -> tuple[Tensor, Tensor, float]:
    """Pooled samples `[n + m, D]`, centred; labels `[n + m, 1]`, one for x; and the bandwidth."""
    x, y = pair(x, y, least=2)
    pool = torch.cat([x, y])
    h = _median_distance(pool) if bandwidth is None else bandwidth
    if not h > 0:
        raise ValueError(
            f"bandwidth: expected a positive number, got {h}; where many samples are equal, "
            "the median distance is no guide: pass bandwidth."
        )
    labels = torch.cat([pool.new_ones(len(x), 1), pool.new_zeros(len(y), 1)])
    return pool, labels, h


def _median_distance(pool: Tensor) -> float:
    step = math.ceil(len(pool) / _MEDIAN_POINTS)
    return torch.nn.functional.pdist(pool[::step]).median().item()


def _mmd_of_labels(pool: Tensor, labels: Tensor, h: float) -> Tensor:
    """MMD^2 `[B]` for each column of `labels` `[n + m, B]`, in one pass over blocks of rows of the kernel K.

    With l a column of labels, the sums over pairs are xx = l'K l, xy = l'K 1 - xx and yy = 1'K 1 - xx - 2 xy.
    """
    n = labels[:, 0].sum()
    m = len(pool) - n
    columns = torch.cat([labels, torch.ones_like(labels[:, :1])], dim=1)
    xx, x_all, total = 0.0, 0.0, 0.0
    for points, marks in zip(blocks(pool, len(pool)), blocks(labels, len(pool)), strict=True):
        sums = RBF(h)(points, pool) @ columns
        xx = xx + (marks * sums[:, :-1]).sum(0)
        x_all = x_all + marks.T @ sums[:, -1]
        total = total + sums[:, -1].sum()
    xy = x_all - xx
    yy = total - xx - 2 * xy
    return (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m)
