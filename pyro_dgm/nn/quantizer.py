r"""A vector quantiser: a table of K vectors, of which the nearest stands for any vector.

.. math::
    k(h) = \arg\min_i |h - e_i|^2, \qquad z_q(h) = e_{k(h)}

No gradient passes an arg min. The straight-through estimator gives h the gradient of its codeword,
:math:`z_q = e_k + h - \mathrm{sg}(h)`, with sg the function whose gradient is zero. The table learns from the batch by
exponential moving averages (with the shares :math:`n_i` of the batch's vectors that fall to codeword i, and the sums
:math:`s_i` of those vectors over their number),

.. math::
    N_i \leftarrow \gamma N_i + (1 - \gamma)\, n_i, \qquad
    m_i \leftarrow \gamma m_i + (1 - \gamma)\, s_i, \qquad e_i = m_i / N_i

or, with no moving average, by the gradient of :math:`|\mathrm{sg}(h) - e_k|^2`. (van den Oord, Vinyals and Kavukcuoglu,
Neural Discrete Representation Learning, 2017, arXiv:1711.00937.) The table keeps e and N, so that

.. math::
    e_i \leftarrow e_i + \frac{1 - \gamma}{N_i}\, (s_i - n_i e_i)

which is the same average; a codeword without data stays where it is. Laplace smoothing of N, with which others keep
that quotient finite, would draw it to the origin.
"""

import torch
from torch import Tensor, nn

from .penalty import add_penalty, penalties_wanted
from .precision import at_least_float32, leave_autocast, without_autocast


class VectorQuantizer(nn.Module):
    r"""A table of codewords.

    A codeword is dead when its share of use :math:`N_i` falls below ``restart / K``: it is put on a random vector of
    the batch, with the average share. The table changes in training mode, while a loss of this package is computed, and
    at no other time; there it also adds the penalties. A part of a batch (``accumulate``) counts as a batch; of several
    processes, the first one's data move the table.

    Args:
        codes: Number K of codewords.
        width: Width d of a codeword.
        decay: The decay :math:`\gamma` of the moving averages, per batch.
        commitment: The weight :math:`\beta` of the mean of :math:`|h - \mathrm{sg}(e_k)|^2` in the loss, in nats.
        restart: The share of use below which a codeword is dead, in units of 1 / K; 0 for never.
        by_gradient: Whether the table is a parameter that learns by its gradient. N is an average all the same, but no
            codeword is restarted: an optimizer has moments of it.

    Attributes:
        table: The codewords e, with shape (K, d).
        usage: Their shares of use N, averages over the last :math:`1 / (1 - \gamma)` batches that sum to 1.

    Raises:
        ValueError: If a setting is none of those above.

    Example:
        >>> quantizer = VectorQuantizer(codes=8, width=2)
        >>> z, k = quantizer(torch.randn(5, 3, 2))
        >>> z.shape, k.shape, bool((z == quantizer.table[k]).all())
        (torch.Size([5, 3, 2]), torch.Size([5, 3]), True)
    """

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.03,
        by_gradient: bool = False,
    ) -> None:
        super().__init__()
        if codes < 2 or width < 1:
            raise ValueError(f"codes, width: expected at least 2 and 1, got {codes} and {width}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), e.g. 0.99, got {decay}")
        if commitment < 0 or not 0 <= restart < 1:
            raise ValueError(
                f"commitment, restart: expected at least 0, and a number in [0, 1), got {commitment} and {restart}"
            )
        self.decay, self.commitment, self.restart, self.by_gradient = decay, commitment, restart, by_gradient
        table = torch.randn(codes, width)
        if by_gradient:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.register_buffer("usage", torch.full((codes,), 1 / codes))
        self.register_buffer("initialized", torch.tensor(False))

    @property
    def perplexity(self) -> Tensor:
        """How many codewords are in use, exp of the entropy of N: 1 to K, over many batches and not of one."""
        return torch.special.entr(at_least_float32(self.usage)).sum().exp()

    def nearest(self, h: Tensor) -> Tensor:
        """Returns the codes k(h), integers with shape (*), of vectors with shape (*, d)."""
        h, e = leave_autocast(h.detach()), self.table.detach()
        with without_autocast(h):
            return (e.square().sum(-1) - 2 * h @ e.mT).argmin(-1)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z_q(h), with the gradient of h, and k(h), for vectors with shape (*, d)."""
        h = leave_autocast(h)
        k = self.nearest(h)
        e = self.table[k]
        z = e.detach() + (h - h.detach())  # the bracket is 0, so that the value is the codeword's, to the last bit
        if self.training and penalties_wanted():
            distance = at_least_float32(h - e.detach()).square().sum(-1).mean()
            add_penalty(self.commitment * distance)
            if self.by_gradient:
                add_penalty(at_least_float32(h.detach() - e).square().sum(-1).mean())
            self._learn(h.detach().flatten(0, -2), k.flatten())
        return z, k

    @torch.no_grad()
    def _learn(self, h: Tensor, k: Tensor) -> None:
        with without_autocast(h):
            codes = len(self.table)
            mine = (k[:, None] == torch.arange(codes, device=k.device)).to(h.dtype) / len(h)
            shares, sums = mine.sum(0), mine.mT @ h
            usage = self.usage.lerp(shares.to(self.usage.dtype), 1 - self.decay)
            if not self.by_gradient:
                rate = (1 - self.decay) / usage.clamp(min=torch.finfo(usage.dtype).tiny)
                e = self.table + rate[:, None] * (sums - shares[:, None] * self.table)
                dead = usage < self.restart / codes
                drawn = h[torch.randint(len(h), (codes,), device=h.device)]
                self.table.copy_(torch.where(dead[:, None], drawn.to(e.dtype), e))
                usage = torch.where(dead, 1 / codes, usage)
            self.usage.copy_(usage / usage.sum())

    @torch.no_grad()
    def initialize(self, h: Tensor) -> None:
        """Puts the codewords on vectors, with shape (n, d), each far from those before it.

        That is k-means++: a vector is drawn with a probability proportional to its squared distance from the nearest
        codeword so far (Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007).
        """
        codes = len(self.table)
        h = h[torch.randperm(len(h), device=h.device)[: 64 * codes]].to(self.table.dtype)
        distance = torch.full((len(h),), torch.inf, dtype=h.dtype, device=h.device)
        for i in range(codes):
            weight = torch.ones_like(distance) if i == 0 else distance + 1e-12 * (1 + distance.sum())
            self.table[i] = h[torch.multinomial(at_least_float32(weight), 1)[0]]
            distance = torch.minimum(distance, (h - self.table[i]).square().sum(-1))
        self.usage.fill_(1 / codes)
        self.initialized.fill_(True)
