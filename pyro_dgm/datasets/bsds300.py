r"""Patches of natural images, the hardest of the five tables by which densities of continuous data are compared.

From the sums :math:`s` of red, green and blue over an 8 x 8 patch of the Berkeley segmentation images,

.. math::
    y = \frac{s / 3 + u}{256}, \quad u \sim U[0, 1)^{64}, \qquad x = (y - \bar y)_{1 \dots 63}

the mean of a patch is taken away, and with it the last pixel, which the others then determine: 63 dimensions.
Published figures are :math:`\log p(x)` in nats. (Zoran and Weiss, 2011, made the patches; Papamakarios, Pavlakou and
Murray, Masked Autoregressive Flow for Density Estimation, 2017, arXiv:1705.07057, the protocol. The images: Martin,
Fowlkes, Tal and Malik, 2001.)
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from ._files import Split, check_choice, data_folder

__all__ = ["bsds300"]


def bsds300(split: Split, folder: str | os.PathLike | None = None, seed: int = 0) -> Tensor:
    """Reads one part of the patches, 300,000, 20,000 or 50,000 of them.

    Args:
        split: ``"train"``, ``"valid"`` or ``"test"``; their images are disjoint.
        folder: The folder that holds ``SPLIT.npz``, each with an array ``rgb_sum``, uint16 with shape (n, 64);
            ``$PYRO_DGM_DATA/bsds300`` unless given.
        seed: Seed of the dequantisation noise; another seed is another draw of the same patches.

    Returns:
        The patches, of torch's default floating type with shape (n, 63).

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If the split is unknown, or the file holds no such patches.

    Example:
        >>> bsds300("valid", "data/bsds300").shape  # doctest: +SKIP
        torch.Size([20000, 63])
    """
    check_choice("bsds300: split", split, ("train", "valid", "test"))
    path = data_folder(folder, "bsds300") / f"{split}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the patches, found no file")
    try:
        with np.load(path) as file:
            sums = file["rgb_sum"]
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: expected an archive of numpy with an array rgb_sum: {error}") from error
    if sums.ndim != 2 or sums.shape[1] != 64 or sums.min() < 0 or sums.max() > 765:
        raise ValueError(f"{path}: expected sums 0..765 with shape (n, 64), got {sums.dtype} {sums.shape}")
    noise = np.random.default_rng(seed).random(sums.shape)
    y = (sums / 3 + noise) / 256
    x = (y - y.mean(1, keepdims=True))[:, :-1]
    return torch.from_numpy(x).to(torch.get_default_dtype())
