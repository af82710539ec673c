r"""The distribution of a generator's output: easy to sample, with no density.

.. math::
    x = G(z), \qquad z \sim p(z)

Where :math:`G` is not a bijection between spaces of one dimension, :math:`p(x)` has no tractable form, and often none
at all (the samples lie on a thinner set). (Mohamed and Lakshminarayanan, Learning in Implicit Generative
Models, 2016, arXiv:1610.03483.)
"""

from collections.abc import Callable, Sequence
from typing import NoReturn

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .promise import Density


class Pushforward(dist.TorchDistribution):
    """The distribution of G(z) for z from a prior.

    Args:
        prior: The distribution p(z); its batch shape is the batch shape of x.
        generator: Maps z, with shape ``(*, latent event)``, to x, with shape ``(*) + event_shape``.
        event_shape: Shape of one x.
        support: Where the generator's output lives.
        has_rsample: Whether draws have gradients; as the prior's have when ``None``.

    Attributes:
        density: ``"implicit"``.

    Example:
        >>> prior = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> Pushforward(prior, torch.nn.Linear(3, 2), (2,)).sample((5,)).shape
        torch.Size([5, 2])
    """

    density: Density = "implicit"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        prior: dist.TorchDistribution,
        generator: Callable[[Tensor], Tensor],
        event_shape: Sequence[int],
        support: constraints.Constraint = constraints.real_vector,
        has_rsample: bool | None = None,
    ) -> None:
        self.prior, self.generator, self._support = prior, generator, support
        self._has_rsample = prior.has_rsample if has_rsample is None else has_rsample
        super().__init__(prior.batch_shape, torch.Size(event_shape), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients."""
        return self._has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where the generator's output lives."""
        return self._support

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Pushforward":
        """Returns the distribution with a larger batch shape."""
        prior = self.prior.expand(torch.Size(batch_shape))
        return Pushforward(prior, self.generator, self.event_shape, self._support, self._has_rsample)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples with gradients towards the generator's parameters.

        Raises:
            NotImplementedError: If draws have none.
        """
        if not self._has_rsample:
            raise NotImplementedError("rsample: the generator or its prior is not reparameterised; use sample")
        return self.generator(self.prior(torch.Size(sample_shape)))  # discrete noise has no gradient of its own

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draws samples, with shape ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.generator(self.prior.sample(torch.Size(sample_shape)))

    def as_sites(self, name: str) -> Tensor:
        """Samples within a Pyro program: the noise is a latent site ``"z"``, what is made of it the site ``name``."""
        return pyro.deterministic(name, self.generator(pyro.sample("z", self.prior)), event_dim=len(self.event_shape))

    def log_prob(self, value: Tensor) -> NoReturn:
        """Raises: an implicit distribution has no density.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "log_prob: this distribution is the output of a generator and has no density; compare its samples with "
            "data by pyro_dgm.evaluation.c2st or mmd, or learn a density (a flow, a VAE) where one is needed"
        )
