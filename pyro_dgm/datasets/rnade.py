r"""The real-valued tables of the RNADE paper, in ten folds.

A fold is tested, the fold after it (the first after the last) is for validation, the other eight are for training.
Every column is standardised by the nine folds that are not tested,

.. math:: z_d = (x_d - m_d) / s_d

and published figures are the mean of :math:`\log p(z)` in nats over the ten folds. (Uria, Murray and Larochelle, RNADE:
The real-valued neural autoregressive density-estimator, 2013, arXiv:1306.0186.) The folds of ``wine-quality-red`` are
the authors' own; the others are drawn by ``numpy.random.RandomState(0)``.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from ._files import check_choice, data_folder, find_file
from .uci import Splits, read_table

__all__ = ["rnade"]

_COLUMNS = {"wine-quality-red": range(11), "wine-quality-white": range(11), "ionosphere": range(2, 34)}


def rnade(name: str, fold: int, folder: str | os.PathLike | None = None) -> Splits:
    """Reads a table as it is used when one of its ten folds is tested.

    Args:
        name: ``"wine-quality-red"``, ``"wine-quality-white"`` (11 columns each) or ``"ionosphere"`` (32).
        fold: The fold to test, 1 to 10.
        folder: The folder that holds ``wine-quality-red-folds.csv``, whose last column is the fold,
            ``wine-quality-white.csv`` and ``ionosphere.csv``, plain or gzipped; ``$PYRO_DGM_DATA/uci`` unless given.

    Returns:
        The standardised parts.

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If the name or the fold is unknown, or the file is not the table of that name.

    Example:
        >>> rnade("ionosphere", 1, "data/uci").test.shape  # doctest: +SKIP
        torch.Size([36, 32])
    """
    check_choice("rnade: name", name, tuple(_COLUMNS))
    if fold not in range(1, 11):
        raise ValueError(f"rnade: fold: expected one of 1..10, got {fold!r}")
    authors = name == "wine-quality-red"
    path = find_file(data_folder(folder, "uci"), f"{name}-folds.csv" if authors else f"{name}.csv")
    columns = list(_COLUMNS[name])
    table = read_table(path, [*columns, 11] if authors else columns)
    if authors:
        table, folds = table[:, :-1], table[:, -1].long()
    else:
        folds = torch.empty(len(table), dtype=torch.long, device="cpu")
        folds[torch.from_numpy(np.random.RandomState(0).permutation(len(table)))] = (
            torch.arange(len(table), device="cpu") % 10 + 1
        )
    std, mean = torch.std_mean(table[folds != fold], 0, correction=0)
    if not (std > 0).all():
        raise ValueError(f"{path}: expected columns that vary outside of fold {fold}")
    validation = fold % 10 + 1
    z = (table - mean) / std
    parts = z[(folds != fold) & (folds != validation)], z[folds == validation], z[folds == fold]
    return Splits(*(tensor.to(torch.get_default_dtype()) for tensor in (*parts, mean, std)))
