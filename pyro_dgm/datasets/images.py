"""Folders and zip archives of image files.

The usual layout is ``split/class/file``: the folder above a file is its class, the folders above that (if
any) lead to the split. Classes are numbered in alphabetical order, and the images come in the order of their
paths, so two readings agree. All images must have one size, since they become one tensor; nothing is resized,
because resampling changes a density. JPEG is lossy: bits per dimension of a re-encoded set (such as the
CIFAR-10 archive that :func:`cifar10` reads) do not compare with published ones.

Source of CIFAR-10: Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._files import check_choice, data_folder, find_file, require

__all__ = ["LabelledImages", "cifar10", "read_images"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class LabelledImages(NamedTuple):
    """Images with their classes.

    Attributes:
        images: uint8 with shape ``(n, channels, height, width)``.
        labels: int64 with shape ``(n,)``, positions in ``classes``.
        classes: The names of the classes, in alphabetical order.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def read_images(
    path: str | os.PathLike,
    split: str = "",
    *,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    per_class: int | None = None,
) -> LabelledImages:
    """Reads the images of a folder or a zip archive.

    Args:
        path: The folder or the archive.
        split: The folder inside it to read from, such as ``"train"``; the whole unless given.
        size: The height and width in pixels that every image must have; those of the first unless given.
        channels: 3 for colour, 1 for grey; images are converted.
        per_class: Read only so many images of each class, the first by name.

    Returns:
        The images, the labels and the names of the classes. Images that lie directly in the folder have class
        ``""``.

    Raises:
        ImportError: If Pillow is not installed.
        FileNotFoundError: If there is no such folder or archive.
        ValueError: If there are no images, one cannot be read, or one has another size.

    Example:
        >>> images, labels, classes = read_images("faces.zip", "train", size=(64, 64))  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_dir():
        files = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return _collect(path, files, lambda name: (path / name).read_bytes(), split, size, channels, per_class)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a folder or a zip archive of images, found neither")
    try:
        with zipfile.ZipFile(path) as archive:
            return _collect(path, archive.namelist(), archive.read, split, size, channels, per_class)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: expected a whole zip archive, got a damaged one ({error})") from error


def cifar10(
    folder: str | os.PathLike | None = None,
    split: Literal["train", "test"] = "train",
    *,
    per_class: int | None = None,
) -> LabelledImages:
    """Reads one split of CIFAR-10 from ``cifar10-jpg.zip``: 50,000 or 10,000 colour images of 32x32 pixels.

    Args:
        folder: The folder that holds the archive; ``$PYRO_DGM_DATA/cifar10`` unless given.
        split: ``"train"`` or ``"test"``.
        per_class: Read only so many images of each of the ten classes.

    Returns:
        The images, the labels and the names of the classes.

    Raises:
        ImportError: If Pillow is not installed.
        FileNotFoundError: If the folder or the archive is missing.
        ValueError: If the archive is damaged.

    Example:
        >>> cifar10("data/cifar10", "test", per_class=10).images.shape  # doctest: +SKIP
        torch.Size([100, 3, 32, 32])
    """
    check_choice("cifar10: split", split, ("train", "test"))
    archive = find_file(data_folder(folder, "cifar10"), "cifar10-jpg.zip")
    return read_images(archive, split, size=(32, 32), per_class=per_class)


def _choose(names: list[str], split: str, per_class: int | None) -> dict[str, list[str]]:
    """The image files under ``split`` by class, both in alphabetical order."""
    chosen: dict[str, list[str]] = {}
    for name in sorted(names):
        file = PurePosixPath(name)
        if file.suffix.lower() in _SUFFIXES and file.is_relative_to(split) and "__MACOSX" not in file.parts:
            chosen.setdefault(file.relative_to(split).parent.name, []).append(name)
    return {label: chosen[label][:per_class] for label in sorted(chosen)}


def _collect(
    source: Path,
    names: list[str],
    read: Callable[[str], bytes],
    split: str,
    size: tuple[int, int] | None,
    channels: int,
    per_class: int | None,
) -> LabelledImages:
    """Decodes the chosen files of ``source`` into one tensor."""
    by_class = _choose(names, split, per_class)
    files = [(label, name) for label, (_, group) in enumerate(by_class.items()) for name in group]
    if not files:
        raise ValueError(f"{source}: expected images in '{split or '.'}', got none of {sorted(_SUFFIXES)}")
    images: Tensor | None = None
    for position, (_, name) in enumerate(files):
        pixels = _decode(f"{source}/{name}", read(name), channels)
        if images is None:
            size = pixels.shape[1:] if size is None else size
            images = torch.empty((len(files), channels, *size), dtype=torch.uint8, device="cpu")
        if pixels.shape[1:] != tuple(size):
            expected, found = "x".join(map(str, size)), "x".join(map(str, pixels.shape[1:]))
            raise ValueError(f"{source}/{name}: expected {expected} pixels (height x width), got {found}")
        images[position] = pixels
    labels = torch.tensor([label for label, _ in files], device="cpu")
    return LabelledImages(images, labels, tuple(by_class))


def _decode(name: str, content: bytes, channels: int) -> Tensor:
    """One image file as uint8 with shape ``(channels, height, width)``."""
    pillow = require("PIL.Image")
    try:
        with pillow.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{name}: expected 8 bits per channel, got mode {image.mode}; scale to 0..255 first")
            pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name}: expected an image, but {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)
