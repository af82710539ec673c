r"""The variational mixture of posteriors as a prior.

.. math::
    p(z | c) = \frac{1}{K} \sum_{k=1}^K q(z | u_k, c)

The prior that maximises the evidence lower bound is the aggregate posterior, the mixture of the posteriors of all data;
it would overfit and cost a sum over all data. This one is a mixture of the posteriors of a few *pseudo-inputs*
:math:`u_k`, which are learned. (Tomczak and Welling, VAE with a VampPrior, 2017, arXiv:1705.07120.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..._shapes import as_shape
from ...distributions import BatchMixture, density_of
from ...distributions.hierarchy import join
from ..base import TractableModel
from .latent import promise


class VampPrior(TractableModel):
    r"""A mixture of an autoencoder's posterior at K learned pseudo-inputs, with an exact density.

    It shares the posterior's module with the autoencoder, whose divergence then moves it in both roles; copies, files
    and optimizers know it once. The density of one z takes K evaluations of the posterior's density, and every call K
    passes through its network. An :class:`~pyro_dgm.models.IAF` as posterior would need L steps for each, and a flow
    without an inverse is refused.

    Args:
        posterior: The module that the autoencoder has as ``posterior``: called with [u, c], shape (*, data + context),
            it returns q(z | u, c).
        data_shape: Shape of one datum x, or a number of features: the ``event_shape`` of the autoencoder.
        components: Number K of pseudo-inputs; the paper has 500.
        context: Width of the context c, 0 for none: that of the autoencoder.

    Attributes:
        pseudo_inputs: The :math:`u_k`, flattened, with shape (K, data). They start as standard normal noise; when the
            autoencoder is initialised, which ``fit`` does, they become data.

    Raises:
        ValueError: If there is no component, or the posterior takes contexts of another width.

    Example:
        >>> from pyro_dgm.models import VAE, DiagonalNormal
        >>> q = DiagonalNormal(2, context=5)
        >>> vae = VAE(VampPrior(q, 5, components=10), DiagonalNormal(5, context=2), q)
        >>> vae.prior().log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(
        self, posterior: nn.Module, data_shape: int | Sequence[int], components: int = 500, context: int = 0
    ) -> None:
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        data_shape = as_shape(data_shape, "data_shape")
        latent_shape, support = promise("posterior", posterior, data_shape.numel() + context)
        super().__init__(latent_shape, context, support)
        self.posterior, self.data_shape, self.components = posterior, data_shape, components
        self.pseudo_inputs = nn.Parameter(torch.randn(components, data_shape.numel()))
        self.register_buffer("logits", torch.zeros(components))
        self.register_buffer("initialized", torch.tensor(False))

    def _distribution(self, context: Tensor | None) -> BatchMixture:
        q = self.posterior(join(self.pseudo_inputs, 1, None if context is None else context.unsqueeze(-2)))
        if density_of(q) != "exact":
            raise ValueError(
                f"posterior: expected one with an exact density, got {type(q).__name__} ({density_of(q)}); a flow "
                "needs an inverse to be part of a prior"
            )
        return BatchMixture(q, self.logits)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Makes the pseudo-inputs data, drawn at random; repeatedly if there are fewer data than pseudo-inputs.

        Args:
            x: Data of the autoencoder, with shape (n, *data_shape).
            context: Not used.

        Raises:
            ValueError: If the data have another shape.
        """
        if x.shape[1:] != self.data_shape:
            raise ValueError(f"x: expected data with shape (n, *{tuple(self.data_shape)}), got {tuple(x.shape)}")
        orders = [torch.randperm(len(x), device=x.device) for _ in range(math.ceil(self.components / len(x)))]
        self.pseudo_inputs.copy_(x[torch.cat(orders)[: self.components]].flatten(1))
        self.initialized.fill_(True)
