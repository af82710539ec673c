r"""Autoregressive models: :math:`p(x | c) = \prod_i p(x_i | x_{<i}, c)`.

The density of data is exact and takes one pass; a sample takes D steps, each of which computes what is new only.

``made.py`` has masked networks, ``nade.py`` recursions and networks of all orders, ``transformer.py``
attention, ``pixel_rnn.py`` LSTMs over images.
"""

from .base import AutoregressiveModel, ManyOrders, OneOrder
from .made import FVBN, MADE
from .nade import NADE, RNADE, ConvNADE, EoNADE
from .pixel_rnn import PixelRNN
from .transformer import CausalTransformer

__all__ = [
    "FVBN",
    "MADE",
    "NADE",
    "RNADE",
    "AutoregressiveModel",
    "CausalTransformer",
    "ConvNADE",
    "EoNADE",
    "ManyOrders",
    "OneOrder",
    "PixelRNN",
]
