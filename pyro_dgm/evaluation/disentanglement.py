r"""Disentanglement: does each factor of variation have a unit of its own?

Codes z_1, ..., z_D (posterior means, say) of n data whose discrete factors v_1, ..., v_F are known are scored by

.. math::
    \mathrm{MIG} = \frac1F \sum_k \frac{I(z_{j_1}; v_k) - I(z_{j_2}; v_k)}{H(v_k)}, \qquad
    \mathrm{SAP} = \frac1F \sum_k S_{j_1 k} - S_{j_2 k},

j_1 and j_2 the best and second best unit for factor k, by mutual information (of codes in bins) and by the balanced
accuracy S of a classifier that sees one unit, less that of guessing; and by DCI, which reads importances R_{jk} of unit
j for factor k off predictors that see all units,

.. math::
    \mathrm{disentanglement} = \sum_j \rho_j \Bigl(1 - H_F\bigl(R_{j \cdot} / \textstyle\sum_k R_{jk}\bigr)\Bigr),
    \qquad
    \mathrm{completeness} = \sum_k \pi_k \Bigl(1 - H_D\bigl(R_{\cdot k} / \textstyle\sum_j R_{jk}\bigr)\Bigr),

with entropies to the base of the number of their terms, weights the shares of the importances, and informativeness
the accuracy of the predictors. All are 1 for codes that are the factors, one unit each; rotated codes are as
informative, and score low in the rest.

No score can be trusted to rank models by itself, and without factors to compare with none exists. (Chen, Li, Grosse
and Duvenaud, Isolating sources of disentanglement in variational autoencoders, 2018, arXiv:1802.04942; Kumar,
Sattigeri and Balakrishnan, Variational inference of disentangled latent concepts, 2018, arXiv:1711.00848; Eastwood and
Williams, A framework for the quantitative evaluation of disentangled representations, ICLR 2018.)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class DCI(NamedTuple):
    """Scores of Eastwood and Williams, each at most 1.

    Attributes:
        disentanglement: whether each unit matters to one factor only.
        completeness: whether each factor is in one unit only.
        informativeness: held-out accuracy of predicting the factors from all units, less that of guessing, scaled to
            1 at best.
        importance: R, shape `[D, F]`.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def mig(codes: Tensor, factors: Tensor, bins: int = 20) -> float:
    """Mutual information gap, from 0 to 1.

    Codes are put into bins of equal width between their extremes, as the published figures are; of few data in many
    bins the mutual information is too high, for all units alike.

    Args:
        codes: shape `[n, D]`, D >= 2.
        factors: discrete, shape `[n, F]`, each of at least two values.
        bins: number of bins of a code.

    Returns:
        The mean gap over factors.

    Raises:
        ValueError: a wrong shape, a factor without variation, or fewer than two bins.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(3))
        >>> codes = factors.double()
        >>> round(mig(codes, factors), 4), round(mig(codes @ torch.ones(2, 2).double(), factors), 4)
        (1.0, 0.0)
    """
    codes, classes = _checked(codes, factors)
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, got {bins}.")
    low, high = codes.amin(0), codes.amax(0)
    scaled = (codes - low) / torch.where(high > low, high - low, 1.0)
    binned = _one_hot((scaled * bins).long().clamp(max=bins - 1), bins)  # [n, D, bins]
    gaps = []
    for v in classes:
        joint = torch.einsum("ndb,nk->dbk", binned, v) / len(v)
        entropies = [_entropy(p) for p in (joint.sum(2), joint.sum(1), joint.flatten(1))]
        information, entropy = entropies[0] + entropies[1] - entropies[2], entropies[1][0]
        best = information.topk(2).values
        gaps.append((best[0] - best[1]) / entropy)
    return torch.stack(gaps).mean().item()


def sap(codes: Tensor, factors: Tensor) -> float:
    """Separated attribute predictability: how much better the best unit predicts a factor than the second best.

    The classifier of one unit is a decision tree with as many leaves as the factor has values, which finds thresholds
    (Kumar et al. take a linear one, which finds them for factors of two values), scored by balanced accuracy a on data
    that it has not seen, as (a - 1 / C) / (1 - 1 / C) for C values.

    Args:
        codes: shape `[n, D]`, D >= 2.
        factors: discrete, shape `[n, F]`, each of at least two values.

    Returns:
        The mean difference over factors, from 0 to 1.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: a wrong shape, or a factor without variation.
    """
    codes, classes = _checked(codes, factors)
    try:
        from sklearn.tree import DecisionTreeClassifier
    except ImportError as error:
        raise ImportError("sap needs scikit-learn: pip install scikit-learn") from error
    differences = []
    for v in classes:
        scores = torch.tensor(
            [
                _skill(
                    DecisionTreeClassifier(max_leaf_nodes=v.shape[1], class_weight="balanced", random_state=0), z, v
                )[0]
                for z in codes.split(1, 1)
            ],
            device="cpu",
        )
        best = scores.topk(2).values
        differences.append(best[0] - best[1])
    return torch.stack(differences).mean().item()


def dci(codes: Tensor, factors: Tensor, predictor: Literal["forest", "lasso"] = "forest") -> DCI:
    """Disentanglement, completeness and informativeness, by predictors of each factor that see all units.

    Args:
        codes: shape `[n, D]`, D >= 2.
        factors: discrete, shape `[n, F]`, F >= 2, each of at least two values.
        predictor: "forest", random forests and their importances by impurity; or "lasso", logistic regressions with an
            absolute penalty on standardised codes and the absolute weights.

    Returns:
        The three scores and the importances.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: a wrong shape, a factor without variation, or an unknown predictor.
    """
    codes, classes = _checked(codes, factors)
    if len(classes) < 2:
        raise ValueError("factors: expected at least 2 factors, got 1; with one there is nothing to disentangle.")
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("dci needs scikit-learn: pip install scikit-learn") from error
    if predictor == "forest":
        model = RandomForestClassifier(50, max_depth=8, max_features=None, class_weight="balanced", random_state=0)
    elif predictor == "lasso":
        model = LogisticRegression(l1_ratio=1.0, C=1.0, solver="saga", max_iter=5000, random_state=0)
    else:
        raise ValueError(f"predictor: expected 'forest' or 'lasso', got {predictor!r}.")
    codes = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-12)
    skills, columns = [], []
    for v in classes:
        skill, fitted = _skill(model, codes, v)
        importance = fitted.feature_importances_ if predictor == "forest" else abs(fitted.coef_).sum(0)
        skills.append(skill)
        columns.append(torch.as_tensor(importance, dtype=torch.float64, device="cpu"))
    r = torch.stack(columns, 1)
    r = r / r.sum().clamp(min=1e-12)
    return DCI(_concentration(r), _concentration(r.T), sum(skills) / len(skills), r)


def _concentration(r: Tensor) -> float:
    """Mean over rows of one less the entropy of a row's shares, weighted by the rows' sums."""
    weight = r.sum(1)
    share = r / weight.clamp(min=1e-12)[:, None]
    concentration = 1 - _entropy(share) / torch.tensor(float(r.shape[1]), device="cpu").log()
    return (weight * concentration).sum().item()


def _skill(model: object, z: Tensor, v: Tensor) -> tuple[float, object]:
    """Balanced accuracy of a classifier on the odd data after the even ones, scaled to 0 for guessing."""
    from sklearn.base import clone

    # Even and odd places of a fixed random order, so that data sorted by factor do no harm
    order = torch.randperm(len(z), generator=torch.Generator(device="cpu").manual_seed(0), device="cpu")
    z, v = z[order].numpy(), v[order].argmax(1).numpy()
    fitted = clone(model).fit(z[::2], v[::2])
    predicted, truth = torch.as_tensor(fitted.predict(z[1::2]), device="cpu"), torch.as_tensor(v[1::2], device="cpu")
    values = truth.unique()
    accuracy = torch.stack([(predicted[truth == k] == k).double().mean() for k in values]).mean().item()
    return (accuracy - 1 / len(values)) / (1 - 1 / len(values)), fitted


def _checked(codes: Tensor, factors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Codes `[n, D]` in float64, and the values of each factor one by one, `[n, C]`; on the processor."""
    if codes.dim() != 2 or codes.shape[1] < 2:
        raise ValueError(f"codes: expected shape (n, D) with D >= 2, got {tuple(codes.shape)}.")
    if factors.dim() != 2 or len(factors) != len(codes):
        raise ValueError(f"factors: expected shape ({len(codes)}, F), got {tuple(factors.shape)}.")
    classes = []
    for k, v in enumerate(factors.detach().cpu().unbind(1)):
        values, index = v.unique(return_inverse=True)
        if len(values) < 2 or 2 * len(values) > len(codes):
            raise ValueError(
                f"factors: expected discrete ones, of 2 to n / 2 values, got {len(values)} of factor {k}; leave out "
                "what does not vary, and put continuous factors into bins."
            )
        classes.append(_one_hot(index, len(values)))
    return codes.detach().cpu().double(), classes


def _one_hot(index: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(index, size).double()


def _entropy(p: Tensor) -> Tensor:
    """Entropy in nats of the last dimension."""
    return -torch.special.xlogy(p, p).sum(-1)
