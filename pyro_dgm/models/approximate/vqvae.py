r"""The vector-quantised autoencoder: an autoencoder whose latent is codes, with a prior over them.

.. math::
    k \sim p(k | c), \qquad x \sim p(x | e_k, c), \qquad q(k | x, c) = 1\bigl[k = k(x)\bigr], \quad
    k_j(x) = \arg\min_i |h_j(x, c) - e_i|^2

h is the encoder, e a table of K vectors of width d. With a posterior that is certain the evidence lower bound is

.. math::
    \log p(x | c) = \log \sum_k p(x | e_k, c)\, p(k | c) \ge \log p(x | e_{k(x)}, c) + \log p(k(x) | c)

whose negative is the loss, and to which training adds the commitment :math:`\beta\, |h - \mathrm{sg}(e_k)|^2`, a mean
over codes. The prior, an autoregressive model of integers, learns at once with the rest: no gradient passes from it to
the encoder, so that it learns what it would learn afterwards. (van den Oord, Vinyals and Kavukcuoglu, Neural
Discrete Representation Learning, 2017, arXiv:1711.00937.) :mod:`pyro_dgm.nn.quantizer` says how the table learns.
"""

from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from ...distributions import Embedded
from ...distributions.embedded import embed
from ...distributions.hierarchy import join
from ...nn import leave_autocast
from ...nn.critics import called
from ...nn.mlp import EventMLP
from ...nn.quantizer import VectorQuantizer
from ...transforms.support import elementwise
from ..base import GenerativeModel
from .latent import LatentVariableModel, network_shape, prior_of, promise


class VQVAE(LatentVariableModel):
    r"""A vector-quantised variational autoencoder.

    Codes have the shape (S_1, ..., S_m) of an event of the prior: (M,) for M codes, (1, h, w) for a grid of them. Their
    vectors have the shape (S_1 d, S_2, ..., S_m), channels first: (M d,), or an image (d, h, w). That is what the
    encoder gives, and, flattened, what the likelihood sees. In Pyro programs the site ``"z"`` holds [k, e_k], with
    shape (S_1, ..., S_m, 1 + d): see :class:`~pyro_dgm.distributions.Embedded`.

    Its density is a lower bound, off by the probability of codes that are not k(x). The table learns while an objective
    of this package is computed in training mode: train with ``fit``, or with ``SVI`` and ``loss=ELBO()``.

    Args:
        prior: Called without argument, or with c if it has a ``context``, returns p(k | c) over integers 0..K-1:
            ``PixelCNN((1, h, w), head=heads.Categorical(K))``, or ``MADE(M, head=heads.Categorical(K))``.
        likelihood: Called with [e_k, c], vectors with events flattened, returns p(x | e_k, c).
        width: Width d of a codeword.
        encoder: A module of your own, called as h(x) or h(x, c), from (*, *event_shape) to (*, S_1 d, S_2, ..., S_m);
            an MLP when ``None``.
        context: Width of the context c, 0 for none.
        hidden_features: Hidden widths of the MLP.
        decay: Decay of the table's moving averages, per batch.
        commitment: The weight :math:`\beta` of the commitment, in nats.
        restart: Share of use, in units of 1 / K, below which a codeword is dead and put on an output of the encoder.
        by_gradient: Whether the table learns by gradient instead of by moving averages, without restarts then.

    Attributes:
        quantizer: The table; ``quantizer.perplexity`` is the effective number of codewords in use over the last
            1 / (1 - decay) batches.
        code_shape: Shape of the codes of a datum.

    Raises:
        ValueError: If a part does not fit.

    Example:
        >>> from pyro_dgm.distributions import heads
        >>> from pyro_dgm.models import MADE, DiagonalNormal
        >>> prior = MADE(3, head=heads.Categorical(8), hidden_features=(16,))
        >>> vq = VQVAE(prior, DiagonalNormal(5, context=3 * 2), width=2)
        >>> x = torch.zeros(4, 5)
        >>> vq().sample((4,)).shape, vq.encode(x).shape, vq.decode(vq.encode(x)).mean.shape
        (torch.Size([4, 5]), torch.Size([4, 3]), torch.Size([4, 5]))
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        width: int,
        encoder: nn.Module | None = None,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        *,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.03,
        by_gradient: bool = False,
    ) -> None:
        conditional = bool(getattr(prior, "context", 0))
        code_shape, codes = promise("prior", prior, context if conditional else 0)
        if not code_shape:
            raise ValueError("prior: expected a model of events of codes, got one of single numbers; does it lack "
                             ".to_event(1)?")  # fmt: skip
        quantizer = VectorQuantizer(
            _count(codes), width, decay=decay, commitment=commitment, restart=restart, by_gradient=by_gradient
        )
        embedded = torch.Size([code_shape[0] * width, *code_shape[1:]])
        event_shape, support = promise("likelihood", likelihood, embedded.numel() + context)
        super().__init__(event_shape, context, support)
        if encoder is not None:
            found = network_shape(encoder, event_shape, context)
            if found != embedded:
                raise ValueError(
                    f"encoder: expected vectors of width {width} for codes of shape {tuple(code_shape)}, so an output "
                    f"of shape {tuple(embedded)} for one datum, got {tuple(found)}"
                )
        self.encoder = encoder or EventMLP(event_shape, embedded, hidden_features, context)
        self.prior, self.likelihood, self.quantizer = prior, likelihood, quantizer
        self.code_shape, self.width = code_shape, width

    def _prior(self, context: Tensor | None) -> Embedded:
        return Embedded(prior_of(self.prior, context), self.quantizer.table.detach())

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """Returns p(x | e_k, c).

        Args:
            z: Codes k of integer type, with shape (*, *code_shape); or, of floating type, [k, e_k] as the site ``"z"``
                has it, with shape (*, *code_shape, 1 + d).
            context: Contexts, with shape (*, context).
        """
        e = z[..., 1:] if z.is_floating_point() else self.quantizer.table.detach()[z]
        m = len(self.code_shape)
        return self.likelihood(join(e.movedim(-1, -m), m + 1, context))

    def infer(self, x: Tensor, context: Tensor | None = None) -> dist.Delta:
        """Returns q(z | x, c), all of whose mass is on [k(x), z_q(x)], for x with shape (*, *event_shape)."""
        z, k = self.quantizer(self._encoded(x, context))
        return dist.Delta(embed(k, z, z), event_dim=len(self.code_shape) + 1)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the codes k(x), integers with shape (*, *code_shape)."""
        return self.quantizer.nearest(self._encoded(x, context))

    def embed(self, k: Tensor) -> Tensor:
        """Returns the vectors e_k, with shape (*, S_1 d, S_2, ..., S_m), of codes with shape (*, *code_shape)."""
        m = len(self.code_shape)
        return self.quantizer.table.detach()[k.long()].movedim(-1, -m).flatten(-m - 1, -m)

    @torch.no_grad()
    def usage(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the share of every code among the codes of data, a whole set of them say, with shape (K,)."""
        k = self.encode(x, context).flatten()
        return torch.bincount(k, minlength=len(self.quantizer.table)) / k.numel()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Puts the codewords on outputs of the encoder, and fits what the parts fit to data."""
        self.quantizer.initialize(self._encoded(x, context).flatten(0, -2))
        k = self.encode(x, context)
        if isinstance(self.prior, GenerativeModel):
            self.prior.initialize(k, context if self.prior.context else None)
        if isinstance(self.likelihood, GenerativeModel):
            self.likelihood.initialize(x, join(self.embed(k), len(self.code_shape), context))

    def _encoded(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns h, with shape (*, *code_shape, d)."""
        h = leave_autocast(called(self.encoder, x, context))
        m = len(self.code_shape)
        return h.unflatten(-m, (self.code_shape[0], self.width)).movedim(-m, -1)


def _count(support: constraints.Constraint) -> int:
    """Returns the number K of codes 0..K-1 that a prior has."""
    inner = elementwise(support)
    if isinstance(inner, type(constraints.boolean)):
        return 2
    if not inner.is_discrete or getattr(inner, "lower_bound", None) != 0 or not hasattr(inner, "upper_bound"):
        raise ValueError(
            f"prior: expected a model of integers 0..K-1, got one of {support}; for K classes say head=Categorical(K)"
        )
    return int(inner.upper_bound) + 1
