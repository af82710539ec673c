r"""Planar, radial and Sylvester transforms: a smooth bump added to the identity, and its inverse.

.. math::
    y = x + \hat u \tanh(w^T x + b), \qquad
    y = x + \frac{\beta (x - x_0)}{\alpha + |x - x_0|}, \qquad
    y = x + Q R \tanh(S Q^T x + b)

Known as the flows of guides, which score only what they sampled, since no inverse was given for them. But there is one:
along :math:`w`, along the ray from :math:`x_0`, and along one column of :math:`Q` after another, they are increasing
functions of one number, and :func:`~pyro_dgm.transforms.inversion.invert` or a square root finds it.
Each is weak by itself, so they come in stacks of ten and more. (Rezende and Mohamed, Variational Inference with
Normalizing Flows, 2015, arXiv:1505.05770; van den Berg, Hasenclever, Tomczak and Welling, Sylvester Normalizing Flows
for Variational Inference, 2018, arXiv:1803.05649.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import Parameters, without_autocast
from .base import Pass, Transform, check_width
from .elementwise import orthogonal
from .inversion import invert

_MIN_SLOPE = 1e-3


def _parameters(size: int, scale: float, context: int, hidden_features: Sequence[int]) -> Parameters:
    """Returns parameters that start at random: at zero, no gradient would move them."""
    theta = Parameters(size, context, hidden_features, zero=False)
    if not context:
        nn.init.uniform_(theta.value, -scale, scale)
    return theta


class Planar(Transform):
    r"""y = x + u tanh(w x + b), which stretches or squeezes along one direction.

    .. math::
        \hat u = u + (m - w^T u) \frac{w}{|w|^2}, \quad m = \log(1 + e^{w^T u}) - 1, \qquad
        \log|\det J| = \log\bigl(1 + m \tanh'(w^T x + b)\bigr)

    :math:`w^T \hat u = m > -1` is what makes it a bijection. (Rezende and Mohamed, Variational Inference with
    Normalizing Flows, 2015, arXiv:1505.05770.)

    Args:
        features: Number of features D.
        context: Width of a context from which w, u and b are read, 0 for none.
        hidden_features: Hidden widths of the network that reads it; none for a linear map.

    Example:
        >>> y, ladj = Planar(3).forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(self, features: int, context: int = 0, hidden_features: Sequence[int] = ()) -> None:
        super().__init__()
        self.features = features
        self.theta = _parameters(2 * features + 1, 1 / math.sqrt(features), context, hidden_features)

    def _symbols(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w, u, b = self.theta(context).split([self.features, self.features, 1], -1)
        wu = (w * u).sum(-1, keepdim=True)
        m = F.softplus(wu) - (1 - _MIN_SLOPE)
        u = u + (m - wu) * w / (w.square().sum(-1, keepdim=True) + torch.finfo(w.dtype).eps)
        return w, u, b.squeeze(-1), (w * u).sum(-1)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Moves x along u."""
        check_width("Planar", x, self.features)
        w, u, b, wu = self._symbols(context)
        h = ((w * x).sum(-1) + b).tanh()
        return x + u * h.unsqueeze(-1), (wu * (1 - h.square())).log1p()

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Finds the component of x along w, then moves y back."""
        check_width("Planar", y, self.features)
        w, u, b, wu = self._symbols(context)

        def along(a: Tensor) -> Pass:
            h = (a + b).tanh()
            return a + wu * h, (wu * (1 - h.square())).log1p()

        a, ladj = invert(along, (w * y).sum(-1))
        return y - u * (a + b).tanh().unsqueeze(-1), ladj


class Radial(Transform):
    r"""y = x + beta (x - x_0) / (alpha + r) with r the distance to a centre x_0: attracts or repels around it.

    .. math::
        \alpha > 0, \; \beta > -\alpha, \qquad
        \log|\det J| = (D - 1) \log(1 + \beta h) + \log(1 + \alpha \beta h^2), \quad h = \frac{1}{\alpha + r}

    The inverse solves a quadratic for r. (Rezende and Mohamed, Variational Inference with Normalizing Flows,
    2015, arXiv:1505.05770.)

    Args:
        features: Number of features D.
        context: Width of a context from which x_0, alpha and beta are read, 0 for none.
        hidden_features: Hidden widths of the network that reads it; none for a linear map.

    Example:
        >>> y, ladj = Radial(3).forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(self, features: int, context: int = 0, hidden_features: Sequence[int] = ()) -> None:
        super().__init__()
        self.features = features
        self.theta = _parameters(features + 2, 1 / math.sqrt(features), context, hidden_features)

    def _symbols(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns x - x_0 and its norm, alpha and beta."""
        check_width("Radial", x, self.features)
        center, alpha, beta = self.theta(context).split([self.features, 1, 1], -1)
        alpha = F.softplus(alpha) + _MIN_SLOPE
        difference = x - center
        r = (difference.square().sum(-1, keepdim=True) + torch.finfo(x.dtype).tiny).sqrt()
        return difference, r, alpha, F.softplus(beta) - (1 - _MIN_SLOPE) * alpha

    def _ladj(self, r: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        h = 1 / (alpha + r)
        return ((self.features - 1) * (beta * h).log1p() + (alpha * beta * h.square()).log1p()).squeeze(-1)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Moves x from or towards the centre."""
        difference, r, alpha, beta = self._symbols(x, context)
        return x + beta / (alpha + r) * difference, self._ladj(r, alpha, beta)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        r"""Solves :math:`r^2 + (\alpha + \beta - \rho) r - \alpha \rho = 0` for r, with :math:`\rho = |y - x_0|`."""
        difference, rho, alpha, beta = self._symbols(y, context)
        p = alpha + beta - rho
        root = (p.square() + 4 * alpha * rho).sqrt()
        r = torch.where(p > 0, 2 * alpha * rho / (p.clamp_min(0) + root), (root - p) / 2)
        return y - beta / (alpha + beta + r) * difference, -self._ladj(r, alpha, beta)


class Sylvester(Transform):
    r"""y = x + Q R tanh(S Q^T x + b): as many planar transforms as there are features, in orthogonal directions.

    .. math::
        Q = H_1 \cdots H_m, \quad R, S \text{ upper triangular}, \; |R_{ii}|, |S_{ii}| < 1, \qquad
        \log|\det J| = \sum_i \log\bigl(1 + R_{ii} S_{ii} \tanh'(\cdot)_i\bigr)

    The orthogonal matrix is a product of Householder reflections; the inverse restores one component of :math:`Q^T x`
    after another. (van den Berg, Hasenclever, Tomczak and Welling, Sylvester Normalizing Flows for Variational
    Inference, 2018, arXiv:1803.05649.)

    Args:
        features: Number of features D.
        context: Width of a context from which Q, R, S and b are read, 0 for none.
        hidden_features: Hidden widths of the network that reads it; none for a linear map.
        reflections: Number m of reflections; D when ``None``.

    Raises:
        ValueError: If there is no reflection.

    Example:
        >>> y, ladj = Sylvester(3).forward_and_ladj(torch.zeros(10, 3))
    """

    def __init__(
        self, features: int, context: int = 0, hidden_features: Sequence[int] = (), reflections: int | None = None
    ) -> None:
        super().__init__()
        reflections = features if reflections is None else reflections
        if reflections < 1:
            raise ValueError(f"reflections: expected at least 1, got {reflections}")
        self.features, self.reflections = features, reflections
        rows = 2 * features + 1 + reflections
        self.theta = _parameters(rows * features, 1 / math.sqrt(features), context, hidden_features)

    def _theta(self, x: Tensor, context: Tensor | None) -> Tensor:
        check_width("Sylvester", x, self.features)
        return self.theta(context).unflatten(-1, (-1, self.features))

    def _symbols(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d = self.features
        r, s, b, vectors = theta.split([d, d, 1, self.reflections], -2)
        bound = math.sqrt(1 - _MIN_SLOPE)
        r, s = (t.triu(1) + torch.diag_embed(bound * t.diagonal(dim1=-2, dim2=-1).tanh()) for t in (r, s))
        return orthogonal(vectors), r, s, b.squeeze(-2)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> Pass:
        """Adds the bumps."""
        theta = self._theta(x, context)
        with without_autocast(x):
            q, r, s, b = self._symbols(theta)
            h = (_times(s, _times(q.mT, x)) + b).tanh()
            diagonal = r.diagonal(dim1=-2, dim2=-1) * s.diagonal(dim1=-2, dim2=-1)
            return x + _times(q, _times(r, h)), (diagonal * (1 - h.square())).log1p().sum(-1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> Pass:
        """Restores the components of Q^T x from the last to the first."""
        theta = self._theta(y, context)
        with without_autocast(y):
            q, r, s, b = self._symbols(theta)
            rotated = _times(q.mT, y)
            u, h, total = rotated[..., :0], rotated[..., :0], y.new_zeros(())
            for i in reversed(range(self.features)):
                r_i, s_i = r[..., i, i], s[..., i, i]
                inner = b[..., i] + (s[..., i, i + 1 :] * u).sum(-1)
                outer = rotated[..., i] - (r[..., i, i + 1 :] * h).sum(-1)

                def along(u_i: Tensor, r_i: Tensor = r_i, s_i: Tensor = s_i, inner: Tensor = inner) -> Pass:
                    h_i = (s_i * u_i + inner).tanh()
                    return u_i + r_i * h_i, (r_i * s_i * (1 - h_i.square())).log1p()

                u_i, ladj = invert(along, outer)
                h_i = (s_i * u_i + inner).tanh()
                u, h = (torch.cat([t_i.unsqueeze(-1), t.expand(*t_i.shape, -1)], -1) for t_i, t in ((u_i, u), (h_i, h)))
                total = total + ladj
            return _times(q, u), total


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiplies vectors with shape (*, D) by a matrix, or each by its own."""
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)
