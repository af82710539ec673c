r"""Maximum likelihood.

.. math::
    L = -\frac{1}{n} \sum_i \log p(x_i | c_i)

In expectation this is the Kullback-Leibler divergence from the data to the model plus the (constant) entropy of the
data; minimising it covers every mode of the data.
"""

from typing import Any

from pyro import poutine
from torch import Tensor

from .base import Objective, generative_model, num_data, penalised


class NegativeLogLikelihood(Objective):
    """The mean of -log p(x | c) over the batch, in nats.

    For a model with a lower bound this is the negative importance-weighted bound (the IWAE objective), its
    tightness set by the model's ``num_particles``. In training mode it includes the penalties that parts of the model
    ask for (``kinetic`` of :class:`~pyro_dgm.models.FFJORD`, say).

    Example:
        >>> import torch
        >>> from pyro_dgm.models import StandardNormal
        >>> NegativeLogLikelihood()(StandardNormal(1))(torch.zeros(4, 1))
        tensor(0.9189)
    """

    def __init__(self) -> None:
        super().__init__()

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Scores a generative model directly, and a Pyro program through its trace."""
        owner = generative_model(model)
        if owner is not None:
            x, *context = batch
            return -owner(*context).log_prob(x).mean()
        trace = poutine.trace(model).get_trace(*batch, **settings)
        latent = poutine.util.prune_subsample_sites(trace).stochastic_nodes
        if latent:
            raise ValueError(f"model: expected a program without latent sites, got {latent}; use ELBO, with a guide")
        return -trace.log_prob_sum() / (settings.get("data_size") or num_data(model, batch[0]))
