"""Model comparison by held-out log-likelihood, in the columns that ArviZ made familiar.

For models A, B, ... and held-out data x_1, ..., x_n with pointwise scores a_i = log p_A(x_i), in nats:

    elpd       sum_i a_i, the expected log pointwise predictive density of n new data (a SUM, as in ArviZ)
    se         sqrt(n) sd(a_i), its standard error
    elpd_diff  elpd of the best model minus elpd of this one, so 0 for the best and positive otherwise
    dse        sqrt(n) sd(best_i - a_i), the standard error of that difference

The difference is paired: a datum that is hard for every model cancels, so dse is usually far below se, and a
difference counts when it is several dse, however large se is. Standard deviations divide by n - 1 (ArviZ:
by n).

ArviZ estimates elpd from the training data by leave-one-out; here the data are held out, so the sum is the
estimate.

Aki Vehtari, Andrew Gelman, Jonah Gabry: Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC, 2017, arXiv:1507.04544.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from .likelihood import pointwise

if TYPE_CHECKING:
    from pandas import DataFrame

_NOTES = {
    "lower_bound": "lower_bound: on average the true elpd is at least this; a rank below an exact model is not proven.",
    "estimate": "estimate: elpd has an error of its own, which se and dse do not contain.",
}


class Score(NamedTuple):
    """One row of a comparison.

    Attributes:
        name: the model.
        rank: 0 for the best.
        elpd: sum of log-likelihoods over the data, nats.
        elpd_diff: elpd of the best minus this elpd, nats.
        se: standard error of elpd, nats.
        dse: standard error of elpd_diff, nats.
        density: what the log-likelihood is: "exact", "lower_bound" or "estimate".
    """

    name: str
    rank: int
    elpd: float
    elpd_diff: float
    se: float
    dse: float
    density: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """Table of models, best first; prints as text.

    Attributes:
        rows: one `Score` for each model.
        n: number of data each was scored on.
    """

    rows: tuple[Score, ...]
    n: int

    def to_pandas(self) -> DataFrame:
        """The table as a data frame indexed by model name (needs pandas)."""
        from pandas import DataFrame

        return DataFrame(list(self.rows), columns=list(Score._fields)).set_index("name")

    def __repr__(self) -> str:
        table = [("", *Score._fields[1:])]
        for row in self.rows:
            numbers = (f"{value:.2f}" for value in row[2:6])
            table.append((row.name, str(row.rank), *numbers, row.density))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for name, *cells, density in table:
            middle = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False))
            lines.append("  ".join([name.ljust(widths[0]), *middle, density]))
        densities = {row.density for row in self.rows}
        notes = [note for density, note in _NOTES.items() if density in densities]
        return "\n".join([*lines, f"nats, summed over n = {self.n} held-out data", *notes])


def compare(
    models: Mapping[str, nn.Module],
    x: Tensor,
    context: Tensor | None = None,
    *,
    batch_size: int = 1024,
) -> Comparison:
    r"""Rank models by the sum of their log-likelihoods on held-out data.

    .. math::
        \mathrm{elpd}_A = \sum_i \log p_A(x_i), \qquad
        \mathrm{dse}_A = \sqrt n \; \mathrm{sd}_i(\log p_\mathrm{best}(x_i) - \log p_A(x_i))

    A lower bound is ranked by its value with the others and marked in the column `density`.

    Args:
        models: name -> model; all of the same data, in the same unit and scaling.
        x: data that none was trained on, with shape `[n] + event_shape`, n >= 2.
        context: shape `[n, context]` or `[context]`, given to every model.
        batch_size: rows scored at once.

    Returns:
        A table with the rows rank, elpd, elpd_diff, se, dse and density, best model first.

    Raises:
        ValueError: no model, fewer than two data, or a model that has no density or gives NaN (it is named).
    """
    if not models:
        raise ValueError("models: expected at least one name and model, got none.")
    if len(x) < 2:
        raise ValueError(f"x: expected at least 2 data for a standard error, got {len(x)}; pass more data.")
    scores = {}
    for name, model in models.items():
        try:
            log_p, density = pointwise(model, x, context, batch_size)
        except NotImplementedError as error:
            raise ValueError(
                f"models: {name!r} has no density and cannot be ranked by likelihood; leave it out and "
                "compare its samples with evaluation.c2st or evaluation.mmd."
            ) from error
        if log_p.isnan().any():
            raise ValueError(
                f"models: {name!r} scores {int(log_p.isnan().sum())} of {len(log_p)} data with NaN; leave it out."
            )
        scores[name] = (log_p.cpu().double(), density)
    ranked = sorted(scores.items(), key=lambda item: item[1][0].sum().item(), reverse=True)
    best = ranked[0][1][0]
    rows = []
    for rank, (name, (log_p, density)) in enumerate(ranked):
        diff = best - log_p
        rows.append(
            Score(
                name,
                rank,
                log_p.sum().item(),
                diff.sum().item(),
                _sum_error(log_p),
                _sum_error(diff),
                density,
            )
        )
    return Comparison(tuple(rows), len(x))


def _sum_error(values: Tensor) -> float:
    """Standard error of the sum of n independent values, sqrt(n) sd."""
    return math.sqrt(len(values)) * values.std().item()
