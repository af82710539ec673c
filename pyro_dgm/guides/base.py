r"""What flow guides share: a flow over unconstrained reals, put where the model starts, and quantiles from its draws.

Constrained latents :math:`\theta` are the image of a vector of reals, :math:`\theta = b(u)` site by site (Pyro's
``biject_to``), and the vector has a flow as its distribution:

.. math::
    z \sim N(0, I), \qquad u = e^{s(c)} \odot T(z; c) + m(c), \qquad \theta = b(u)

with the learned transform :math:`T` of any flow model, and :math:`m, s` learned too, linear in a context :math:`c` if
there is one. Flows start as the identity, so the guide starts as a narrow normal distribution around :math:`m`, the
prior's median or wherever ``init_loc_fn`` says.

Pyro's ``TraceMeanField_ELBO`` leaves :math:`\log|\det \partial b / \partial u|` out, of its own autoguides too: where
latents are constrained take ``Trace_ELBO``, or :class:`~pyro_dgm.objectives.ELBO`, closed forms included.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.ops.stats import quantile
from torch import Tensor, nn

from ..models.base import unique_name
from ..models.tractable.flows import IAF, FlowModel, NormalizingFlow
from ..transforms import ActNorm
from ..transforms.support import is_real

MakeFlow = Callable[..., FlowModel]


class FlowGuide(AutoGuide):
    """A guide whose posterior is a flow; abstract.

    The flow is made from the structure of the model, which one run of it shows: at the first call, as by Pyro's
    autoguides, or before it by :meth:`setup`.

    Attributes:
        flow: The distribution of the unconstrained reals, a flow model; there once the guide is set up.
    """

    flow: NormalizingFlow

    def __init__(self, model: Callable, make_flow: MakeFlow | None, init_scale: float, **settings: Any) -> None:
        super().__init__(model, **settings)
        if not init_scale > 0:
            raise ValueError(f"init_scale: expected a positive deviation, got {init_scale}")
        self._pyro_name = unique_name(type(self))
        self._make_flow, self._init_scale = make_flow or inverse_autoregressive, init_scale

    def setup(self, *args: Any, **kwargs: Any) -> "FlowGuide":
        """Makes the flow by running the model once, if that has not been done; returns the guide.

        Its parameters are there then, for optimizers and ``load_state_dict``.

        Args:
            args: Arguments of the model; only their shapes matter.
            kwargs: Keyword arguments of the model.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self

    @torch.no_grad()  # what is kept of the run must hold no graph
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._setup_prototype(*args, **kwargs)
            for node in ("_INPUT", "_RETURN"):  # the data are the caller's
                self.prototype_trace.remove_node(node)
            if self.master is None:
                with poutine.block():
                    self._create_plates(*args, **kwargs)
            loc, context = self._start(*args, **kwargs)
            self.flow = self._placed(loc, context)
        except Exception:
            self.prototype_trace = None  # not set up
            raise

    def _start(self, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        """Returns the unconstrained vector to start from and the width of the context, 0 for none."""
        raise NotImplementedError(f"{type(self).__name__} lacks _start")

    def _placed(self, loc: Tensor, context: int) -> NormalizingFlow:
        if not loc.isfinite().all():
            raise ValueError("init_loc_fn: expected values within the supports of their sites, got some on the edge")
        d = len(loc)
        flow = self._make_flow(d, context) if context else self._make_flow(d)
        fits = isinstance(flow, FlowModel) and (flow.event_shape, flow.context) == ((d,), context)
        if not fits or not is_real(flow.support):
            raise ValueError(
                f"flow: expected a function that makes a flow model of {d} unconstrained features and "
                f"context={context}, got one that makes {flow!r}"
            )
        place = ActNorm(d, context)
        place.affine.value.copy_(torch.cat([loc, torch.full_like(loc, math.log(self._init_scale))]))
        place.initialized.fill_(True)
        whole = {"standardize": False, "base": flow.base, "invertible": flow.transform.invertible}
        return NormalizingFlow(d, [flow.transform, place], context, **whole).to(loc)

    def sample_posterior(self, num_samples: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws from the posterior, outside of any program.

        Args:
            num_samples: Number of draws.
            args: Arguments of the model.
            kwargs: Keyword arguments of the model.

        Returns:
            The draws of each site, constrained, with shape ``(num_samples,)`` + shape of the site.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks sample_posterior")

    def median(self, *args: Any, num_samples: int = 2000, **kwargs: Any) -> dict[str, Tensor]:
        """Returns the posterior median of every element of each site; see :meth:`quantiles`."""
        return {name: q[0] for name, q in self.quantiles([0.5], *args, num_samples=num_samples, **kwargs).items()}

    @torch.no_grad()
    def quantiles(
        self, quantiles: Sequence[float], *args: Any, num_samples: int = 2000, **kwargs: Any
    ) -> dict[str, Tensor]:
        r"""Returns posterior quantiles of every element of each site, from draws.

        The standard error of a quantile p is :math:`\sqrt{p (1 - p) / n} / q(\theta_p)`: of the median of 2000 draws
        from a normal distribution, 0.03 deviations. Elements are taken one by one, so those of a simplex need not sum
        to 1.

        Args:
            quantiles: Numbers between 0 and 1.
            args: Arguments of the model.
            num_samples: Number n of draws, by torch's global random state.
            kwargs: Keyword arguments of the model.

        Returns:
            The quantiles of each site, constrained, with shape ``(len(quantiles),)`` + shape of the site.

        Raises:
            ValueError: If a quantile is no number between 0 and 1, or there is no draw.
        """
        if not all(0 <= q <= 1 for q in quantiles) or num_samples < 1:
            raise ValueError(
                f"quantiles, num_samples: expected numbers between 0 and 1, and at least one draw, got "
                f"{list(quantiles)} and {num_samples}"
            )
        draws = self.sample_posterior(num_samples, *args, **kwargs)
        return {name: quantile(x, list(quantiles)) for name, x in draws.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the model, which is not the guide's; unlike Pyro's, takes nothing from the guide itself."""
        return {**self.__dict__, "_model": None, "master": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "FlowGuide":
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        new._model = self._model
        return new


def inverse_autoregressive(features: int, context: int = 0) -> IAF:
    """The default flow: it scores what it draws in one pass, for any number of latents, even a single one.

    Three layers train stably at learning rates of 0.01; a smooth activation gives HMC gradients without jumps.
    """
    return IAF(features, context, transforms=3, hidden_features=(max(64, features),) * 2, activation=nn.SiLU)


def is_free_discrete(msg: dict) -> bool:
    """Whether a message is of a latent site that is discrete, for enumeration to take care of."""
    is_latent = msg["type"] == "sample" and not msg["is_observed"]
    return is_latent and not poutine.util.site_is_subsample(msg) and msg["fn"].support.is_discrete


def auxiliary(guide: FlowGuide, distribution: pyro.distributions.TorchDistribution) -> Tensor:
    """Samples the unconstrained vector, a site of the guide alone."""
    return pyro.sample(f"_{guide._pyro_name}_latent", distribution, infer={"is_auxiliary": True})
