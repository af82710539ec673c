r"""The conditional variational autoencoder: data given something else, by a latent that depends on it too.

.. math::
    z \sim p(z | c), \qquad x \sim p(x | z, c), \qquad q(z | x, c) \approx p(z | x, c)

A network from c to x alone gives one answer; this one gives a distribution with several modes: all the ways to complete
an image, say. In the paper's symbols c is called x, and x is called y. (Sohn, Lee and Yan, Learning Structured Output
Representation using Deep Conditional Generative Models, NeurIPS 2015; with a prior that does not see c: Kingma,
Rezende, Mohamed and Welling, Semi-Supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298.)
"""

from torch import nn

from ..base import GenerativeModel
from ..parametric import DiagonalNormal
from .vae import VariationalAutoencoder


class ConditionalVAE(VariationalAutoencoder):
    """A variational autoencoder with a context, whose prior reads the context unless another is given.

    It is :class:`~pyro_dgm.models.VAE` with ``context`` and a conditional prior, under the name it is known by.

    Args:
        prior: Called with c if it has a ``context``, returns p(z | c); ``None`` for a
            :class:`~pyro_dgm.models.DiagonalNormal` of that context.
        likelihood: Called with [z, c], shape (*, latent + context), returns p(x | z, c).
        posterior: Called with [x, c], shape (*, data + context), returns q(z | x, c).
        context: Width of the context c, at least 1.
        num_particles: Draws of z per datum in ``log_prob``.

    Raises:
        ValueError: If there is no context, or the parts do not fit.

    Example:
        >>> import torch
        >>> vae = ConditionalVAE(None, DiagonalNormal(5, context=2 + 3), DiagonalNormal(2, context=5 + 3), context=3)
        >>> vae(torch.zeros(4, 3)).sample().shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        prior: nn.Module | None,
        likelihood: nn.Module,
        posterior: nn.Module,
        context: int,
        num_particles: int = 1,
    ) -> None:
        if context < 1:
            raise ValueError(
                f"context: expected the width of a context, at least 1, got {context}; without one use VAE"
            )
        if prior is None:
            if not isinstance(posterior, GenerativeModel):
                raise ValueError(
                    "prior: expected a module, got None; the default takes its event shape from a posterior of this "
                    f"package, which a {type(posterior).__name__} is not"
                )
            prior = DiagonalNormal(posterior.event_shape, context)
        super().__init__(prior, likelihood, posterior, context, num_particles)
