r"""Learning from few labels and many data without: a bound for each kind, and a classifier that learns from both.

.. math::
    L = -\frac1n \Bigl[\sum_{i \text{ labelled}} B(x_i, y_i)
        + \sum_{i \text{ not}} \Bigl(\sum_y q(y | x_i)\, B(x_i, y) + H\bigl(q(y | x_i)\bigr)\Bigr)\Bigr]
        - \alpha\, E_{\text{labelled}} \log q(y | x)

    B(x, y) = \log p(y) + E_{q(z | x, y)} \bigl[\log p(x | y, z) + \log p(z) - \log q(z | x, y)\bigr]

The first sum alone would teach the classifier :math:`q(y | x)` nothing about labels, hence the last term. The sum over
classes is exact, in one batched pass. (Kingma, Rezende, Mohamed and Welling, Semi-Supervised Learning with Deep
Generative Models, 2014, arXiv:1406.5298, whose :math:`-B` is called L, the other sum U.)
"""

from typing import Any

import torch
from torch import Tensor, nn

from .aggregate import weight_of
from .base import Objective, generative_model, penalised


class SemiSupervised(Objective):
    """The negative bound of labelled and unlabelled data, and the classifier's cross-entropy, in mean nats per datum.

    Args:
        alpha: The weight of the cross-entropy, a mean over the labelled data of the batch. (In the paper's loss, a sum
            over N data, it is 0.1 N.)
        kl_weight: The weight of log p(z) - log q(z | x, y): a number, or a module without arguments such as
            :class:`~pyro_dgm.objectives.LinearWarmup`.

    Example:
        >>> from pyro_dgm.models import ConditionalVAE, DiagonalNormal, SemiSupervisedVAE, StandardNormal
        >>> vae = ConditionalVAE(StandardNormal(2), DiagonalNormal(5, 2 + 10), DiagonalNormal(2, 5 + 10), context=10)
        >>> labels = torch.tensor([3, -1, -1, 7]).unsqueeze(-1)
        >>> SemiSupervised()(SemiSupervisedVAE(vae))(torch.zeros(4, 5), labels).shape
        torch.Size([])
    """

    def __init__(self, alpha: float = 0.1, kl_weight: float | nn.Module = 1.0) -> None:
        super().__init__()
        self.alpha, self.kl_weight = alpha, kl_weight

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Returns the loss of a batch, in which any datum may lack its label."""
        owner = generative_model(model)
        if not hasattr(owner, "classify"):
            raise ValueError(f"model: expected a SemiSupervisedVAE, got {type(owner or model).__name__}")
        x, *labels = batch
        classes = owner(*labels).components  # p(x | y) for every class, the last batch dimension
        values = x.unsqueeze(-1 - len(owner.event_shape))
        log_likelihood, log_ratios = classes.terms(values, classes.proposal(values))
        bound = log_likelihood + weight_of(self.kl_weight) * sum(log_ratios.values())
        known, y = owner.labels(*labels)
        log_q = owner.classify(x).logits
        q = torch.where(known.unsqueeze(-1), y, log_q.exp())
        entropy = -torch.where(known, 0.0, (log_q.exp() * log_q).sum(-1))
        loss = -((q * (bound + owner.log_class_probs)).sum(-1) + entropy).mean()
        cross_entropy = -torch.where(known, (y * log_q).sum(-1), 0.0)
        return loss + self.alpha * cross_entropy.sum() / known.sum().clamp_min(1)
