r"""Variational autoencoders of data with holes: trained on what was observed, and nothing is filled in beforehand.

Missing at random, what is missing says nothing that the observed part does not (MIWAE):

.. math::
    \log p(x_{obs} | c) \ge E_{z_k \sim q(z | x_{obs}, c)} \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(x_{obs} | z_k, c)\, p(z_k)}{q(z_k | x_{obs}, c)}

Not at random, the mask s (one where observed) has a model too, and each draw of z draws what is missing (not-MIWAE):

.. math::
    \log p(x_{obs}, s | c) \ge E \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(s | x_{obs}, x_{mis}^k, c)\, p(x_{obs} | z_k, c)\, p(z_k)}{q(z_k | x_{obs}, c)}, \qquad
        x_{mis}^k \sim p(x_{mis} | z_k, c)

Missing numbers are NaN. (Mattei and Frellsen, MIWAE: Deep generative modelling and imputation of incomplete data sets,
2019, arXiv:1812.02633; Ipsen, Mattei and Frellsen, not-MIWAE: Deep generative modelling with missing not at random
data, 2021, arXiv:2006.12871.) :func:`pyro_dgm.tasks.impute` fills in by the same weighted draws.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ..._shapes import as_shape, broadcast_shapes
from ...distributions import PartlyObserved, heads
from ...distributions.hierarchy import join
from ...distributions.missing import Informed, possibly_missing, standard
from ...nn import MLP, leave_autocast
from ..parametric import DiagonalNormal, StandardNormal
from .latent import LatentVariableModel, promise

if TYPE_CHECKING:
    from ...objectives import Objective

Head = heads.Head


class IncompleteDataModel(LatentVariableModel):
    """A model of data with holes; the two below say why there are holes.

    The arguments are those of :class:`MIWAE`.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int,
        context: int,
        hidden_features: Sequence[int],
        activation: type[nn.Module],
        head: Head | None,
        prior: nn.Module | None,
        network: nn.Module | None,
        posterior: nn.Module | None,
        num_particles: int,
    ) -> None:
        head, shape = head or heads.Normal(), as_shape(event_shape)
        super().__init__(shape, context, possibly_missing(head.support_of(shape)))
        size = shape.numel()
        width = size * (head.size_in + 1) + context
        prior = prior or StandardNormal(latent)
        posterior = posterior or DiagonalNormal(latent, width, hidden_features, activation)
        for name, part, given in (("prior", prior, 0), ("posterior", posterior, width)):
            found, _ = promise(name, part, given)
            if found != (latent,):
                raise ValueError(
                    f"{name}: expected distributions over z with event shape ({latent},), got {tuple(found)}"
                )
        self.head, self.prior, self.posterior = head, prior, posterior
        self.network = network or MLP(
            latent + context, size, hidden_features, activation=activation, out_per_feature=head.size
        )
        self.num_particles = num_particles
        self.register_buffer("loc", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("initialized", torch.tensor(False))

    def _prior(self, context: Tensor | None) -> dist.TorchDistribution:
        p = self.prior()
        return p if context is None else p.expand(context.shape[:-1])

    def _theta(self, z: Tensor, context: Tensor | None) -> Tensor:
        theta = leave_autocast(self.network(join(z, 1, context)))
        batch_shape = z.shape[:-1] if context is None else broadcast_shapes(z.shape[:-1], context.shape[:-1])
        return theta.reshape(*batch_shape, *self.event_shape, self.head.size)

    def _posterior(self, x: Tensor, context: Tensor | None) -> dist.TorchDistribution:
        u, missing = standard(x, self.loc, self.scale)
        seen = torch.where(missing[..., None], 0.0, self.head.embed(u)).flatten(-1 - len(self.event_shape))
        s = (~missing).to(seen.dtype).flatten(-len(self.event_shape))
        return self.posterior(join(torch.cat([seen, s], -1), 1, context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the representation of x, the posterior's mean."""
        return self.infer(x, context).mean

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the units of real numbers to what is observed; one that does not vary keeps unit scale."""
        x = x.to(self.loc.dtype)
        missing = x.isnan()
        n = (~missing).sum(0).clamp(min=1)
        loc = x.nansum(0) / n
        scale = (torch.where(missing, 0.0, x - loc).square().sum(0) / n).sqrt()
        real = [self.head.at(i).support is constraints.real for i in range(self.event_shape.numel())]
        real = torch.tensor(real, device=x.device).reshape(self.event_shape)
        self.loc.copy_(torch.where(real, loc, 0.0))
        self.scale.copy_(torch.where(real & (scale > 0), scale, 1.0))
        self.initialized.fill_(True)

    def objective(self) -> "Objective":
        """Returns the importance-weighted bound, as many draws deep as the model has particles."""
        from ...objectives import NegativeLogLikelihood

        return NegativeLogLikelihood()


class MIWAE(IncompleteDataModel):
    r"""An autoencoder of data some of whose numbers are missing at random, marked by NaN.

    ``log_prob`` is the bound on :math:`\log p(x_{obs} | c)`, 0 where nothing was observed, in the units of the data;
    samples are complete. ``fit`` takes data with NaN as they are, standardises real numbers by the observed ones, and
    maximises the bound of ``num_particles`` draws. Good at tables of a few dozen columns of any type; where many
    columns are observed and z is inferred badly, imputations rest on few particles (see ``effective_size``).

    Args:
        event_shape: Shape of one x, or a number of features.
        latent: Number of latent variables.
        context: Width of the context c, 0 for none.
        hidden_features: Hidden widths of decoder and posterior.
        activation: Class of their activation.
        head: The distribution of a number given z: normal when ``None``; :class:`~.heads.StudentT` for outliers,
            :class:`~.heads.Columns` for tables of mixed types.
        prior: Returns p(z); standard normal when ``None``.
        network: The decoder: maps [z, c], shape (*, latent + context), to the head's parameters, shape
            ``(*) + event_shape + (head.size,)``; an MLP when ``None``.
        posterior: Called with [x, s, c] returns q(z | x_obs, c); normal when ``None``. There x is flat, as the head
            shows it, in standard units and 0 where missing (``head.size_in`` numbers each), and s 1 where observed.
        num_particles: Draws K of z per datum.

    Attributes:
        loc: The origin of the units, fitted by ``initialize``; 0 for numbers that are not real.
        scale: Their size; 1 for numbers that are not real.

    Raises:
        ValueError: If a part does not fit, or the numbers of an event constrain each other.

    Example:
        >>> p = MIWAE(3, latent=2)()
        >>> x = torch.tensor([[1.0, float("nan"), 0.0], [float("nan")] * 3])
        >>> p.sample((5,)).shape, p.log_prob(x).shape, p.log_prob(x)[1].item()
        (torch.Size([5, 3]), torch.Size([2]), 0.0)
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int,
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        activation: type[nn.Module] = nn.ReLU,
        *,
        head: Head | None = None,
        prior: nn.Module | None = None,
        network: nn.Module | None = None,
        posterior: nn.Module | None = None,
        num_particles: int = 20,
    ) -> None:
        parts = (head, prior, network, posterior, num_particles)
        super().__init__(event_shape, latent, context, hidden_features, activation, *parts)

    def decode(self, z: Tensor, context: Tensor | None = None) -> PartlyObserved:
        """Returns p(x | z, c), whose ``log_prob`` is that of what is observed, for z with shape (*, latent)."""
        return PartlyObserved(self.head, self._theta(z, context), self.loc, self.scale)

    def infer(self, x: Tensor, context: Tensor | None = None) -> Informed:
        """Returns q(z | x_obs, c): the prior where nothing is observed."""
        informed = ~x.isnan().flatten(-len(self.event_shape)).all(-1)
        return Informed(self._posterior(x, context), self._prior(context), informed)


class NotMIWAE(IncompleteDataModel):
    r"""An autoencoder of data whose numbers are missing for what they would have been, marked by NaN.

    ``log_prob`` is the bound on :math:`\log p(x_{obs}, s | c)`, the mask's probability included, so it does not compare
    with that of :class:`MIWAE`. Samples are complete, as nature draws them before anything is lost. What is never seen
    is known through the mask's model alone: a wrong one biases as much as none.

    Args:
        event_shape: Shape of one x, or a number D of features.
        latent: Number of latent variables.
        context: Width of the context c, 0 for none.
        hidden_features: Hidden widths of decoder and posterior.
        activation: Class of their activation.
        mask: Called with [x, c], shape (*, D + context), x flat and in standard units, returns p(s | x, c), D ones
            and zeros, for instance ``IndependentBernoulli(D, D + context, hidden_features=())``. When ``None``, it is
            logistic self-masking, the sign known: :math:`P(s_d = 1 | x) = \sigma(a_d \pm w_d x_d)`, :math:`w_d > 0`.
        sign: That sign, one or one for each number: -1 where large numbers tend to be missing, 1 where small ones do.
        head: See :class:`MIWAE`; one with reparameterised draws.
        prior: See :class:`MIWAE`.
        network: See :class:`MIWAE`.
        posterior: See :class:`MIWAE`.
        num_particles: Draws K of z, and of what is missing, per datum.

    Attributes:
        loc: The origin of the units, fitted by ``initialize`` to what is observed.
        scale: Their size.

    Raises:
        ValueError: If a part does not fit, the head's draws have no gradient, or a sign is not 1 or -1.

    Example:
        >>> model = NotMIWAE(3, latent=2, sign=[-1, -1, 1])
        >>> model().log_prob(torch.tensor([1.0, float("nan"), 0.0])).shape
        torch.Size([])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int,
        context: int = 0,
        hidden_features: Sequence[int] = (128, 128),
        activation: type[nn.Module] = nn.ReLU,
        *,
        mask: nn.Module | None = None,
        sign: int | Sequence[int] = -1,
        head: Head | None = None,
        prior: nn.Module | None = None,
        network: nn.Module | None = None,
        posterior: nn.Module | None = None,
        num_particles: int = 20,
    ) -> None:
        if head is not None and not head.has_rsample:
            raise ValueError(
                f"head: expected one whose draws have gradients, got {type(head).__name__}; MIWAE takes any"
            )
        parts = (head, prior, network, posterior, num_particles)
        super().__init__(event_shape, latent, context, hidden_features, activation, *parts)
        size = self.event_shape.numel()
        self.mask = mask or _SelfMasking(size, sign)
        if mask is not None:
            found, support = promise("mask", mask, size + context)
            if found.numel() != size or not support.is_discrete:
                raise ValueError(f"mask: expected {size} ones and zeros, got event {tuple(found)} and {support}")

    def decode(self, z: Tensor, context: Tensor | None = None) -> PartlyObserved:
        """Returns p(x | z, c), whose ``log_prob`` is that of what is observed and that it is, for z (*, latent)."""
        mask, n = self.mask, len(self.event_shape)  # looked up here, where a Pyro program hears of its parameters
        theta = self._theta(z, context)
        return PartlyObserved(self.head, theta, self.loc, self.scale, lambda u: mask(join(u, n, context)))

    def infer(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns q(z | x_obs, c)."""
        return self._posterior(x, context)


class _SelfMasking(nn.Module):
    """A number is seen or not for what it is, with a sign that is known; weights are 1 at the start.

    Args:
        features: Number of features D.
        sign: -1 where large numbers tend to be missing, 1 where small ones do; one or D of them.
    """

    def __init__(self, features: int, sign: int | Sequence[int]) -> None:
        super().__init__()
        signs = [sign] * features if isinstance(sign, int) else [*sign]
        if len(signs) != features or not {*signs} <= {-1, 1}:
            raise ValueError(f"sign: expected 1 or -1, or {features} of them, got {sign}")
        self.bias = nn.Parameter(torch.zeros(features))
        self.raw_weight = nn.Parameter(torch.full((features,), math.log(math.e - 1)))
        self.register_buffer("sign", torch.tensor(signs, dtype=self.bias.dtype))

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """Returns p(s | x) for x with shape (*, D or more), of which D numbers count."""
        weight = self.sign * F.softplus(self.raw_weight)
        logits = self.bias + weight * x[..., : len(self.sign)]
        return dist.Bernoulli(logits=leave_autocast(logits), validate_args=False).to_event(1)
