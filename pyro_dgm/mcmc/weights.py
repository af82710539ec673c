r"""The mean of importance weights that are known by their logarithms, with its error.

.. math::
    \log \hat Z = \log \frac{1}{K} \sum_k w_k, \qquad
    \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}, \qquad
    \mathrm{Var} \log \hat Z \approx \frac{\widehat{\mathrm{Var}}\, w}{K \bar w^2}
        = \frac{K}{K - 1} \left(\frac{1}{\mathrm{ESS}} - \frac{1}{K}\right)

:math:`\hat Z` is unbiased, so :math:`E \log \hat Z \le \log Z`, by about half of that variance. The variance is that
of the delta method, right where ESS is not small; where a handful of weights is all there is (ESS below 10, say), the
true error is larger than what can be seen of it. (Owen, Monte Carlo theory, methods and examples, chapter 9, 2013.)
"""

import math

import torch
from torch import Tensor


class Weights:
    """Running sums over weights, in float64: any number of them in the memory of one chunk.

    Attributes:
        count: Number K of weights so far.

    Example:
        >>> w = Weights()
        >>> round(w.add(torch.tensor([1.0, 3.0]).log()).add(torch.tensor([2.0]).log()).log_mean.exp().item(), 4)
        2.0
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, log_w: Tensor) -> "Weights":
        """Counts more weights, with shape ``(k,) + batch_shape``, all k for every member of the batch."""
        log_w = log_w.double()
        first, second = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        self._first = first if self._first is None else torch.logaddexp(self._first, first)
        self._second = second if self._second is None else torch.logaddexp(self._second, second)
        self.count += len(log_w)
        return self

    @property
    def log_mean(self) -> Tensor:
        """The logarithm of the mean weight, with shape ``batch_shape``."""
        return self._first - math.log(self.count)

    @property
    def effective_size(self) -> Tensor:
        """The effective number of weights, from 1 to K; 0 where all weights are zero."""
        return (2 * self._first - self._second).exp().nan_to_num(0.0)

    @property
    def error(self) -> Tensor:
        """The standard error of ``log_mean``, in nats; NaN for a single weight, which tells nothing of it."""
        if self.count < 2:
            return torch.full_like(self._first, math.nan)
        variance = (1 / self.effective_size - 1 / self.count).clamp(min=0)
        return (variance * (self.count / (self.count - 1))).sqrt()
