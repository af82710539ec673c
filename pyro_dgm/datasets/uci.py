r"""Small real-valued tables from the UCI repository, and the protocol by which densities are compared.

All columns :math:`x_1, \dots, x_D` of a table together are the variable, its target included. The protocol:
rows are permuted by ``numpy.random.RandomState(0)``, the last tenth is the test set, the tenth before it the
validation set, the rest training; then every column is standardised by the training set,

.. math:: z_d = (x_d - m_d) / s_d, \qquad \log p(x) = \log p(z) - \sum_d \log s_d,

with the mean :math:`m_d` and the deviation :math:`s_d` (divided by n) of the training rows. Published numbers
are :math:`\log p(z)` in nats, in these standardised units. ``wine-quality-red`` leaves out its last column,
the quality: an integer, on which a density could grow without bound.

Source: UCI Machine Learning Repository (Dua and Graff, 2017), https://archive.ics.uci.edu
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._files import check_choice, data_folder, find_file, read_numbers

__all__ = ["COLUMNS", "Splits", "read_table", "split", "uci"]

COLUMNS = {
    "bostonHousing": 14,
    "concrete": 9,
    "energy": 9,
    "power-plant": 5,
    "wine-quality-red": 12,
    "yacht": 7,
}
"""The tables that :func:`uci` knows and the number of columns in their files."""


class Splits(NamedTuple):
    """The three parts of a standardised table, and how to undo the standardisation: ``x = mean + std * z``.

    Attributes:
        train: The training rows, with shape ``(n, columns)``.
        validation: The validation rows.
        test: The test rows.
        mean: The training mean, in the table's units, with shape ``(columns,)``.
        std: The training deviation, in the table's units, with shape ``(columns,)``.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    mean: Tensor
    std: Tensor


def read_table(path: str | os.PathLike, columns: Sequence[int] | None = None) -> Tensor:
    """Reads a text table separated by commas or white space, plain or gzipped.

    Args:
        path: The file.
        columns: The columns to keep, counted from 0, all unless given; the others need not be numbers (the
            ionosphere data of the RNADE paper are ``range(2, 34)`` of a file whose last column is a letter).

    Returns:
        The table, float64 with shape ``(rows, columns)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, its rows differ in length, a column is missing, or an entry is no number.
    """
    return torch.from_numpy(read_numbers(path, None if columns is None else tuple(columns)))


def split(table: Tensor) -> Splits:
    """Permutes, splits and standardises a table by the protocol above.

    Args:
        table: The table, with shape ``(rows, columns)`` and at least ten rows.

    Returns:
        The parts, of torch's default floating type; computed in float64.

    Raises:
        ValueError: If there are fewer than ten rows, or a column is constant or not a number on the training
        rows.

    Example:
        >>> parts = split(torch.arange(40.0).reshape(20, 2))
        >>> parts.train.shape, parts.validation.shape, parts.test.shape
        (torch.Size([16, 2]), torch.Size([2, 2]), torch.Size([2, 2]))
    """
    if table.dim() != 2 or len(table) < 10:
        raise ValueError(f"split: expected a table with at least 10 rows, got shape {tuple(table.shape)}")
    rows = np.random.RandomState(0).permutation(len(table))  # the published protocol
    shuffled = table.double()[torch.from_numpy(rows).to(table.device)]
    tenth = len(table) // 10
    parts = shuffled.split((len(table) - 2 * tenth, tenth, tenth))
    std, mean = torch.std_mean(parts[0], 0, correction=0)
    constant = (~(std > 0)).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"split: expected columns that vary on the training rows, not {constant}")
    standard = [(part - mean) / std for part in parts]
    return Splits(*(tensor.to(torch.get_default_dtype()) for tensor in (*standard, mean, std)))


def uci(name: str, folder: str | os.PathLike | None = None) -> Splits:
    """Reads a table and splits it by the protocol above.

    Args:
        name: A key of :data:`COLUMNS`; the file is ``NAME.txt``, plain or gzipped.
        folder: The folder that holds the files; ``$PYRO_DGM_DATA/uci`` unless given.

    Returns:
        The standardised parts.

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If the name is unknown, or the file is not the table of that name.

    Example:
        >>> uci("yacht", "data/uci").train.shape  # doctest: +SKIP
        torch.Size([248, 7])
    """
    check_choice("uci: name", name, tuple(COLUMNS))
    path = find_file(data_folder(folder, "uci"), f"{name}.txt")
    table = read_table(path)
    if table.shape[1] != COLUMNS[name]:
        raise ValueError(f"{path}: expected {COLUMNS[name]} columns for {name}, got {table.shape[1]}")
    return split(table[:, :-1] if name == "wine-quality-red" else table)
