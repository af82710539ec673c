r"""The causal transformer as a density of vectors and images.

.. math::
    p(x | c) = \prod_t h\bigl(x_t; \theta_t(x_{<t}, c)\bigr)

with :math:`\theta` the network of :mod:`pyro_dgm.nn.transformer`, in which every number attends to all before it:
nothing is out of sight, at a cost that grows with the square of how many there are. (Vaswani et al., Attention Is All
You Need, 2017, arXiv:1706.03762; Parmar et al., Image Transformer, 2018, arXiv:1802.05751; Chen, Mishra, Rohaninejad
and Abbeel, PixelSNAIL, 2018, arXiv:1712.09763.)
"""

from collections.abc import Sequence

from ...._shapes import as_shape
from ....distributions import heads
from ....nn.transformer import TransformerNetwork
from .base import Head, OneOrder


class CausalTransformer(OneOrder):
    """Causal transformer: numbers one after another, each attending to all before it.

    Density takes one pass; a sample takes D steps that keep keys and values, and together cost about one pass. Memory
    for it is 2 blocks * width numbers per number and sample. The context is added in every block, so a class enters
    one-hot. Dropout makes log-densities random in training mode; call ``eval()`` before you compare them. Attention is
    fused, so second derivatives want ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` around them.
    (Parmar et al., 2018, arXiv:1802.05751; Chen, Mishra, Rohaninejad and Abbeel, 2018, arXiv:1712.09763.)

    Args:
        event_shape: Number of features D of a vector, or the shape (D,) of one, or (C, H, W) of an image, read row by
            row, the colours of a pixel in turn.
        context: Width of the context, 0 for none.
        width: Width of the stream that blocks add to.
        blocks: Number of blocks.
        attention_heads: Number of attention heads, which divides the width.
        mlp_features: Width of the layer within a block; four times the width when ``None``.
        head: The distribution of a number; coins when ``None``.
        order: Place of every number of a vector in the order, a permutation of 0..D-1; natural order when ``None``.
        dropout: Share of what blocks add, and of attention, that is left out in training.
        standardize: Whether real numbers of a vector are standardised by the moments of the training data.

    Raises:
        ValueError: If the event is neither vector nor image, an image has an order, there is no block, the heads do not
            divide the width, or dropout is not in [0, 1).

    Example:
        >>> model = CausalTransformer((1, 2, 2), width=8, blocks=1, attention_heads=2)
        >>> x = model().sample((5,))
        >>> x.shape, model().log_prob(x[0]).exp().item()
        (torch.Size([5, 1, 2, 2]), 0.0625)
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        *,
        width: int = 128,
        blocks: int = 4,
        attention_heads: int = 4,
        mlp_features: int | None = None,
        head: Head | None = None,
        order: Sequence[int] | None = None,
        dropout: float = 0.0,
        standardize: bool = True,
    ) -> None:
        head = head or heads.Bernoulli()
        event_shape = as_shape(event_shape)
        conditioner = TransformerNetwork(
            event_shape, head.size, width, blocks, attention_heads, mlp_features, context, order, dropout,
            in_per_feature=head.size_in,
        )  # fmt: skip
        super().__init__(conditioner, head, context, standardize)
