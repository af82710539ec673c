r"""Autoregressive models: :math:`p(x | c) = \prod_i p(x_i | x_{<i}, c)`.

The density of data is exact and takes one pass; a sample takes D steps, each of which computes what is new only.

``made.py`` has masked networks, ``nade.py`` recursions and networks of all orders, ``pixel_cnn.py`` and
``pixel_cnn_plus_plus.py`` causal convolutions, ``pixel_rnn.py`` LSTMs over images, ``transformer.py`` attention;
``own.py`` takes a network of yours.
"""

from .base import AutoregressiveModel, ManyOrders, OneOrder
from .made import FVBN, MADE
from .nade import NADE, RNADE, ConvNADE, EoNADE
from .own import Autoregressive
from .pixel_cnn import GatedPixelCNN, PixelCNN
from .pixel_cnn_plus_plus import PixelCNNPlusPlus
from .pixel_rnn import PixelRNN
from .transformer import CausalTransformer

__all__ = [
    "FVBN",
    "MADE",
    "NADE",
    "RNADE",
    "Autoregressive",
    "AutoregressiveModel",
    "CausalTransformer",
    "ConvNADE",
    "EoNADE",
    "GatedPixelCNN",
    "ManyOrders",
    "OneOrder",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "PixelRNN",
]
