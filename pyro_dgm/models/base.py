r"""The contract of a generative model: a module that, called, returns a Pyro distribution.

``p = model(context)`` is :math:`p(x | c)` with ``batch_shape == context.shape[:-1]`` and ``event_shape ==
model.event_shape``. ``model.model`` and ``model.guide`` are the same thing as a pair of Pyro programs, so that
``SVI(model.model, model.guide, ...)`` trains any model with a density, and ``model.objective()`` is the distance to
the data that its family is trained with. What separates the families is what they promise about the density:

======================== ================== =========================================
:class:`TractableModel`   exact              flows, autoregressive models
:class:`ApproximateModel` bound or estimate  variational autoencoders
:class:`ImplicitModel`    none               adversarial networks, Markov chains
======================== ================== =========================================

To write a model, inherit from the class of its promise, build everything in ``__init__`` (no lazy
parameters), and implement ``_distribution(context)``. (The classes are no ``ABC``: Pyro brings its own metaclass.)
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, pyro_method
from pyro.params.param_store import param_with_module_name
from torch import Tensor, nn
from torch.distributions import constraints

from .._config import Configured
from .._shapes import as_shape, broadcast_shapes

if TYPE_CHECKING:
    from ..objectives import Objective

_instances: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def unique_name(cls: type) -> str:
    """Returns a name for a new instance; Pyro's parameter store is keyed by name, and no two may share theirs."""
    name = cls.__name__
    number = next(_instances[name])
    return f"{name}_{number}" if number else name


class GenerativeModel(Configured, PyroModule):
    """What all generative models share; inherit from one of the three promises below instead.

    Args:
        event_shape: Shape of one datum.
        context: Width of the context, 0 for none.
        support: Where the data live.

    Attributes:
        config: The constructor's arguments, from which :func:`pyro_dgm.load` builds the model again.
        context_optional: Whether the context, though the model knows one, may be left out.
    """

    context_optional: bool = False

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        support: constraints.Constraint = constraints.real,
    ) -> None:
        super().__init__(unique_name(type(self)))
        self.event_shape = as_shape(event_shape)
        self.context = context
        extra = len(self.event_shape) - support.event_dim
        self.support = constraints.independent(support, extra) if extra > 0 else support

    def __call__(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """Calls :meth:`forward`, past Pyro's bookkeeping where no program runs and no weight has a prior."""
        if pyro.poutine.runtime.am_i_wrapped() or has_random_weights(self):
            return super().__call__(*args, **kwargs)
        return nn.Module.__call__(self, *args, **kwargs)

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Returns p(x | c).

        Args:
            context: The context, with shape ``batch_shape + (context,)``; ``None`` for a model without one.

        Raises:
            ValueError: If a context is missing, not wanted, of the wrong width, or no floating-point tensor.
        """
        self._check_context(context)
        return self._distribution(context)

    def takes_missing(self, x: Tensor) -> bool:
        """Whether NaN in data like x marks what is missing, as the support has it."""
        return bool(self.support.check(torch.full(self.event_shape, math.nan, device=x.device)).all())

    def _check_context(self, context: Tensor | None) -> None:
        name = type(self).__name__
        if context is not None and not (isinstance(context, Tensor) and context.is_floating_point()):
            kind = f"a tensor of {context.dtype}" if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(
                f"context: expected a tensor of floating-point numbers, got {kind}; one-hot classes as .float()"
            )
        if context is None and self.context and not self.context_optional:
            raise ValueError(
                f"context: {name} was built with context={self.context}, got None; pass a tensor (..., {self.context})"
            )
        if context is not None and not self.context:
            raise ValueError(
                f"context: {name} was built without one, got {tuple(context.shape)}; build it with context=..."
            )
        if context is not None and context.shape[-1:] != (self.context,):
            raise ValueError(f"context: expected shape (..., {self.context}), got {tuple(context.shape)}")

    def _distribution(self, context: Tensor | None) -> TorchDistribution:
        raise NotImplementedError(f"{type(self).__name__} lacks _distribution")

    def objective(self) -> "Objective":
        """Returns the objective this family is trained with, with its default settings."""
        raise NotImplementedError(f"{type(self).__name__} lacks objective")

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits what depends on data, once, before training; ``fit`` calls it if the model has not been initialised.

        Args:
            x: Training data, with shape ``(n,) + event_shape``.
            context: Their contexts, with shape (n, context).
        """

    @contextmanager
    def _data_plates(self, x: Tensor | None, context: Tensor | None, data_size: int | None) -> Iterator[None]:
        """Plates over the batch dimensions of the data, scaled so that they count as ``data_size`` data."""
        self._random_weights()  # shared by all data, so sampled outside the plates
        shapes = [] if x is None else [x.shape[: x.dim() - len(self.event_shape)]]
        shapes += [] if context is None else [context.shape[:-1]]
        batch_shape = broadcast_shapes(*shapes)
        with ExitStack() as stack:
            if data_size is not None:
                stack.enter_context(poutine.scale(scale=data_size / batch_shape.numel()))
            for dim, size in zip(range(-len(batch_shape), 0), batch_shape, strict=True):
                stack.enter_context(pyro.plate("data" if dim == -1 else f"data_{-dim}", size, dim=dim))
            yield

    def _random_weights(self) -> dict[str, Tensor]:
        """Samples the weights that have a prior (``PyroSample``), one site each, and returns them by name."""
        if not self._pyro_context.active:
            return {}
        for module in self.modules():
            for name in module._pyro_samples if isinstance(module, PyroModule) else ():
                getattr(module, name)
        return dict(self._pyro_context.cache)

    @contextmanager
    def _with_weights(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Has weights with a prior be those of an earlier draw, as long as the context lasts."""
        with self._pyro_context:
            self._pyro_context.cache.update(weights)
            yield

    def __getattr__(self, name: str) -> Any:
        """Tells Pyro about parameters inside a Pyro program only: a plain call costs nothing and leaves no trace.

        Raises:
            ValueError: If the parameter store holds another model's parameters under this model's name.
        """
        own = self.__dict__
        if not pyro.poutine.runtime.am_i_wrapped():
            for kind in ("_modules", "_parameters"):
                if name in own.get(kind, ()):
                    return own[kind][name]
        value = super().__getattr__(name)
        if isinstance(value, nn.Module) and not isinstance(value, PyroModule) and own["_pyro_context"].active:
            self._check_registered(name, value)
        return value

    def _check_registered(self, name: str, module: nn.Module) -> None:
        if pyro.settings.get("module_local_params"):
            return
        store = pyro.get_param_store()
        first = next((item for item in module.named_parameters() if item[1].requires_grad), None)
        if first is None:
            return
        full_name = param_with_module_name(self._pyro_get_fullname(name), first[0])
        if full_name in store and store[full_name].unconstrained() is not first[1]:
            raise ValueError(
                f"{type(self).__name__}: Pyro's parameter store already maps {full_name!r} to the parameters of "
                "another model (a copy of this one?), so this one would not be trained; call "
                "pyro.clear_param_store(), or train with pyro_dgm.fit, which needs no store"
            )


def has_random_weights(model: nn.Module) -> bool:
    """Whether a weight of the model has a prior (``PyroSample``); asked at every call, so quick."""
    parts: list[nn.Module | None] = [model]
    for part in parts:  # which grows meanwhile
        if part is not None:
            if part.__dict__.get("_pyro_samples"):
                return True
            if part._modules:
                parts += part._modules.values()
    return False


class OneSite(GenerativeModel):
    """A model whose program has one site, ``"x"``, since its distribution scores data and nothing is left latent."""

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The Pyro program: ``x ~ p(x | c)``, one site ``"x"`` in a plate ``"data"``.

        Args:
            x: Data to observe, with shape ``batch_shape + event_shape``; ``None`` to sample.
            context: Contexts, with shape ``batch_shape + (context,)``.
            data_size: Number of data that the given batch stands for, which scales its log-density.
        """
        with self._data_plates(x, context, data_size):
            return pyro.sample("x", self(context), obs=x)

    @pyro_method
    def guide(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> None:
        """The guide, which is empty: nothing is latent."""


class TractableModel(OneSite):
    """A model with an exact ``log_prob``."""

    def objective(self) -> "Objective":
        """Returns the negative log-likelihood."""
        from ..objectives import NegativeLogLikelihood

        return NegativeLogLikelihood()


class ApproximateModel(GenerativeModel):
    """A model whose ``log_prob`` is a bound or an estimate, and which says which."""

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The Pyro program of the generative process; arguments as in :meth:`TractableModel.model`."""
        raise NotImplementedError(f"{type(self).__name__} lacks model")

    @pyro_method
    def guide(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Any:
        """The Pyro program of the approximate posterior."""
        raise NotImplementedError(f"{type(self).__name__} lacks guide")

    def objective(self) -> "Objective":
        """Returns the evidence lower bound."""
        from ..objectives import ELBO

        return ELBO()


class ImplicitModel(GenerativeModel):
    """A model that can be sampled but not scored.

    Its distribution has a method ``as_sites(name)``, which samples within a Pyro program. No one objective suits all
    such models: each family names its own.
    """

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The Pyro program that samples ``x``, by the sites of its distribution (a generator's noise is one, ``"z"``).

        Raises:
            NotImplementedError: If data are given: there is no density to observe them with.
        """
        if x is not None:
            raise NotImplementedError(
                f"model: {type(self).__name__} has no density, so x cannot be observed; train it with pyro_dgm.fit, "
                "and compare samples with data by pyro_dgm.evaluation.c2st or mmd"
            )
        with self._data_plates(None, context, data_size):
            return self(context).as_sites("x")

    @pyro_method
    def guide(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Any:
        """Raises: nothing in an implicit model can be inferred by scoring.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"guide: {type(self).__name__} has no density, so it has no guide and no ELBO; train it with pyro_dgm.fit"
        )
