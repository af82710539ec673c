"""The state of every random number generator: of Python, numpy, torch and the device.

A run that is to be repeated or resumed depends on all four, since a user's dataset or model may draw from any of
them. States are handed out as tensors, numbers and strings, which a file that is read without executing anything can
hold.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def get_state(device: torch.device) -> State:
    """Returns the states of all generators, as tensors, numbers and strings that can be stored."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: State = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words, dtype=torch.int64, device="cpu"), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def set_state(state: State, device: torch.device) -> None:
    """Puts every generator into a state that :func:`get_state` has returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "device" in state:
        torch.cuda.set_rng_state(state["device"].cpu(), device)


def seed_all(seed: int) -> None:
    """Seeds every generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def unchanged(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within, every generator ends as it began."""
    state: State = get_state(device)
    try:
        yield
    finally:
        set_state(state, device)


def derived(seed: int, *numbers: int) -> int:
    """Returns a seed that is as good as independent for other numbers (a rank, a step)."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0] % 2**63)
