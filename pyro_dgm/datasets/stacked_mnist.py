r"""Stacked MNIST: three digits, drawn at random, as the channels of one image in colour.

A thousand classes, :math:`100 r + 10 g + b`, about equally frequent, from the files of MNIST and nothing else: data
with a known number of modes, by which to see whether a model drops some
(:func:`pyro_dgm.evaluation.class_coverage`).

Source: Unrolled Generative Adversarial Networks (Metz, Poole, Pfau and Sohl-Dickstein, 2016, arXiv:1611.02163); 128,000
images as in PacGAN (Lin, Khetan, Fanti and Oh, 2017, arXiv:1712.04086).
"""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from .idx import mnist

__all__ = ["stacked_mnist"]


def stacked_mnist(
    folder: str | os.PathLike | None = None,
    split: Literal["train", "test"] = "train",
    n: int = 128_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Stacks digits of one split of MNIST, three to an image.

    Args:
        folder: The folder that holds the four files of MNIST; ``$PYRO_DGM_DATA/mnist`` unless given.
        split: ``"train"`` or ``"test"``.
        n: The number of images, each of 2,352 bytes.
        seed: The seed of the draws, with replacement; the global generator is not touched.

    Returns:
        The images, uint8 with shape ``(n, 3, height, width)``, and the labels 0..999, int64 with shape ``(n,)``.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file is damaged, or n is not positive.

    Example:
        >>> images, labels = stacked_mnist("data/mnist", n=1000)  # doctest: +SKIP
        >>> images.shape  # doctest: +SKIP
        torch.Size([1000, 3, 28, 28])
    """
    if n < 1:
        raise ValueError(f"stacked_mnist: n must be positive, got {n}")
    images, labels = mnist(folder, split)
    generator = torch.Generator("cpu").manual_seed(seed)
    chosen = torch.randint(len(images), (n, 3), generator=generator, device="cpu")
    r, g, b = labels[chosen].unbind(-1)
    return images[chosen].squeeze(2), 100 * r + 10 * g + b
