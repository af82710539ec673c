"""The history of a training run: a table with one row per epoch.

Columns are the epoch, the number of steps so far, seconds since the start, each player's mean training loss (``loss``
for a single player) and, where there is validation data, ``validation``. Losses are in the objective's unit,
mean nats per datum for those of this package. After ``validation`` comes what the objective reports of the same data:
``kl_z``, the divergence of the latent ``z`` in nats per datum (0 where the posterior has collapsed), ``ess``, the
effective number of particles (:mod:`pyro_dgm.objectives.reports`).
"""

from collections.abc import Iterator
from typing import Any, Literal

Row = dict[str, float]


class History:
    """A table of training losses.

    Attributes:
        rows: One dictionary per epoch.
        best_epoch: The epoch with the least validation loss, whose weights the model ends with; ``None`` without
            validation data.
        stopped: Why training ended.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.best_epoch: int | None = None
        self.stopped: Literal["max_epochs", "patience", "callback", "running"] = "running"

    def __getitem__(self, column: str) -> list[float]:
        """Returns a column as a list, one number per epoch."""
        if not self.rows or column not in self.rows[0]:
            raise KeyError(f"{column!r}: expected one of {self.columns}")
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.rows[0]) if self.rows else []

    @property
    def losses(self) -> list[str]:
        """The names of the columns that are losses."""
        columns = self.columns
        end = columns.index("validation") + 1 if "validation" in columns else None
        return [c for c in columns[:end] if c not in ("epoch", "step", "seconds")]

    def __repr__(self) -> str:
        head = "".join(f"{c:>12}" for c in self.columns)
        shown = self.rows if len(self.rows) <= 10 else [*self.rows[:5], *self.rows[-5:]]
        lines = ["".join(f"{row[c]:>12.5g}" for c in self.columns) for row in shown]
        end = f"{len(self)} epochs, stopped by {self.stopped}"
        if self.best_epoch is not None:
            end += f", best validation at epoch {self.best_epoch}"
        return "\n".join([head, *lines, end])

    def plot(self, **settings: Any) -> Any:
        """Draws the learning curves and returns the matplotlib figure.

        Args:
            settings: Arguments of :func:`pyro_dgm.plots.learning_curves`.
        """
        from ..plots import learning_curves

        if "loss" not in self.columns:  # the losses of a game have no common unit
            settings.setdefault("ylabel", "loss")
        return learning_curves({c: self[c] for c in ("epoch", *self.losses)}, **settings)
