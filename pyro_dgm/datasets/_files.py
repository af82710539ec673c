"""What every reader of this folder shares: finding a file, opening it, and saying what is wrong with it.

A reader looks in the folder that it is given, else in ``$PYRO_DGM_DATA/<dataset>``; nothing is downloaded.
Each file may be plain or gzipped: what counts is its first two bytes, not its name. A file that is missing is
a ``FileNotFoundError``, one that is there and wrong a ``ValueError``; both name the file, what was expected
and what came, since a data set that is quietly misread is worse than one that is not read.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import zlib
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

__all__ = ["Split", "check_choice", "data_folder", "find_file", "read_bytes", "read_numbers", "require"]

Split = Literal["train", "valid", "test"]


def require(module: str) -> ModuleType:
    """Imports an optional dependency when it is first needed.

    Args:
        module: The dotted name.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this reader needs {module}: pip install pyro-dgm[datasets]") from error


def data_folder(folder: str | os.PathLike | None, dataset: str) -> Path:
    """The folder of a data set: ``folder`` if given, else ``$PYRO_DGM_DATA/<dataset>``.

    Raises:
        ValueError: If neither is given.
        FileNotFoundError: If there is no such folder.
    """
    root = os.environ.get("PYRO_DGM_DATA")
    if folder is None and not root:
        raise ValueError(
            f"{dataset}: no folder; pass folder=, or set PYRO_DGM_DATA to the folder that holds {dataset}/"
        )
    path = Path(root, dataset) if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder of {dataset}, found none")
    return path


def find_file(folder: Path, name: str) -> Path:
    """The file ``name`` or ``name.gz`` in ``folder``.

    Raises:
        FileNotFoundError: If there is neither.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: expected {name} or {name}.gz in this folder, found neither")


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a plain or gzipped file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a damaged gzip file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got a damaged one ({error})") from error


def read_numbers(path: str | os.PathLike, columns: tuple[int, ...] | None = None) -> np.ndarray:
    """A text table of numbers, separated by commas or white space, as float64 with shape ``(rows, columns)``.

    Args:
        path: The file; plain or gzipped.
        columns: The columns to keep, counted from 0; all unless given. The others need not be numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, its rows differ in length, a column is missing, or an entry is no number.
    """
    content = read_bytes(path)
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: expected a table of numbers, got an empty file")
    comma = b"," if b"," in lines[0] else None
    width = len(lines[0].split(comma))
    for number, line in enumerate(lines, 1):
        if len(line.split(comma)) != width:
            found = len(line.split(comma))
            raise ValueError(f"{path}: expected {width} columns as in the first row, got {found} in row {number}")
    if columns is not None and not all(0 <= column < width for column in columns):
        raise ValueError(f"{path}: expected columns up to {max(columns)} (from 0), got {width} columns")
    text = io.BytesIO(b"\n".join(lines))
    try:
        return np.loadtxt(text, np.float64, delimiter=comma and comma.decode(), usecols=columns, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers only, but {error}") from error
