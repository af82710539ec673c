r"""The IDX format, and MNIST in it.

An IDX file is one array: two zero bytes, a byte that says the type of an entry, a byte that says the number
:math:`d` of axes, :math:`d` lengths as big-endian 32-bit integers, then the entries in C order, big-endian.
MNIST is four such files, images and labels of a training and a test split, usually gzipped:

======================================  ==================
``train-images-idx3-ubyte[.gz]``        60,000 x 28 x 28
``train-labels-idx1-ubyte[.gz]``        60,000
``t10k-images-idx3-ubyte[.gz]``         10,000 x 28 x 28
``t10k-labels-idx1-ubyte[.gz]``         10,000
======================================  ==================

Source: The MNIST database of handwritten digits (LeCun, Cortes and Burges, 1998). Other sets in the same four
files (Fashion-MNIST, KMNIST) are read by the same function from their own folder.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ._files import check_choice, data_folder, find_file, read_bytes

__all__ = ["mnist", "read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike) -> Tensor:
    """Reads one IDX file, plain or gzipped.

    Args:
        path: The file.

    Returns:
        The array, in the type and the shape that the file states.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no IDX file, or has fewer or more entries than its header states.
    """
    content = read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ValueError(
            f"{path}: expected the magic number of an IDX file (00 00 08-0e dd), got {content[:4].hex(' ')}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes, got a file of {len(content)}")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    dtype = np.dtype(_TYPES[content[2]])
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if expected != found:
        raise ValueError(f"{path}: expected {expected} bytes for shape {shape}, got {found}")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("=")))


def mnist(folder: str | os.PathLike | None = None, split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
    """Reads the images and the labels of one split of MNIST.

    Args:
        folder: The folder that holds the four files; ``$PYRO_DGM_DATA/mnist`` unless given.
        split: ``"train"`` or ``"test"``.

    Returns:
        The images, uint8 with shape ``(n, 1, height, width)``, and the labels, int64 with shape ``(n,)``.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file is damaged, or images and labels do not match.

    Example:
        >>> images, labels = mnist("data/mnist", "test")  # doctest: +SKIP
        >>> images.shape, labels.shape  # doctest: +SKIP
        (torch.Size([10000, 1, 28, 28]), torch.Size([10000]))
    """
    check_choice("mnist: split", split, ("train", "test"))
    where, prefix = data_folder(folder, "mnist"), "train" if split == "train" else "t10k"
    images_file = find_file(where, f"{prefix}-images-idx3-ubyte")
    labels_file = find_file(where, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_file), read_idx(labels_file)
    for path, array, axes in ((images_file, images, 3), (labels_file, labels, 1)):
        if array.dtype != torch.uint8 or array.dim() != axes:
            found = f"{array.dtype} with {array.dim()}"
            raise ValueError(f"{path}: expected torch.uint8 with {axes} axes, got {found}")
    if len(images) != len(labels):
        raise ValueError(f"{labels_file}: expected {len(images)} labels, one for each image, got {len(labels)}")
    return images.unsqueeze(1), labels.long()
