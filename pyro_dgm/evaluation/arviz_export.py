"""Export of a fitted model to ArviZ, for its plots and its file format.

ArviZ keeps the results of Bayesian inference in named groups of arrays whose first two axes are (chain,
draw). A deep generative model is fitted by optimisation, so it has one chain and no posterior of its
parameters; what varies from draw to draw is what it generates. With n data x of event shape E, contexts c
and S draws:

    observed_data         x   (n, *E)              the data
    posterior_predictive  x   (1, S, n, *E)        S data sets of the size of yours, from p(x | c_i)
    log_likelihood        x   (1, 1, n)            log p(x_i | c_i), nats; no such group if implicit
    posterior             z   (1, S, n, latent)    draws of q(z | x_i), for a model with latent variables

The log-likelihood is one number for each datum, and its attribute `density` says whether it is exact, a
lower bound or an estimate. Leave-one-out from draws of parameters (`arviz.loo`) does not apply to it: hold
data out, and use `compare`.

ArviZ changed its container between versions: 0.x takes groups as keyword arguments and returns
InferenceData, 1.x takes one nested dictionary and returns an xarray DataTree. Both work; `from_groups` is
the only place that knows.

Ravin Kumar, Colin Carroll, Ari Hartikainen, Osvaldo Martin: ArviZ, a unified library for exploratory
analysis of Bayesian models in Python, Journal of Open Source Software 4(33), 2019.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..distributions import density_of
from .likelihood import check_batch, evaluating, pointwise

Groups = dict[str, dict[str, np.ndarray]]


def to_arviz(
    model: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    num_samples: int = 100,
    *,
    batch_size: int = 1024,
) -> Any:
    """Export data, draws and log-likelihoods to the container of the installed ArviZ.

    Draws come from the global generator, as with `p.sample`; seed it with `pyro.set_rng_seed`. The model
    runs without gradients and in evaluation mode, and gets its mode back.

    Args:
        model: called with a context (or None), returns a distribution. If it has a method `infer`, that is
            called with the data and contexts for q(z | x, c).
        x: data, with shape `[n] + event_shape`, n >= 1.
        context: shape `[n, context]` or `[context]`, if the model is conditional.
        num_samples: S, the number of draws for each datum; S n data are generated.
        batch_size: data generated or scored at once (at least n at a time when generated).

    Returns:
        `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x; groups as in the module's
        table.

    Raises:
        ValueError: x is empty, num_samples is less than 1, or a shape is wrong.
    """
    if len(x) < 1 or num_samples < 1:
        raise ValueError(f"x, num_samples: expected at least 1 of each, got {len(x)} and {num_samples}.")
    density = None
    with torch.no_grad(), evaluating(model):
        p = model(context)
        groups = {"posterior_predictive": {"x": _draws(p, len(x), num_samples, batch_size)}}
        if density_of(p) != "implicit":
            log_p, density = pointwise(model, x, context, batch_size)
            groups["log_likelihood"] = {"x": _numpy(log_p)[None, None]}
        if hasattr(model, "infer"):
            q = model.infer(x, context)
            groups["posterior"] = {"z": _draws(q, len(x), num_samples, batch_size)}
    groups["observed_data"] = {"x": _numpy(x)}
    return from_groups(groups, density)


def from_groups(groups: Mapping[str, Mapping[str, np.ndarray]], density: str | None = None) -> Any:
    """Build the container of the installed ArviZ from arrays.

    Args:
        groups: group -> variable -> array; arrays have leading (chain, draw) axes, except in `observed_data`.
        density: recorded as an attribute of the group `log_likelihood`, if given.

    Returns:
        `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.
    """
    with warnings.catch_warnings():  # 0.23 announces 1.x on import
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    nested = {group: dict(variables) for group, variables in groups.items()}
    major = int(arviz.__version__.split(".")[0])
    result = arviz.from_dict(nested) if major >= 1 else arviz.from_dict(**nested)
    if density is not None:
        result["log_likelihood"].attrs["density"] = density
    return result


def _draws(p: TorchDistribution, n: int, num_samples: int, batch_size: int) -> np.ndarray:
    """Samples `(1, S, n, *event)` of p with batch shape `(n,)` or `()`, about `batch_size` data at a time."""
    check_batch(p, n)
    rows = () if len(p.batch_shape) else (n,)
    chunk = max(1, batch_size // n)
    counts = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
    return np.concatenate([_numpy(p.sample(torch.Size((count, *rows)))) for count in counts])[None]


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
