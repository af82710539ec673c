r"""A function of one variable for every feature by itself, and rotations, by which features meet.

.. math::
    y_i = g(x_i; \theta_i(c)), \qquad y = Q x, \quad Q = H_1 \cdots H_m, \quad H_j = I - 2 \frac{v_j v_j^T}{v_j^T v_j}

In turn they make any distribution normal: whichever marginal is not is made so, then the features are rotated until
another marginal is not (Chen and Gopinath, Gaussianization, 2000).
"""

import torch
from torch import Tensor, nn

from ..nn import Parameters, at_least_float32, without_autocast
from .base import Pass, Transform, check_width
from .univariate import Univariate


class ElementWise(Transform):
    r"""A monotone function of every feature, which looks at no other feature.

    A family with a ``theta_of`` (:class:`~pyro_dgm.transforms.GaussianMixtureCDF`) is fitted to data that stand at its
    input when ``initialize`` is called.

    Args:
        features: Number of features D.
        univariate: The family :math:`g`.
        context: Width of a context on which the parameters also depend linearly, 0 for none.

    Example:
        >>> from pyro_dgm.transforms import Spline
        >>> y, ladj = ElementWise(3, Spline()).forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(self, features: int, univariate: Univariate, context: int = 0) -> None:
        super().__init__()
        self.features, self.univariate = features, univariate
        self.theta = Parameters(features * univariate.size)
        self.shift = Parameters(features * univariate.size, context) if context else None
        if hasattr(univariate, "theta_of"):
            self.register_buffer("initialized", torch.tensor(False))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Transforms every feature."""
        y, ladj = self.univariate.forward_and_ladj(x, self._theta(x, context))
        return y, ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores every feature."""
        x, ladj = self.univariate.inverse_and_ladj(y, self._theta(y, context))
        return x, ladj.sum(-1)

    def _theta(self, x: Tensor, context: Tensor | None) -> Tensor:
        check_width("ElementWise", x, self.features)
        theta = self.theta() if self.shift is None else self.theta() + self.shift(context)
        return theta.unflatten(-1, (self.features, -1))

    @torch.no_grad()
    def initialize(self, values: Tensor, context: Tensor | None = None, *, at_input: bool = False) -> None:
        """Fits the family to ``values``, if it can be and they stand at its input."""
        if at_input and hasattr(self.univariate, "theta_of"):
            theta = self.univariate.theta_of(values.reshape(-1, self.features))
            self.theta.value.copy_(theta.flatten())
            self.initialized.fill_(True)


class Householder(Transform):
    r"""y = Q x, a product of m reflections: any rotation (or reflection) with m = D of them. Volume-preserving.

    Starts at random, since a stack of element-wise functions has no use for rotations that do nothing. (Tomczak and
    Welling, Improving Variational Auto-Encoders using Householder Flow, 2016, arXiv:1611.09630.)

    Args:
        features: Number of features D.
        reflections: Number m of reflections; D when ``None``.

    Raises:
        ValueError: If there is no reflection.

    Example:
        >>> y, ladj = Householder(3).forward_and_ladj(torch.eye(3))
        >>> torch.allclose(y @ y.T, torch.eye(3), atol=1e-6), ladj
        (True, tensor(0.))
    """

    def __init__(self, features: int, reflections: int | None = None) -> None:
        super().__init__()
        reflections = features if reflections is None else reflections
        if reflections < 1:
            raise ValueError(f"reflections: expected at least 1, got {reflections}")
        self.features = features
        self.vectors = nn.Parameter(torch.randn(reflections, features))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Rotates."""
        check_width("Householder", x, self.features)
        with without_autocast(x):
            return x @ orthogonal(self.vectors).mT, x.new_zeros(())

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Rotates back."""
        check_width("Householder", y, self.features)
        with without_autocast(y):
            return y @ orthogonal(self.vectors), y.new_zeros(())


def orthogonal(vectors: Tensor) -> Tensor:
    r"""Returns the product of the reflections along m vectors, with shape (*, m, D), as a matrix (*, D, D).

    With unit rows V, :math:`\prod_i (I - 2 v_i v_i^T) = I - V^T S^{-1} V`, where S is one half on the diagonal and
    :math:`V V^T` above it (Bischof and Van Loan, The WY representation for products of Householder matrices, 1987, in
    the form that has a triangular factor in the middle).
    """
    v = at_least_float32(vectors)
    v = v / (v.square().sum(-1, keepdim=True) + torch.finfo(v.dtype).tiny).sqrt()
    half = 0.5 * torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
    identity = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    q = identity - v.mT @ torch.linalg.solve_triangular((v @ v.mT).triu(1) + half, v, upper=True)
    return q.to(vectors.dtype)
