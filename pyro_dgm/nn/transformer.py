r"""A causal transformer: every number attends to those before it.

The numbers :math:`x_1 \dots x_D`, in their order, enter shifted right by one, after a start token. With position
:math:`t = 1 \dots D`, blocks :math:`l = 1 \dots L` and context :math:`c`,

.. math::
    h_t &= E x_{t-1} + p_t, \qquad E x_0 := s \\
    u_t &= \mathrm{LN}(h_t) + V_l c, \qquad q_t, k_t, v_t = W_l u_t \\
    h_t &\leftarrow h_t + O_l \sum_{r \le t} \mathrm{softmax}_r \bigl(q_t^\top k_r / \sqrt{d}\bigr)\, v_r \\
    h_t &\leftarrow h_t + B_l\, \mathrm{GELU}\bigl(A_l\, \mathrm{LN}(h_t)\bigr) \\
    \theta_t &= W\, \mathrm{LN}(h_t)

the sum being taken in several heads of width d. Positions :math:`p_t` are learned; those of an image are sums of three,
for the row, the column and the colour of the number that :math:`\theta_t` is about.

(Vaswani et al., Attention Is All You Need, 2017, arXiv:1706.03762; on the numbers of images: Parmar et al., Image
Transformer, 2018, arXiv:1802.05751; attention as what gives far pixels a voice, and a context in every block: Chen,
Mishra, Rohaninejad and Abbeel, PixelSNAIL, 2018, arXiv:1712.09763. Norms stand before the layers, as in GPT-2.)

A walk keeps the keys and values of what it has seen, so that a step computes one position only, and D steps cost about
as much as one pass (:class:`TransformerWalk`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import zero_
from .walk import Conditioner, Walk, raster

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class TransformerNetwork(Conditioner):
    """A causal transformer on the numbers of a vector or of an image.

    Args:
        event_shape: Shape of an event: (D,), or (C, H, W), read row by row, the colours of a pixel in turn.
        out_per_feature: Numbers P given per number.
        width: Width of h.
        blocks: Number L of blocks.
        attention_heads: Number of attention heads, which divides the width.
        mlp_features: Width of the layer within a block; four times the width when ``None``.
        context: Width of the context, 0 for none.
        order: Place of every number of a vector in the order; natural order when ``None``.
        dropout: Share of what blocks add, and of attention, that is left out in training.
        in_per_feature: Numbers s that stand for a number.

    Raises:
        ValueError: If the event is neither vector nor image, an image has an order, there is no block, the heads do not
            divide the width, or dropout is not in [0, 1).

    Example:
        >>> f = TransformerNetwork((3, 4, 4), 2, width=8, blocks=1, attention_heads=2, context=5)
        >>> f(torch.zeros(10, 3, 4, 4), torch.zeros(6, 1, 5)).shape
        torch.Size([6, 10, 3, 4, 4, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_per_feature: int,
        width: int = 128,
        blocks: int = 4,
        attention_heads: int = 4,
        mlp_features: int | None = None,
        context: int = 0,
        order: Sequence[int] | None = None,
        dropout: float = 0.0,
        *,
        in_per_feature: int = 1,
    ) -> None:
        if len(event_shape) not in (1, 3):
            raise ValueError(f"event_shape: expected (D,) or (C, H, W), got {tuple(event_shape)}")
        if len(event_shape) == 3 and order is not None:
            raise ValueError(
                "order: expected None for an image, which is read row by row; flatten it for another order"
            )
        if blocks < 1:
            raise ValueError(f"blocks: expected at least 1, got {blocks}")
        if attention_heads < 1 or width % attention_heads:
            raise ValueError(f"attention_heads: expected a divisor of width={width}, got {attention_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        super().__init__(event_shape, in_per_feature, raster(event_shape) if len(event_shape) == 3 else order)
        self.register_buffer("places", torch.tensor(self.sequence))
        self.register_buffer("turns", torch.tensor(self.order))
        self.register_load_state_dict_post_hook(_order_again)
        first, *rest = self.event_shape
        self.embed = nn.Linear(in_per_feature, width)
        self.start = nn.Parameter(torch.randn(width))
        self.axes = nn.ModuleList(nn.Embedding(size, width) for size in (*rest, first))
        self.blocks = nn.ModuleList(
            _Block(width, attention_heads, mlp_features or 4 * width, context, dropout) for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), zero_(nn.Linear(width, out_per_feature)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps data and context to the parameters of every number given those before it.

        Args:
            x: Data, with shape (*, D s) or (*, C s, H, W).
            context: The context, with shape (*, context).

        Returns:
            The parameters, with shape ``(*) + event_shape + (out_per_feature,)``.
        """
        dim = len(self.event_shape)
        x = x.unflatten(-dim, (-1, self.in_per_feature)).movedim(-dim, -1)
        x = x.flatten(-dim - 1, -2)[..., self.places[:-1], :]
        h = torch.cat([self.start.expand(*x.shape[:-2], 1, -1), self.embed(x)], -2) + self.positions()
        for block in self.blocks:
            h = block(h, block.bias(context))
        return self.last(h)[..., self.turns, :].unflatten(-2, self.event_shape)

    def positions(self) -> Tensor:
        """Returns the positions p, with shape (D, width)."""
        first, *others = self.axes
        p = first.weight
        for axis in others:
            p = p[..., None, :] + axis.weight
        return p.flatten(0, -2)

    def walk(self, context: Tensor | None, size: int) -> "TransformerWalk":
        """Returns the walk through the numbers of ``size`` data; it knows no dropout."""
        return TransformerWalk(self, context, size)


def _order_again(network: TransformerNetwork, _: Any) -> None:
    """Goes by the order that was loaded."""
    if not network.turns.is_meta:
        network.order, network.sequence = network.turns.tolist(), network.places.tolist()


class _Block(nn.Module):
    """Attention to the positions before and to itself, then an MLP, each added to what enters.

    Args:
        width: Width of h.
        attention_heads: Number of heads.
        mlp_features: Width within the MLP.
        context: Width of the context.
        dropout: Share that is left out in training.
    """

    def __init__(self, width: int, attention_heads: int, mlp_features: int, context: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, mlp_features), nn.GELU(), nn.Linear(mlp_features, width)
        )
        self.attention_heads, self.dropout = attention_heads, dropout

    def bias(self, context: Tensor | None) -> Tensor | None:
        """Returns V c, with shape (*, 1, width), for all positions alike."""
        return None if self.context is None else self.context(context)[..., None, :]

    def forward(self, h: Tensor, bias: Tensor | None, attend: Attention | None = None) -> Tensor:
        """Maps h to what the next block sees.

        Args:
            h: Positions, with shape (*, t, width).
            bias: What :meth:`bias` returned.
            attend: How a walk attends, which leaves nothing out: from q, k and v, with shape (n, heads, t, d).
        """
        dropout = self.dropout if self.training and attend is None else 0.0
        u = self.norm(h) if bias is None else self.norm(h) + bias
        q, k, v = self.qkv(u).unflatten(-1, (3, self.attention_heads, -1)).movedim((-3, -2), (0, -3))
        batch_shape = q.shape[:-3]
        q, k, v = (t.reshape(-1, *t.shape[-3:]) for t in (q, k, v))
        seen = attend(q, k, v) if attend else F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True)
        seen = seen.transpose(-3, -2).flatten(-2).reshape(*batch_shape, *u.shape[-2:])
        h = h + F.dropout(self.out(seen), dropout, dropout > 0)
        return h + F.dropout(self.mlp(h), dropout, dropout > 0)


class TransformerWalk(Walk):
    """The outputs of a transformer, one number after another becoming known: one position a step.

    Args:
        network: The network.
        context: The context, with shape (n, context) or (1, context).
        size: Number n of data.
    """

    def __init__(self, network: TransformerNetwork, context: Tensor | None, size: int) -> None:
        self.network, self.step = network, 0
        self.positions = network.positions()
        self.token = network.start.expand(size, 1, -1)
        self.biases = [block.bias(context) for block in network.blocks]
        self.seen = [_Seen(len(self.positions)) for _ in network.blocks]

    def output(self) -> Tensor:
        """Returns the parameters of the next number, with shape (n, out_per_feature)."""
        h = self.token + self.positions[self.step]
        for block, bias, seen in zip(self.network.blocks, self.biases, self.seen, strict=True):
            h = block(h, bias, seen.attend)
        return self.network.last(h)[:, 0]

    def see(self, x: Tensor) -> None:
        """Makes the next number known, with shape (in_per_feature, n)."""
        self.token = self.network.embed(x.mT[:, None])
        self.step += 1

    def select(self, index: Tensor) -> None:
        """Goes on with these data."""
        self.token = self.token[index]
        self.biases = [b if b is None or len(b) == 1 else b[index] for b in self.biases]
        for seen in self.seen:
            seen.select(index)


class _Seen:
    """Keys and values of the positions so far: written into tables, or joined where gradients are recorded.

    Args:
        size: Number of positions in all.
    """

    def __init__(self, size: int) -> None:
        self.joined, self.size, self.count = torch.is_grad_enabled(), size, 0
        self.tables: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Adds the key and the value of a position, and lets its query attend to all so far."""
        new = (k, v)
        if not self.tables:
            rows = 0 if self.joined else self.size
            self.tables = [t.new_empty(*t.shape[:-2], rows, t.shape[-1]) for t in new]
        if self.joined:
            self.tables = [torch.cat(pair, -2) for pair in zip(self.tables, new, strict=True)]
        else:
            for table, row in zip(self.tables, new, strict=True):
                table[..., self.count : self.count + 1, :] = row
        self.count += 1
        return F.scaled_dot_product_attention(q, *(t[..., : self.count, :] for t in self.tables))

    def select(self, index: Tensor) -> None:
        """Keeps these data."""
        self.tables = [t[index] for t in self.tables]
