r"""Flexible monotone functions of one variable, whose inverse is numerical.

Each family below is an increasing function :math:`f(x; \theta)` that can approximate any other, in closed form, with
its slope. What is used is

.. math::
    g(x; \theta) = (1 - \epsilon) f(x; \theta) + \epsilon x

so that :math:`g' \ge \epsilon`: where :math:`f` is flat to the last digit, as it is between two separated modes, the
inverse would have no digit right. That makes each of them a bijection of the reals with affine tails, solved by
:func:`~pyro_dgm.transforms.inversion.invert`. Sums of exponentials are on a logarithmic scale, scales are bounded
softly, and no slope is a difference, so values and gradients are finite, at 1e6 and with weights of 100 too.

At :math:`\theta = 0` they are near the identity, but not it: units that start alike would stay alike.

============================ ==================================================================== ==================
family                       :math:`f(x; \theta)`                                                  parameters
============================ ==================================================================== ==================
:class:`DeepSigmoidal`       :math:`\mathrm{logit} \sum_k w_k \sigma(a_k x + b_k)`, L times        3KL
:class:`SumOfSquares`        :math:`b + \int_0^x \sum_k p_k(u)^2 du`, degree R                     K (R + 1) + 1
:class:`GaussianMixtureCDF`  :math:`\Phi^{-1} \sum_k w_k \Phi((x - \mu_k) / s_k)`                  3K
============================ ==================================================================== ==================
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn import at_least_float32, without_autocast
from .inversion import invert
from .probit import mixture_tail, ndtri_exp
from .univariate import Theta, Univariate, first, number_first, whole


def soft_bound(t: Tensor, bound: float) -> Tensor:
    """Returns t, near zero, bounded softly by a number in absolute value: t / (1 + |t| / bound)."""
    return t / (1 + t.abs() / bound)


class Numerical(Univariate):
    r"""A family with a numerical inverse; subclasses define ``size``, ``min_slope`` and ``_function``."""

    min_slope: float

    def _function(self, theta: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Returns f for parameters with shape (size, *): a function from x to f(x) and its slope, with shape (*)."""
        raise NotImplementedError(f"{type(self).__name__} lacks _function")

    def forward_and_ladj(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Evaluates the function and its slope."""
        return self._run(x, theta, lambda g, x: g(x))

    def inverse_and_ladj(self, y: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """Solves for x by bisection; gradients are those of the implicit function theorem."""
        return self._run(y, theta, invert)

    def _run(self, v: Tensor, theta: Theta, work: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Does work with g at v, where memory runs number by number, then feature by feature, as networks give it."""
        epsilon = self.min_slope
        with without_autocast(v):
            moved, (theta,) = number_first(at_least_float32(v), at_least_float32(whole(theta)))
            f = self._function(theta)

            def g(x: Tensor) -> tuple[Tensor, Tensor]:
                y, slope = f(x)
                return (1 - epsilon) * y + epsilon * x, ((1 - epsilon) * slope + epsilon).log()

            out, ladj = work(g, moved.movedim(-1, 0).contiguous())
        return out.movedim(0, -1).to(v.dtype), ladj.movedim(0, -1).to(v.dtype)


def _check_slope(min_slope: float) -> float:
    if not 0 < min_slope < 1:
        raise ValueError(f"min_slope: expected a number between 0 and 1, got {min_slope}")
    return min_slope


def _spread(k: int, half_width: float, like: Tensor) -> Tensor:
    """Returns k numbers spread evenly from minus to plus ``half_width``: where units that are otherwise equal start."""
    return first(torch.linspace(-half_width, half_width, k, dtype=like.dtype, device=like.device), like[0])


class DeepSigmoidal(Numerical):
    r"""A mixture of logistic distribution functions, seen on the logistic scale, once or several times in turn.

    .. math::
        f(x) = \mathrm{logit} \sum_k w_k \sigma(h_k), \quad h_k = a_k x + b_k, \quad a_k > 0, \; w \in \Delta

        f'(x) = \sum_k a_k \bigl(r_k (1 - \sigma(h_k)) + q_k \sigma(h_k)\bigr), \qquad
        r_k \propto w_k \sigma(h_k), \; q_k \propto w_k \sigma(-h_k)

    Good at multimodal conditionals with one or two layers in all; costs about as much as a :class:`Spline`, and its
    inverse some forty times that. (Huang, Krueger, Lacoste and Courville, Neural Autoregressive Flows, 2018,
    arXiv:1804.00779: the deep sigmoidal flow.)

    Args:
        units: Number K of sigmoids.
        layers: Number L of mixtures in turn.
        min_slope: The least slope of the whole; that of one sigmoid is also between it and its reciprocal.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> g = DeepSigmoidal(8)
        >>> y, ladj = g.forward_and_ladj(torch.zeros(5), torch.zeros(5, g.size))
    """

    def __init__(self, units: int = 8, layers: int = 1, min_slope: float = 1e-3) -> None:
        if units < 1 or layers < 1:
            raise ValueError(f"units, layers: expected at least 1 of each, got {units}, {layers}")
        self.units, self.layers, self.min_slope = units, layers, _check_slope(min_slope)
        self.size = 3 * units * layers

    def _function(self, theta: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        w, a, b = theta.unflatten(0, (3, self.layers, self.units))
        log_w, a = w.log_softmax(1), soft_bound(a, -math.log(self.min_slope)).exp()
        b = b + _spread(self.units, 2.0, b[0])

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            slope = torch.ones_like(x)
            for log_w_l, a_l, b_l in zip(log_w, a, b, strict=True):
                h = torch.addcmul(b_l, a_l, x)
                below = log_w_l + F.logsigmoid(h)
                above = below - h
                x = below.logsumexp(0) - above.logsumexp(0)
                rate = torch.lerp(below.softmax(0), above.softmax(0), h.sigmoid())
                slope = slope * (a_l * rate).sum(0)
            return x, slope

        return f


class SumOfSquares(Numerical):
    r"""The integral of a sum of squared polynomials on [-B, B], continued by its tangents.

    .. math::
        f(x) = b + \int_0^x \sum_k p_k(u / B)^2 du
             = b + x \sum_k \sum_{i,j} a_{ki} a_{kj} \frac{(x / B)^{i+j}}{i + j + 1}, \qquad p_k(v) = \sum_i a_{ki} v^i

    Cheap and smooth, with the slope :math:`\sum_k p_k^2` exactly; a polynomial of degree 2R + 1 explodes beyond the
    data, whence the tangents, which keep :math:`f` continuously differentiable. Coefficients are bounded softly by 10.
    (Jaini, Selby and Yu, Sum-of-Squares Polynomial Flow, 2019, arXiv:1905.02325.)

    Args:
        polynomials: Number K of polynomials; two can already represent any non-negative one.
        degree: Their degree R.
        bound: Half-width B of the interval; data should be standardised to lie mostly within it.
        min_slope: The least slope.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> g = SumOfSquares(2, degree=3)
        >>> y, ladj = g.forward_and_ladj(torch.zeros(5), torch.zeros(5, g.size))
    """

    def __init__(self, polynomials: int = 3, degree: int = 4, bound: float = 5.0, min_slope: float = 1e-3) -> None:
        if polynomials < 1 or degree < 1:
            raise ValueError(f"polynomials, degree: expected at least 1 of each, got {polynomials}, {degree}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound: expected a positive number, got {bound}")
        self.polynomials, self.degree, self.bound = polynomials, degree, bound
        self.min_slope = _check_slope(min_slope)
        self.size = polynomials * (degree + 1) + 1

    def _function(self, theta: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        k, r, bound = self.polynomials, self.degree, self.bound
        a = soft_bound(theta[:-1], 10.0).unflatten(0, (k, r + 1))
        a_0, a_1, *others = a.unbind(1)
        columns = [a_0 + 1 / math.sqrt(k), a_1 + _spread(k, 0.5 / math.sqrt(k), a_1), *others]
        squares = [
            sum(columns[i] * columns[m - i] for i in range(max(0, m - r), min(m, r) + 1)) for m in range(2 * r + 1)
        ]
        integral = [square.sum(0) / (m + 1) for m, square in enumerate(squares)]

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            inside = x.clamp(-bound, bound)
            v = inside / bound
            slope = _horner(columns, v).square().sum(0)
            y = torch.addcmul(theta[-1], inside, _horner(integral, v))
            return torch.addcmul(y, slope, x - inside), slope

        return f


def _horner(coefficients: Sequence[Tensor], v: Tensor) -> Tensor:
    """Evaluates the polynomial whose coefficients are given, the constant first."""
    return reduce(lambda p, a: torch.addcmul(a, p, v), coefficients[-2::-1], coefficients[-1])


class GaussianMixtureCDF(Numerical):
    r"""The distribution function of a mixture of normals, seen on the normal scale: it turns that mixture into N(0, 1).

    .. math::
        f(x) = \Phi^{-1} \sum_k w_k \Phi(z_k), \quad z_k = \frac{x - \mu_k}{s_k}, \qquad
        f'(x) = \sum_k r_k \frac{m(z_k)}{s_k} \Big/ m(f(x)), \quad r_k \propto w_k \Phi(z_k)

    with :math:`m = \varphi / \Phi`; beyond the median the same is done with the signs of :math:`x` and :math:`f`
    changed, so that both tails are exact. A weight below :math:`e^{-60}` counts as that. Components lie where data do,
    so :meth:`theta_of` can read parameters off a sample. (Meng, Song, Song and Ermon, Gaussianization Flows, 2020,
    arXiv:2003.01941; Chen and Gopinath, Gaussianization, 2000.)

    Args:
        components: Number K of components.
        min_slope: The least slope.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> g = GaussianMixtureCDF(8)
        >>> y, ladj = g.forward_and_ladj(torch.zeros(5), torch.zeros(5, g.size))
    """

    _log_scale, _bound, _half_width = 0.5 * math.log(0.75), 5.0, 0.5 * math.sqrt(3.0)

    def __init__(self, components: int = 8, min_slope: float = 1e-3) -> None:
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        self.components, self.min_slope, self.size = components, _check_slope(min_slope), 3 * components

    def _function(self, theta: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        w, mu, log_s = theta.unflatten(0, (3, self.components))
        log_w, mu = w.log_softmax(0).clamp_min(-60.0), mu + _spread(self.components, self._half_width, mu)
        log_s = self._log_scale + soft_bound(log_s, self._bound)

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            sigma, l, rho = mixture_tail(x, log_w, mu, log_s)
            y, log_m = ndtri_exp(l)
            return sigma * y, (rho - log_m).exp()

        return f

    def theta_of(self, values: Tensor) -> Tensor:
        """Returns parameters under which ``values`` are near normal: a component at every one of K quantiles.

        Args:
            values: A sample with shape (n, D), about standardised.

        Returns:
            The parameters, with shape (D, size).
        """
        k = self.components
        at = torch.arange(2 * k + 1, device=values.device) * (len(values) - 1) // (2 * k)
        quantiles = values.sort(0).values[at]
        mu, width = quantiles[1::2], quantiles[::2].diff(dim=0)
        log_s = width.clamp_min(1e-2).log() - self._log_scale
        log_s = log_s.clamp(-0.9 * self._bound, 0.9 * self._bound)
        mu = mu - _spread(k, self._half_width, mu)
        return torch.cat([torch.zeros_like(mu), mu, log_s / (1 - log_s.abs() / self._bound)]).mT
