r"""The units of a Boltzmann machine: exponential families, for layers that one sees and layers that one does not.

.. math::
    p(x | \eta) = m(x)\, e^{\eta^\top \phi(x) - A(\eta)}, \qquad
    A(\eta) = \log \sum_x m(x)\, e^{\eta^\top \phi(x)}, \qquad E\, \phi(x) = \nabla A(\eta)

A layer's kind is its statistics :math:`\phi`, its measure m and its log-normaliser A; what the other layer adds to it
is its natural parameter :math:`\eta`. (Welling, Rosen-Zvi and Hinton, Exponential Family Harmoniums with an Application
to Information Retrieval, 2004.)

======================= ============== =========================== ====================================================
units                   x              :math:`\phi(x)`             A
======================= ============== =========================== ====================================================
``Bernoulli``           0, 1           x                           sum of softplus(eta)
``Gaussian``            real           x / sigma                   sum of eta^2 / 2 + log(sigma sqrt(2 pi))
``Softmax``             0, ..., K - 1  one-hot                     sum of logsumexp(eta)
``ReplicatedSoftmax``   n words        counts                      n logsumexp(eta)
``Rectified``           positive       x                           sum of eta^2 / 2 + log Phi(eta) + log sqrt(2 pi)
======================= ============== =========================== ====================================================

``Bernoulli`` serves in both places, ``Rectified`` is for hidden units, the others are for visible ones.
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ...._config import Configured
from ..energy_based import MAX_UNITS

Count = Tensor | float


class HiddenUnits(Configured):
    """A layer of hidden units; subclasses are the kinds.

    Args:
        features: Number H of units.

    Attributes:
        binary: Whether the states can be enumerated.
    """

    binary = False

    def __init__(self, features: int) -> None:
        if features < 1:
            raise ValueError(f"features: expected at least one unit, got {features}")
        self.features = features

    @property
    def enumerable(self) -> bool:
        """Whether there are few enough states to enumerate."""
        return self.binary and self.features <= MAX_UNITS

    def log_normaliser(self, eta: Tensor) -> Tensor:
        """Returns A with shape (*), for natural parameters (*, H)."""
        raise NotImplementedError(f"{type(self).__name__} lacks log_normaliser")

    def mean(self, eta: Tensor) -> Tensor:
        """Returns the mean of the units, with shape (*, H)."""
        raise NotImplementedError(f"{type(self).__name__} lacks mean")

    def sample(self, eta: Tensor) -> Tensor:
        """Draws the units, with shape (*, H)."""
        raise NotImplementedError(f"{type(self).__name__} lacks sample")


class VisibleUnits(Configured):
    """A layer of visible units; subclasses are the kinds.

    Args:
        event_shape: Shape of one x.
        size: Number S of statistics.
        support: Where one unit lives.

    Attributes:
        binary: Whether the states can be enumerated, as those of binary units.
        context: Width of the context that says what the layer has to be told to be sampled.
    """

    binary = False
    context = 0

    def __init__(self, event_shape: tuple[int, ...], size: int, support: constraints.Constraint) -> None:
        if size < 1:
            raise ValueError(f"features: expected at least one unit, got {size}")
        self.event_shape, self.size, self.support = event_shape, size, support

    @property
    def enumerable(self) -> bool:
        """Whether there are few enough states to enumerate."""
        return self.binary and self.size <= MAX_UNITS

    def count(self, x: Tensor) -> Count:
        """Returns the number of draws that the statistics are a sum of, with shape (*)."""
        return 1.0

    def statistics(self, x: Tensor) -> Tensor:
        """Returns phi(x), with shape (*, S)."""
        raise NotImplementedError(f"{type(self).__name__} lacks statistics")

    def log_measure(self, x: Tensor) -> Tensor | float:
        """Returns log m(x), with shape (*)."""
        return 0.0

    def log_normaliser(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Returns A, with shape (*), for natural parameters (*, S)."""
        raise NotImplementedError(f"{type(self).__name__} lacks log_normaliser")

    def sample(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Draws x, with shape (*, *event_shape)."""
        raise NotImplementedError(f"{type(self).__name__} lacks sample")

    def fitted(self, total: Tensor, count: Count) -> Tensor:
        """Returns the natural parameters that n draws with this sum of statistics speak for, with shape (S,)."""
        raise NotImplementedError(f"{type(self).__name__} lacks fitted")


class Bernoulli(VisibleUnits, HiddenUnits):
    """Binary units, visible or hidden.

    Args:
        features: Number of units.

    Example:
        >>> Bernoulli(3).log_normaliser(torch.zeros(3))
        tensor(2.0794)
    """

    binary = True

    def __init__(self, features: int) -> None:
        VisibleUnits.__init__(self, (features,), features, constraints.boolean)
        self.features = features

    def statistics(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x

    def log_normaliser(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Returns the sum of softplus(eta)."""
        return F.softplus(eta).sum(-1)

    def mean(self, eta: Tensor) -> Tensor:
        """Returns the probability of 1."""
        return eta.sigmoid()

    def sample(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Draws 0 or 1."""
        return (torch.rand_like(eta) < eta.sigmoid()).to(eta.dtype)

    def fitted(self, total: Tensor, count: Count) -> Tensor:
        """Returns the log-odds by Laplace's rule, as if each unit had been seen once on and once off besides."""
        return ((total + 1) / (count - total + 1)).log()


class Gaussian(VisibleUnits):
    r"""Real units with known deviation: :math:`x | \eta \sim N(\sigma \eta, \sigma^2)`.

    Data should be standardised, and sigma be that of the noise around the reconstruction: 1 is what principal
    components leave, less where hidden units explain more (Hinton, 2010).

    Args:
        features: Number of units.
        scale: The deviation sigma, in the unit of the data.
    """

    def __init__(self, features: int, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"scale: expected a positive deviation, got {scale}")
        super().__init__((features,), features, constraints.real)
        self.scale = scale

    def statistics(self, x: Tensor) -> Tensor:
        """Returns x / sigma."""
        return x / self.scale

    def log_measure(self, x: Tensor) -> Tensor:
        """Returns -x^2 / (2 sigma^2), summed."""
        return -0.5 * (x / self.scale).square().sum(-1)

    def log_normaliser(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Returns the sum of eta^2 / 2 + log(sigma sqrt(2 pi))."""
        return (0.5 * eta.square() + math.log(self.scale * math.sqrt(2 * math.pi))).sum(-1)

    def sample(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Draws from the normal distribution."""
        return self.scale * (eta + torch.randn_like(eta))

    def fitted(self, total: Tensor, count: Count) -> Tensor:
        """Returns the mean in units of sigma."""
        return total / count


class Softmax(VisibleUnits):
    """Units of several categories.

    Args:
        features: Number D of units.
        categories: Number K of the values 0, ..., K - 1 of each.
    """

    def __init__(self, features: int, categories: int) -> None:
        if categories < 2:
            raise ValueError(f"categories: expected at least 2, got {categories}")
        super().__init__((features,), features * categories, constraints.integer_interval(0, categories - 1))
        self.categories = categories

    def statistics(self, x: Tensor) -> Tensor:
        """Returns x one-hot, unit by unit, with shape (*, D K)."""
        return (x[..., None] == torch.arange(self.categories, device=x.device)).to(x.dtype).flatten(-2)

    def log_normaliser(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Returns the sum over units of logsumexp."""
        return self._apart(eta).logsumexp(-1).sum(-1)

    def sample(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Draws categories, by Gumbel's maxima."""
        gumbel = -torch.empty_like(eta).exponential_().log()
        return self._apart(eta + gumbel).argmax(-1).to(eta.dtype)

    def fitted(self, total: Tensor, count: Count) -> Tensor:
        """Returns log-frequencies, each category seen once besides."""
        return self._apart(total + 1).log().log_softmax(-1).flatten()

    def _apart(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (-1, self.categories))


class ReplicatedSoftmax(VisibleUnits):
    r"""Counts of words in a document of n words, which share one set of weights.

    .. math:: F(x) = -\log \frac{n!}{\prod_k x_k!} - b^\top x - \sum_j A_j\bigl(n c_j + W_j x\bigr)

    The length n is the context, with shape (..., 1): ``rbm(n)`` is the distribution of documents of that length, and
    ``fit(rbm, x, x.sum(-1, keepdim=True))`` trains it. (Salakhutdinov and Hinton, Replicated Softmax: an Undirected
    Topic Model, 2009.)

    Args:
        words: Number K of different words.
        longest: The length of the longest document that is ever to be sampled.
    """

    context = 1

    def __init__(self, words: int, longest: int) -> None:
        if longest < 1:
            raise ValueError(f"longest: expected at least 1 word, got {longest}")
        super().__init__((words,), words, constraints.nonnegative_integer)
        self.longest = longest

    def count(self, x: Tensor) -> Tensor:
        """Returns the length of each document."""
        return x.sum(-1)

    def statistics(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x

    def log_measure(self, x: Tensor) -> Tensor:
        """Returns the logarithm of the number of documents with these counts."""
        return (x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1)

    def log_normaliser(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Returns n logsumexp(eta)."""
        return count * eta.logsumexp(-1)

    def sample(self, eta: Tensor, count: Count = 1.0) -> Tensor:
        """Draws the counts of n words; more than the longest document has are left out."""
        p = eta.softmax(-1)
        words = torch.multinomial(p.reshape(-1, self.size), self.longest, replacement=True)
        place = torch.arange(self.longest, device=eta.device)
        there = (place < torch.as_tensor(count, device=eta.device)[..., None]).to(eta.dtype)
        there = there.expand(*p.shape[:-1], self.longest).reshape(words.shape)
        counts = torch.zeros_like(p).reshape(-1, self.size).scatter_add(-1, words, there)
        return counts.reshape(p.shape)

    def fitted(self, total: Tensor, count: Count) -> Tensor:
        """Returns log-frequencies, each word seen once besides."""
        return (total + 1).log().log_softmax(-1)


class Rectified(HiddenUnits):
    r"""Positive hidden units: a normal distribution with mean :math:`\eta` and deviation 1, cut off below 0.

    Far above 0 they are linear with noise, far below they are silent. (With Gaussian visible units the energy is
    bounded below only while no :math:`W h`, :math:`h \ge 0`, is longer than h: keep weights small. After Nair and
    Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010, whose noise differs; with this one the
    free energy is exact.)

    Args:
        features: Number of units.

    Example:
        >>> Rectified(1).mean(torch.tensor([-5.0, 0.0, 5.0]))
        tensor([0.1865, 0.7979, 5.0000])
    """

    def log_normaliser(self, eta: Tensor) -> Tensor:
        """Returns the sum of eta^2 / 2 + log Phi(eta) + log sqrt(2 pi)."""
        return (0.5 * eta.square() + torch.special.log_ndtr(eta) + 0.5 * math.log(2 * math.pi)).sum(-1)

    def mean(self, eta: Tensor) -> Tensor:
        """Returns eta + N(eta) / Phi(eta)."""
        log_ratio = -0.5 * eta.square() - torch.special.log_ndtr(eta) - 0.5 * math.log(2 * math.pi)
        return eta + log_ratio.exp()

    def sample(self, eta: Tensor) -> Tensor:
        """Inverts the distribution function; far below 0, where floats do not reach, the expansion of its tail."""
        u = torch.rand_like(eta).clamp(min=torch.finfo(eta.dtype).tiny)
        near = eta.clamp(min=-4)
        inside = near - torch.special.ndtri(u * torch.special.ndtr(near))
        return torch.where(eta < -4, _tail(-eta.clamp(max=-4), -u.log()), inside).clamp(min=0)


def _tail(a: Tensor, w: Tensor) -> Tensor:
    r"""Solves :math:`a h + h^2 / 2 + \log(1 + h / a) = w` for h: where the mass beyond a normal's a falls by e^-w."""
    h = 2 * w / (a + (a.square() + 2 * w).sqrt())
    for _ in range(2):
        rest = w - (h / a).log1p()
        h = 2 * rest / (a + (a.square() + 2 * rest).sqrt())
    return h
