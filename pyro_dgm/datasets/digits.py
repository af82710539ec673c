"""The 8x8 digits that travel inside scikit-learn: real images with no file to fetch.

1,797 handwritten digits, each pixel the count 0..16 of black points in a 4x4 block of a 32x32 scan. They have
17 levels, not 16: dequantise them with ``levels=17`` and binarise them with ``maximum=16``. Small enough for
a laptop's CPU, and real enough to show whether a model has learnt anything.

Source: Methods of Combining Multiple Classifiers and Their Applications to Handwritten Digit Recognition (Xu,
Krzyzak and Suen, 1992); Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI
repository.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._files import require

__all__ = ["digits"]


def digits() -> tuple[Tensor, Tensor]:
    """Reads the digits embedded in scikit-learn.

    Returns:
        The images, uint8 levels 0..16 with shape ``(1797, 1, 8, 8)``, and the labels, int64 with shape
        ``(1797,)``.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> images, labels = digits()
        >>> images.shape, images.max(), labels[:3]
        (torch.Size([1797, 1, 8, 8]), tensor(16, dtype=torch.uint8), tensor([0, 1, 2]))
    """
    bunch = require("sklearn.datasets").load_digits()
    return torch.from_numpy(bunch.images).byte().unsqueeze(1), torch.from_numpy(bunch.target).long()
