r"""What models with one latent variable share: three conditionals make the marginal, the program and the guide.

.. math::
    z \sim p(z | c), \qquad x \sim p(x | z, c), \qquad q(z | x, c) \approx p(z | x, c)

    \log p(x | c) \ge E_{q(z | x, c)} \log p(x | z, c) - \mathrm{KL}\bigl(q(z | x, c) \,\|\, p(z | c)\bigr)

A subclass says which they are.
"""

import copy
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import pyro_method
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..._shapes import broadcast_shapes
from ...distributions import Marginal
from ...distributions.autoregressive import fold
from ...distributions.heads import Head
from ...distributions.hierarchy import center, sample_latent
from ...transforms.support import elementwise
from ..base import ApproximateModel, GenerativeModel


class LatentVariableModel(ApproximateModel):
    """A model with a latent z; subclasses implement ``_prior``, ``decode`` and ``infer``.

    Attributes:
        num_particles: Draws of z per datum in ``log_prob``.
        chunk_size: Largest number of pairs (datum, z) scored at once where no gradient is asked for.
    """

    num_particles: int = 1
    chunk_size: int = 65_536

    def _prior(self, context: Tensor | None) -> dist.TorchDistribution:
        """Returns p(z | c), with the batch shape of the context."""
        raise NotImplementedError(f"{type(self).__name__} lacks _prior")

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | z, c) for z with shape ``(*) + latent shape``."""
        raise NotImplementedError(f"{type(self).__name__} lacks decode")

    def infer(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns the approximate posterior q(z | x, c) for x with shape ``(*) + event_shape``."""
        raise NotImplementedError(f"{type(self).__name__} lacks infer")

    def encode(
        self,
        x: Tensor,
        context: Tensor | None = None,
        num_samples: int | None = None,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Returns the representation of x: the posterior's mean, or draws from it.

        For a flow, whose mean nobody knows, it is the image of its base's mean.

        Args:
            x: Data, with shape ``(*) + event_shape``.
            context: Contexts, with shape ``(*, context)``.
            num_samples: Number of draws, which come with shape ``(num_samples, *) + latent shape``; the mean when
                ``None``.
            batch_size: Data along the first dimension that are encoded at a time, to bound memory where no gradient is
                asked for; all of them when ``None``.

        Raises:
            NotImplementedError: If the mean is asked for, and the posterior has none.
        """
        if batch_size is not None:
            if batch_size < 1 or x.dim() <= len(self.event_shape):
                raise ValueError(
                    f"batch_size: expected at least 1, and data with a batch dimension, got {batch_size} and x "
                    f"{tuple(x.shape)}; leave it out"
                )
            rows = x.split(batch_size)
            per_row = context is not None and context.dim() == x.dim() - len(self.event_shape) + 1 and len(context) > 1
            contexts = context.split(batch_size) if per_row else [context] * len(rows)
            parts = [self.encode(*row, num_samples) for row in zip(rows, contexts, strict=True)]
            return torch.cat(parts, 0 if num_samples is None else 1)
        q = self.infer(x, context)
        if num_samples is not None:
            return q.rsample((num_samples,)) if q.has_rsample else q.sample((num_samples,))
        return center(q)

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the mean of p(x' | z, c) at the representation z of x."""
        return self.decode(self.encode(x, context), context).mean

    def _distribution(self, context: Tensor | None) -> Marginal:
        return Marginal(
            self._prior(context),
            lambda z: self.decode(z, context),
            lambda x: self.infer(x, context),
            self.event_shape,
            self.support,
            self.num_particles,
            self.chunk_size,
        )

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The generative process: sites ``"z"`` and ``"x"`` in a plate ``"data"``; see :meth:`TractableModel.model`.

        Several latents (the prior is a :class:`~pyro_dgm.distributions.Hierarchy`) are a site each, under their names.
        """
        with self._data_plates(x, context, data_size):
            z = sample_latent(self._prior(context))
            return pyro.sample("x", self.decode(z, context), obs=x)

    @pyro_method
    def guide(self, x: Tensor, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The approximate posterior: site ``"z"``, or one for each latent, in the plate ``"data"``."""
        with self._data_plates(x, context, data_size):
            return sample_latent(self.infer(x, context), proposal=True)


def shown(x: Tensor, likelihood: nn.Module, event_dim: int) -> Tensor:
    """Returns what a network sees of data: as the likelihood's head shows them, where it has one.

    Levels 0..L-1 are scaled to [-1, 1], counts are log(1 + x), classes are shown one by one, numbers in units of their
    own are standardised; coins, grey levels and real numbers are shown as they are.
    """
    head = getattr(likelihood, "head", None)
    return fold(head.embed(x), event_dim) if isinstance(head, Head) else x


def shown_features(likelihood: nn.Module, event_shape: torch.Size) -> int:
    """Returns how many numbers a network sees of a datum."""
    head = getattr(likelihood, "head", None)
    return event_shape.numel() * (head.size_in if isinstance(head, Head) else 1)


def network_shape(network: nn.Module, event_shape: torch.Size, context: int) -> torch.Size:
    """Returns the shape of what a network, called as f(x) or f(x, c), makes of one datum."""
    trial, like = _trial(network)
    c = [torch.zeros(1, context, **like)] if context else []
    with torch.no_grad():
        return trial(torch.zeros(1, *event_shape, **like), *c).shape[1:]


def prior_of(prior: nn.Module, context: Tensor | None) -> dist.TorchDistribution:
    """Returns p(z | c) with the batch shape of the context, whether or not the prior's module reads it."""
    p = prior(context) if getattr(prior, "context", 0) else prior()
    return p if context is None else p.expand(broadcast_shapes(p.batch_shape, context.shape[:-1]))


def promise(name: str, part: nn.Module, width: int) -> tuple[torch.Size, constraints.Constraint]:
    """Returns the event shape and support of a part that is to be called with contexts of a width."""
    if isinstance(part, GenerativeModel):
        if part.context != width:
            raise ValueError(f"{name}: expected a model with context={width}, got context={part.context}")
        return part.event_shape, part.support
    trial, like = _trial(part)
    with torch.no_grad():
        p = trial(torch.zeros(1, width, **like)) if width else trial()
    if not isinstance(p, Distribution):
        raise ValueError(
            f"{name}: expected a module that returns a distribution, got one that returns {type(p).__name__}"
        )
    if width and p.batch_shape != (1,):
        raise ValueError(
            f"{name}: expected one distribution per context, batch_shape (1,) for context shape {(1, width)}, got "
            f"{tuple(p.batch_shape)} and event_shape {tuple(p.event_shape)}; does it lack .to_event(1)?"
        )
    return p.event_shape, p.support


def _trial(part: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a copy of a part to try, and the device and dtype of its numbers."""
    trial = copy.deepcopy(part).eval()
    floats = [t for t in (*trial.parameters(), *trial.buffers()) if t.is_floating_point()]
    return trial, {"device": floats[0].device, "dtype": floats[0].dtype} if floats else {"device": None}


def promise_latent(name: str, part: nn.Module, width: int, latent: int) -> None:
    """Checks that a part, called with contexts of a width, returns distributions of so many real numbers."""
    event_shape, support = promise(name, part, width)
    if event_shape != (latent,) or elementwise(support) is not constraints.real:
        raise ValueError(
            f"{name}: expected distributions of {latent} real numbers, event shape {(latent,)}, got event shape "
            f"{tuple(event_shape)} of {support}"
        )
