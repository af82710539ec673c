"""Binary density-estimation data with published splits (DEBD).

Tables of zeros and ones on which tractable models (Bayesian networks, NADE, MADE, probabilistic circuits) are
compared by the mean log-likelihood of the test rows in nats. Each set is three files, ``NAME.train.data``,
``NAME.valid.data`` and ``NAME.test.data`` (plain or gzipped), one row a line, entries separated by commas.
Since every column is binary, a mean log-likelihood is at most 0, and a model of independent fair coins scores
minus ``features * log(2)``.

Sources: Learning Markov Network Structure with Decision Trees (Lowd and Davis, 2010); Markov Network
Structure Learning: A Randomized Feature Generation Approach (Van Haaren and Davis, 2012); The Neural
Autoregressive Distribution Estimator (Larochelle and Murray, 2011) for adult, dna, mushrooms and nips.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from ._files import Split, check_choice, data_folder, find_file, read_numbers

__all__ = ["FEATURES", "debd"]

FEATURES = {
    "nltcs": 16,
    "plants": 69,
    "baudio": 100,
    "mushrooms": 112,
    "adult": 123,
    "pumsb_star": 163,
    "dna": 180,
    "nips": 500,
    "moviereview": 1001,
    "bbc": 1058,
}
"""The number of columns of the sets that are checked; any other set is read as it comes."""


def debd(name: str, folder: str | os.PathLike | None = None, split: Split = "train") -> Tensor:
    """Reads one split of one set.

    Args:
        name: The name of the set, the first part of the file names: a key of :data:`FEATURES` or another.
        folder: The folder that holds the files; ``$PYRO_DGM_DATA/debd`` unless given.
        split: ``"train"``, ``"valid"`` or ``"test"``.

    Returns:
        The rows, uint8 zeros and ones with shape ``(n, features)``.

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If an entry is neither 0 nor 1, rows differ in length, or a known set has another width.

    Example:
        >>> debd("nltcs", "data/debd", "test").shape  # doctest: +SKIP
        torch.Size([3236, 16])
    """
    check_choice("debd: split", split, ("train", "valid", "test"))
    path = find_file(data_folder(folder, "debd"), f"{name}.{split}.data")
    table = read_numbers(path)
    features = FEATURES.get(name, table.shape[1])
    if table.shape[1] != features:
        raise ValueError(f"{path}: expected {features} columns for {name}, got {table.shape[1]}")
    wrong = table[(table != 0) & (table != 1)]
    if wrong.size:
        raise ValueError(f"{path}: expected zeros and ones only, got {wrong[0]:g}")
    return torch.from_numpy(table.astype(np.uint8))
