r"""A conditional flow over the latents of every row of a plate, told what an encoder reads off the row's data.

.. math::
    q(\theta_{1:n}) = \prod_i q(\theta_i | c_i), \qquad c_i = \text{encoder}(x_i), \qquad
    \theta_i = b(u_i), \quad u_i \sim \text{flow}(c_i)

The encoder and the flow are shared by all rows, so rows never seen have a posterior at once, batches may have any size,
and the number of parameters does not grow with the data. What it costs is the amortisation gap: one network has to
serve all rows. Under subsampling the plate scales the guide's terms as it scales the model's, which keeps the
evidence lower bound unbiased.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.guides import prototype_hide_fn
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from ..distributions import Proposal
from .base import FlowGuide, MakeFlow, auxiliary, is_free_discrete


class _Site(NamedTuple):
    """A local site: its name, the support of one row, its event dimensions, the shape of an unconstrained event."""

    name: str
    support: Constraint
    event_dim: int
    shape: torch.Size


class AutoAmortizedFlow(FlowGuide):
    r"""An amortised guide over the continuous latents in one plate: :math:`\theta_i = b(T(z_i; \text{encoder}(x_i)))`.

    All latents of a row are one vector, so their posterior dependence is followed; rows are independent given the
    data. Latents outside of the plate are left to another guide: add both to Pyro's ``AutoGuideList``, or call
    one after the other. Discrete latents are left to enumeration. (Kingma and Welling, Auto-Encoding Variational Bayes,
    2013, arXiv:1312.6114; Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015, arXiv:1505.05770.)

    Args:
        model: A Pyro program.
        plate: Name of the plate. Its latents may be in no other plate; ``to_event`` their further dimensions.
        encoder: Maps the data of rows, shape (n, ...), to their contexts, shape (n, context).
        flow: Maps the number D of unconstrained reals per row and the width of the context to a flow model, e.g.
            ``NSF``; an :class:`~pyro_dgm.models.IAF` when ``None``. With one latent per row an IAF is a normal
            distribution: ``partial(NSF, autoregressive=True)`` bends it.
        data: Maps the arguments of the model to the data that the encoder reads: a tensor whose first dimension runs
            over the plate, all of it or the present batch, or a tuple of such tensors; the first argument when
            ``None``. As many rows as the batch has are the batch's, in its order.
        create_plates: Maps the arguments of the model to the plate, made as the model makes it. Needed where batches
            have several sizes: ``lambda x: pyro.plate("rows", 1000, subsample_size=len(x), dim=-1)``. Within an
            ``AutoGuideList`` it is an argument of the list.
        init_loc_fn: One of Pyro's functions from a site to the value to start from.
        init_scale: Deviation of the unconstrained reals at the start.

    Raises:
        ValueError: At :meth:`setup` or a call, if plate, sites, data, encoder or flow do not fit together.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> def rows(x):
        ...     return pyro.plate("rows", 1000, subsample_size=len(x), dim=-1)
        >>> def model(x):
        ...     with rows(x):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         share = pyro.sample("share", dist.Beta(1.0, 1.0))
        ...         mean = torch.stack([rate, rate * share], -1)
        ...         pyro.sample("x", dist.Poisson(mean).to_event(1), obs=x)
        >>> x = torch.poisson(torch.ones(1000, 2))
        >>> guide = AutoAmortizedFlow(model, "rows", torch.nn.Linear(2, 8), create_plates=rows).setup(x[:10])
        >>> loss = Trace_ELBO()(model, guide)(x[:7])
        >>> guide.median(x[:5])["rate"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: Callable,
        plate: str,
        encoder: nn.Module,
        flow: MakeFlow | None = None,
        *,
        data: Callable[..., Tensor | tuple[Tensor, ...]] | None = None,
        create_plates: Callable | None = None,
        init_loc_fn: Callable = init_to_median,
        init_scale: float = 0.1,
    ) -> None:
        started = InitMessenger(init_loc_fn)(poutine.block(model, hide_fn=is_free_discrete))
        super().__init__(started, flow, init_scale, create_plates=create_plates)
        self.plate, self.encoder = plate, encoder
        self._data = data or _first
        self._prototype_hide_fn = partial(_is_elsewhere, plate)

    def _start(self, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        self._sites, loc, frame = [], [], None
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            if len(site["cond_indep_stack"]) != 1:
                raise ValueError(
                    f"plate: expected {name!r} in {self.plate!r} alone, got it in "
                    f"{[f.name for f in site['cond_indep_stack']]}; declare further dimensions by to_event"
                )
            (frame,), event_dim = site["cond_indep_stack"], site["fn"].event_dim
            support = _of_one_row(name, site["fn"].support, event_dim)
            u = biject_to(support).inv(site["value"])
            shape = u.shape[site["value"].dim() - event_dim :]
            self._sites.append(_Site(name, support, event_dim, shape))
            loc.append(u.reshape(-1, shape.numel()).mean(0))
        if frame is None:
            raise ValueError(f"plate: expected one with continuous latents of the model, {self.plate!r} has none")
        self._dim = frame.dim
        self._check_plate(frame)
        context = self._context(self._rows(frame.full_size or frame.size, frame.size, None, args, kwargs))
        return torch.cat(loc), context.shape[-1]

    def _check_plate(self, frame: Any) -> None:
        """Refuses a plate that is not the model's: it would scale the guide's terms by another factor."""
        if self.master is not None:
            return
        plate = self.plates[self.plate]
        own, theirs = (plate.size, plate.subsample_size, plate.dim), (frame.full_size, frame.size, frame.dim)
        if own[:2] != theirs[:2] or own[2] not in (None, theirs[2]):
            raise ValueError(f"create_plates: expected {self.plate!r} with (size, batch, dim) = {theirs}, got {own}")

    def _rows(self, size: int, batch: int, index: Tensor | None, args: tuple, kwargs: dict) -> tuple[Tensor, ...]:
        """Returns the data of the rows at hand, selected where all of the plate's were given."""
        data = self._data(*args, **kwargs)
        data = data if isinstance(data, tuple) else (data,)
        if any(len(x) not in (batch, size) for x in data):
            raise ValueError(
                f"data: expected the {batch} rows in {self.plate!r} or all {size}, got {[len(x) for x in data]}; where "
                f'batches vary, create_plates=lambda x: pyro.plate("{self.plate}", {size}, subsample_size=len(x), '
                f"dim={self._dim})"
            )
        return tuple(x if len(x) == batch or index is None else x[index.to(x.device)] for x in data)

    def _context(self, rows: tuple[Tensor, ...]) -> Tensor:
        """Returns the contexts of rows, with their dimension at the plate's."""
        context = self.encoder(*rows)
        if context.dim() != 2 or len(context) != len(rows[0]):
            raise ValueError(
                f"encoder: expected contexts with shape ({len(rows[0])}, width), got {tuple(context.shape)}"
            )
        return context.unflatten(0, (-1, *[1] * (-self._dim - 1)))

    def _constrained(self, latent: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns the value of each site and its log|det dtheta/du|."""
        parts = latent.split([site.shape.numel() for site in self._sites], -1)
        result = {}
        for site, part in zip(self._sites, parts, strict=True):
            u, b = part.reshape(part.shape[:-1] + site.shape), biject_to(site.support)
            value = b(u)
            ladj = b.log_abs_det_jacobian(u, value)
            result[site.name] = value, sum_rightmost(ladj, ladj.dim() - value.dim() + site.event_dim)
        return result

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The guide, a program with the arguments of the model; returns the value of each site."""
        self.setup(*args, **kwargs)
        plate = self._create_plates(*args, **kwargs)[self.plate]
        with plate as index:
            rows = self._rows(plate.size, plate.subsample_size, index, args, kwargs)
            latent = auxiliary(self, Proposal(self.flow(self._context(rows))))
            return {
                site.name: pyro.sample(site.name, dist.Delta(value, -ladj, event_dim=site.event_dim))
                for site, (value, ladj) in zip(self._sites, self._constrained(latent).values(), strict=True)
            }

    @torch.no_grad()
    def sample_posterior(self, num_samples: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws from the posterior of all rows that are given; see :meth:`FlowGuide.sample_posterior`."""
        self.setup(*args, **kwargs)
        rows = self._data(*args, **kwargs)
        context = self._context(rows if isinstance(rows, tuple) else (rows,))
        latent = self.flow(context).sample((num_samples,))
        return {name: value for name, (value, _) in self._constrained(latent).items()}


def _first(*args: Any, **kwargs: Any) -> Tensor:
    return next(iter((*args, *kwargs.values())))


def _is_elsewhere(plate: str, msg: dict) -> bool:
    return prototype_hide_fn(msg) or all(frame.name != plate for frame in msg["cond_indep_stack"])


def _of_one_row(name: str, support: Constraint, event_dim: int) -> Constraint:
    """Returns the support of one row from that of all, whose bounds a plate has expanded."""
    one = copy.copy(support)
    for key, part in vars(support).items():
        if isinstance(part, Constraint):
            setattr(one, key, _of_one_row(name, part, event_dim))
        elif isinstance(part, Tensor) and part.dim() > event_dim:
            setattr(one, key, part[(0,) * (part.dim() - event_dim)])
            if not (part == getattr(one, key)).all():
                raise ValueError(f"model: expected {name!r} with the same support in every row, got {support}")
    return one
