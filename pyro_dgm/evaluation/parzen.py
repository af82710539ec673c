r"""The Parzen window: a density made of samples, for models that have none, and a warning against its use.

Samples y_1, ..., y_m of a model become the centres of a kernel density of bandwidth h,

.. math::
    \hat p_h(x) = \frac{1}{m} \sum_{j=1}^m N(x; y_j, h^2 I), \qquad
    \log \hat p_h(x) = \log\sum_j e^{-|x - y_j|^2 / (2 h^2)} - \log m - \frac{D}{2} \log(2 \pi h^2)

and :math:`\frac1n \sum_i \log \hat p_h(x_i)` over test data is reported as if it were the model's log-likelihood; h is
the one that does best on validation data. (Breuleux, Bengio and Vincent, Quickly generating representative samples from
an RBM-derived process, 2011; Goodfellow et al., Generative Adversarial Nets, 2014, arXiv:1406.2661.)

It is here because papers of 2011-2016 report nothing else for GANs, GSNs and their kin. It measures neither likelihood
nor the quality of samples (Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2015,
arXiv:1511.01844, section 3.4):

- In many dimensions no feasible number m of samples brings it near the true log-likelihood, it is far below.
- It ranks wrongly: on MNIST, 10,000 training images as "samples" score 243 nats, centres of k-means on them 313, a
  generative adversarial network 225. A model that remembers centres beats the data themselves.
- h and m matter as much as the model: compare only figures of one protocol, and print the data's own score beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .vectors import blocks, pair


class Parzen(NamedTuple):
    """A mean Parzen window log-likelihood.

    Attributes:
        mean: mean of log p_h over the data, in nats per datum.
        standard_error: its standard error over the data, the samples fixed.
        bandwidth: h, given or chosen.
    """

    mean: float
    standard_error: float
    bandwidth: float

    def __str__(self) -> str:
        return f"Parzen {self.mean:.2f} ± {self.standard_error:.2f} nats per datum, bandwidth {self.bandwidth:.3g}"


def parzen(
    samples: Tensor, x: Tensor, bandwidth: float | Sequence[float], *, validation: Tensor | None = None
) -> Parzen:
    r"""Mean log-density of data under Gaussian kernels around samples; see the module for what it is worth.

    The protocol of Goodfellow et al. on MNIST, for comparison with published figures: pixels in [0, 1], 10,000
    samples; the bandwidth with the best mean on 1,000 validation images out of `torch.logspace(-1, 0, 10).tolist()`;
    then all 10,000 test images. The samples are compared in blocks, in float64; time is O(n m D).

    References:
        Ian Goodfellow et al.: Generative Adversarial Nets, 2014, arXiv:1406.2661.
        Lucas Theis, Aaron van den Oord, Matthias Bethge: A note on the evaluation of generative models, 2015,
        arXiv:1511.01844 (why not to trust it).

    Args:
        samples: samples y of the model, with shape `[m] + event_shape`.
        x: test data, with shape `[n] + event_shape`, n >= 2.
        bandwidth: h, a standard deviation in the unit of x; or several, of which the validation data choose.
        validation: data to choose the bandwidth by, with shape `[k] + event_shape`; never the test data.

    Returns:
        Mean, its standard error, and the bandwidth.

    Raises:
        ValueError: shapes differ, something is not finite, a bandwidth is not positive, or there are several and no
            validation data.

    Example:
        >>> y, x = torch.zeros(1, 2), torch.zeros(5, 2)
        >>> round(parzen(y, x, 1.0).mean, 4)  # the density of N(0, I) at 0 is 1 / (2 pi)
        -1.8379
    """
    choices = (bandwidth,) if isinstance(bandwidth, int | float) else tuple(map(float, bandwidth))
    if not choices or not all(0 < h < math.inf for h in choices):
        raise ValueError(f"bandwidth: expected a positive number, or several, got {bandwidth}.")
    if len(choices) > 1:
        if validation is None:
            raise ValueError(
                f"validation: expected data to choose one of {len(choices)} bandwidths by, got None; "
                "keep some of the training data for it."
            )
        means = _log_densities(samples, validation, choices, "validation").mean(1)
        choices = (choices[int(means.argmax())],)
    (log_p,) = _log_densities(samples, x, choices, "x")
    if len(log_p) < 2:
        raise ValueError(f"x: expected at least 2 data for a standard error, got {len(log_p)}.")
    return Parzen(log_p.mean().item(), log_p.std().item() / math.sqrt(len(log_p)), float(choices[0]))


def _log_densities(samples: Tensor, x: Tensor, bandwidths: Sequence[float], name: str) -> Tensor:
    """Returns log p_h(x_i) in float64, with shape `[bandwidths, n]`, by one pass over the distances."""
    y, x = pair(samples, x, ("samples", name))
    sums = []
    for rows in blocks(x, len(y)):
        squared = torch.cdist(rows, y).square()
        sums.append(torch.stack([(squared / (-2 * h * h)).logsumexp(1) for h in bandwidths]))
    norms = [math.log(len(y)) + x.shape[1] / 2 * math.log(2 * math.pi * h * h) for h in bandwidths]
    return torch.cat(sums, 1) - torch.tensor(norms, dtype=x.dtype, device=x.device)[:, None]
