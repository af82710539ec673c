"""Data: toy densities with a known truth, and readers of the field's own file formats.

Nothing here downloads, seeds or changes anything. A reader is given a ``folder``, or finds its own under the
folder named by the environment variable ``PYRO_DGM_DATA`` (``$PYRO_DGM_DATA/mnist``, ``.../debd``,
``.../uci``, ``.../cifar10``). Images come as they are stored, as uint8 levels with shape ``(n, channels,
height, width)``; :func:`dequantize` makes them real numbers for a density, :func:`binarize` bits for a model
of coins. A wrong file is a ``ValueError`` that names the file, what was expected and what came.

==================================  ============================================================
what                                functions
==================================  ============================================================
known densities of the plane        :mod:`toy`: ``toy.two_moons()``, ..., all in ``toy.ALL``
images                              :func:`digits` (no file needed), :func:`mnist`,
                                    :func:`stacked_mnist`, :func:`cifar10`
tables with published splits        :func:`debd` (binary), :func:`uci`, :func:`rnade`,
                                    :func:`bsds300` (real)
any file of a format                :func:`read_idx`, :func:`read_images`, :func:`read_table`
levels to numbers or bits           :func:`dequantize`, :func:`binarize`
==================================  ============================================================

Example:
    >>> truth = toy.two_moons()
    >>> x = truth.sample((1000,))
    >>> truth.log_prob(x).shape
    torch.Size([1000])
"""

from . import toy
from .bsds300 import bsds300
from .debd import debd
from .digits import digits
from .idx import mnist, read_idx
from .images import LabelledImages, cifar10, read_images
from .levels import binarize, dequantize
from .rnade import rnade
from .stacked_mnist import stacked_mnist
from .uci import Splits, read_table, split, uci

__all__ = [
    "LabelledImages",
    "Splits",
    "binarize",
    "bsds300",
    "cifar10",
    "debd",
    "dequantize",
    "digits",
    "mnist",
    "read_idx",
    "read_images",
    "read_table",
    "rnade",
    "split",
    "stacked_mnist",
    "toy",
    "uci",
]
