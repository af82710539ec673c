r"""How odd data are under a model.

.. math::
    s(x) = -\log p(x | c), \qquad s_i(x) = -\log p(x_i | x_{<i}, c), \qquad
    r(x) = \frac{1 + \#\{j : s(x_j) \ge s(x)\}}{1 + n}

The score s of a datum in nats, the share s_i that each of its numbers has in it (autoregressive models), and the rank r
among n reference data: uniform for data like the reference, small for odd ones. A density alone can mislead: an image
of one grey is often more probable than any real image, and odd all the same (Nalisnick, Matsukawa, Teh, Gorur and
Lakshminarayanan, Do Deep Generative Models Know What They Don't Know?, 2019, arXiv:1810.09136). The rank is one-sided.
"""

import torch
from torch import Tensor

from ..evaluation import log_likelihood
from ..evaluation.likelihood import evaluating
from ..models.base import GenerativeModel
from ._parts import autoregressive_parts


def anomaly_score(
    model: GenerativeModel,
    x: Tensor,
    context: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    reference_context: Tensor | None = None,
) -> Tensor:
    """Returns -log p(x | c) of each datum in nats, or its rank among reference data.

    Args:
        model: A model with a density; of a bound it is the bound's score.
        x: Data, with shape ``(n,) + event_shape``.
        context: Contexts, with shape (n, context).
        reference: Ordinary data that the model was not trained on; the result is then the rank r(x) in (0, 1], the
            p-value of the hypothesis that x is one of them.
        reference_context: Their contexts.

    Returns:
        Scores or ranks, with shape (n,).

    Raises:
        NotImplementedError: If the model is implicit.

    Example:
        >>> from pyro_dgm.models import StandardNormal
        >>> anomaly_score(StandardNormal(1), torch.tensor([[0.0], [3.0]])).round(decimals=2)
        tensor([0.9200, 5.4200])
    """
    scores = -log_likelihood(model, x, context)
    if reference is None:
        return scores
    others = (-log_likelihood(model, reference, reference_context)).sort().values
    return (1 + len(others) - torch.searchsorted(others, scores)) / (1 + len(others))


@torch.no_grad()
def surprise(model: GenerativeModel, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Returns -log p(x_i | x_<i, c) of every number, in nats: where in a datum the anomaly is.

    The model is in evaluation mode meanwhile.

    Of a mixture (EoNADE, MADE with several masks) it is the mean over components, weighted by how probable each made x.

    Args:
        model: An autoregressive model.
        x: Data, with shape ``(n,) + event_shape``.
        context: Contexts, with shape (n, context).

    Returns:
        Scores, with the shape of x.

    Raises:
        ValueError: If the model is not autoregressive.

    Example:
        >>> from pyro_dgm.models import MADE
        >>> surprise(MADE(3, hidden_features=(8,)), torch.zeros(1, 3)) / torch.tensor(2.0).log()
        tensor([[1., 1., 1.]])
    """
    with evaluating(model):
        p = model(context)
        scores = -torch.stack([part.conditional_log_probs(x) for part in autoregressive_parts(p)])
        if len(scores) == 1:
            return scores[0]
        weights = p.component_log_probs(x).softmax(-1).movedim(-1, 0)
        return (weights.reshape(*weights.shape, *[1] * len(model.event_shape)) * scores).sum(0)
