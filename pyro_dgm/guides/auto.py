r"""A flow over all continuous latents of a program.

The sites of the program, constrained and of any shapes, are the image of one vector u of D reals,

.. math::
    \theta = b(u), \qquad \log q(\theta) = \log q(u) - \log|\det \partial b / \partial u|, \qquad u \sim \text{flow}

so the guide can follow any dependence among sites: funnels, bananas, several modes. Sampling and scoring what was
sampled are one pass through the flow, also where ``NeuTraReparam`` runs HMC in the flow's latent space.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoContinuous, init_to_median
from torch import Tensor
from torch.distributions import Transform as TorchTransform
from torch.distributions import biject_to

from ..distributions import Proposal
from ..transforms import Transform
from .base import FlowGuide, MakeFlow, is_free_discrete


class AutoFlow(FlowGuide, AutoContinuous):
    r"""An autoguide over all continuous latents of a model, its posterior a flow: :math:`\theta = b(T(z))`.

    Good where Pyro's normal autoguides are not: skew, curved and funnel-shaped posteriors, several modes that training
    happens to find. Dear in parameters where there are thousands of latents. The latents, their shapes and supports
    must be the same in every run; for latents of subsampled plates there is
    :class:`~pyro_dgm.guides.AutoAmortizedFlow`. Discrete latents are left to enumeration (``TraceEnum_ELBO``).
    (Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015, arXiv:1505.05770; Hoffman, Sountsov,
    Dillon, Langmore, Tran and Vasudevan, NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport,
    2019, arXiv:1903.03704.)

    Args:
        model: A Pyro program.
        flow: Maps the number D of unconstrained reals to a flow model, e.g. ``NSF`` or ``partial(IAF, transforms=3)``;
            when ``None`` an :class:`~pyro_dgm.models.IAF`, which draws and scores its draws in one pass, for any D.
            :class:`~pyro_dgm.models.RealNVP` and :class:`~pyro_dgm.models.NSF` do so too, for D of at least 2.
        init_loc_fn: One of Pyro's functions from a site to the value to start from.
        init_scale: Deviation of the unconstrained reals at the start.

    Raises:
        ValueError: At :meth:`setup`, if a latent is in a subsampled plate, or the flow does not fit.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import Trace_ELBO
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, scale), obs=x)
        >>> x = torch.randn(10)
        >>> guide = AutoFlow(model).setup(x)
        >>> loss = Trace_ELBO()(model, guide)(x)
        >>> guide.quantiles([0.05, 0.95])["scale"].shape
        torch.Size([2])
    """

    def __init__(
        self,
        model: Callable,
        flow: MakeFlow | None = None,
        *,
        init_loc_fn: Callable = init_to_median,
        init_scale: float = 0.1,
    ) -> None:
        continuous = poutine.block(model, hide_fn=is_free_discrete)
        super().__init__(continuous, flow, init_scale, init_loc_fn=init_loc_fn)

    def _start(self, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        for name, stack in self._cond_indep_stacks.items():
            for frame in stack:
                if frame.full_size not in (None, frame.size):
                    raise ValueError(
                        f"model: expected latents outside of subsampled plates, got {name!r} in {frame.name!r}, "
                        f"{frame.size} of {frame.full_size}; hide it (poutine.block) and use AutoAmortizedFlow for it"
                    )
        return self._init_loc(), 0

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """Returns the distribution of the unconstrained vector, which knows the density of its latest draw."""
        return Proposal(self.flow())

    def get_base_dist(self) -> TorchDistribution:
        """Returns the distribution of z."""
        return self.flow.base()

    def get_transform(self, *args: Any, **kwargs: Any) -> TorchTransform:
        """Returns the transform from z to the unconstrained vector, which knows its latest log-determinant."""
        return _OnePass(self.flow.transform)

    @torch.no_grad()
    def sample_posterior(self, num_samples: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws from the posterior, outside of any program; see :meth:`FlowGuide.sample_posterior`."""
        self.setup(*args, **kwargs)
        sites = [site for _, site in self.prototype_trace.iter_stochastic_nodes()]
        plates = max(site["value"].dim() - site["fn"].event_dim for site in sites)
        latent = self.flow().sample((num_samples,)).unflatten(0, (num_samples, *[1] * plates))
        return {
            site["name"]: biject_to(site["fn"].support)(u).reshape(num_samples, *site["value"].shape)
            for site, u in self._unpack_latent(latent)
        }

    def log_prob(self, values: dict[str, Tensor]) -> Tensor:
        """Returns the log-density, in nats, of constrained values of all sites of a guide that is set up.

        Args:
            values: The values of each site, with shape ``sample_shape`` + shape of the site.

        Returns:
            The joint log-densities, with shape ``sample_shape``.

        Raises:
            ValueError: If the guide is not set up.
        """
        if self.prototype_trace is None:
            raise ValueError("log_prob: expected a guide that is set up, got one that was never run; call setup first")
        latent, ladj = [], []
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            value, b = values[name], biject_to(site["fn"].support)
            sample_shape = value.shape[: value.dim() - site["value"].dim()]
            u = b.inv(value)
            latent.append(u.reshape(*sample_shape, -1))
            ladj.append(b.log_abs_det_jacobian(u, value).reshape(*sample_shape, -1).sum(-1))
        return self.flow().log_prob(torch.cat(latent, -1)) - sum(ladj)


class _OnePass(TorchTransform):
    """A transform without context that keeps the log-determinant of its latest value.

    ``NeuTraReparam`` asks for a new one at every run of the program, applies it and asks for the log-determinant of
    just these tensors: with this, one pass in place of two.
    """

    bijective = True

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.domain, self.codomain = transform.domain, transform.codomain
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None

    def _call(self, x: Tensor) -> Tensor:
        y, ladj = self.transform.forward_and_ladj(x)
        self._latest = x, y, ladj
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return self.transform.inverse_value(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx|, at no cost for the latest value."""
        if self._latest is not None and x is self._latest[0] and y is self._latest[1]:
            return self._latest[2].expand(x.shape[:-1])
        return self.transform.log_abs_det_jacobian(x, y)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_latest": None}
