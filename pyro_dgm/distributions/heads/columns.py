r"""Columns: another head for every number, as in a table of mixed types.

.. math::
    p(x) = \prod_i h_i(x_i; \theta_i)

Columns whose heads are alike are scored together. Every column is given as many parameters as the head that takes the
most, and heeds the first of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .base import Head, filled


class Columns(Head):
    """One head for each column: mixed types in one table, categories with different numbers of classes.

    Args:
        heads: The head of every feature.

    Example:
        >>> from pyro_dgm.distributions.heads import Bernoulli, Categorical, Normal
        >>> head = Columns([Bernoulli(), Categorical(5), Normal(), Categorical(3)])
        >>> head.size, head.at(3).levels
        (5, 3)
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = list(heads)
        if not self.heads:
            raise ValueError("heads: expected one for each feature, got none")
        self.size = max(head.size for head in self.heads)
        self.size_in = max(head.size_in for head in self.heads)
        self.noises = max(head.noises for head in self.heads)
        self.has_rsample = all(head.has_rsample for head in self.heads)
        self.groups: list[tuple[Head, list[int]]] = []  # columns whose heads are alike are scored together
        for i, head in enumerate(self.heads):
            alike = (columns for other, columns in self.groups if _alike(other, head))
            columns = next(alike, None)
            if columns is None:
                self.groups.append((head, [i]))
            else:
                columns.append(i)

    def at(self, i: int) -> Head:
        """Returns the head of column i."""
        return self.heads[i]

    def support_of(self, event_shape: torch.Size) -> constraints.Constraint:
        """Returns where rows live.

        Raises:
            ValueError: If there is not one head for each feature of a row.
        """
        if event_shape != (len(self.heads),):
            raise ValueError(f"heads: expected one for each feature of {tuple(event_shape)}, got {len(self.heads)}")
        return constraints.stack([head.support for head in self.heads], -1)

    def __call__(self, theta: Tensor) -> "Row":
        """Returns the distribution of rows, number by number, with batch shape ``theta.shape[:-1]``."""
        return Row([(head(theta[..., columns, : head.size]), columns) for head, columns in self.groups])

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Scores each column by its head."""
        out: list[Tensor] = [x] * len(self.heads)
        for head, columns in self.groups:
            scores = head.log_prob(x[..., columns], theta[..., columns, : head.size])
            for i, score in zip(columns, scores.unbind(-1), strict=True):
                out[i] = score
        return torch.stack(out, -1)

    def embed(self, x: Tensor) -> Tensor:
        """Shows each column as its head would, filled up with zeros."""
        columns = zip(self.heads, x.unbind(-1), strict=True)
        return torch.stack([filled(head.embed(column), self.size_in) for head, column in columns], -2)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns noise for each column, as its head wants it."""
        *outer, _ = shape
        return torch.stack([filled(head.noise(outer, like), self.noises) for head in self.heads], -2)

    def draw(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Draws each column by its head."""
        columns = zip(self.heads, theta.unbind(-2), noise.unbind(-2), strict=True)
        return torch.stack([h.draw(t[..., : h.size], n[..., : h.noises]) for h, t, n in columns], -1)


class Row(dist.TorchDistribution):
    """Independent numbers, one for each column, by distributions of several families; made by :class:`Columns`.

    Args:
        parts: Pairs of a distribution, with batch shape ``(*, number of its columns)``, and the places of its columns.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, parts: Sequence[tuple[dist.TorchDistribution, list[int]]]) -> None:
        self.parts = list(parts)
        self._places = [places for _, places in self.parts]
        shape = (*self.parts[0][0].batch_shape[:-1], sum(map(len, self._places)))
        super().__init__(torch.Size(shape), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients, as those of every part have."""
        return all(p.has_rsample for p, _ in self.parts)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where the numbers live, column by column."""
        return constraints.stack(self._joined([[p.support] * len(places) for p, places in self.parts]), -1)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Row":
        """Returns the distribution with a larger batch shape."""
        new = Row([(p.expand((*batch_shape[:-1], len(places))), places) for p, places in self.parts])
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The means."""
        return self._stacked([p.mean for p, _ in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-densities in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._stacked([p.log_prob(value[..., places]) for p, places in self.parts])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws samples."""
        return self._stacked([p.sample(torch.Size(sample_shape)) for p, _ in self.parts])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws reparameterised samples.

        Raises:
            NotImplementedError: If a part has none.
        """
        if not self.has_rsample:
            raise NotImplementedError("rsample: not every column is reparameterised; use sample")
        return self._stacked([p.rsample(torch.Size(sample_shape)) for p, _ in self.parts])

    def _stacked(self, numbers: Sequence[Tensor]) -> Tensor:
        return torch.stack(self._joined([t.unbind(-1) for t in numbers]), -1)

    def _joined(self, items: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns what the parts have for their columns, in the order of the columns."""
        placed = [
            pair for places, part in zip(self._places, items, strict=True) for pair in zip(places, part, strict=True)
        ]
        return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def _alike(one: Head, other: Head) -> bool:
    return type(one) is type(other) and dict(one.config) == dict(other.config)
