r"""What a bound charges for its latents: the divergences of named sites, and pieces that turn them into a loss.

A bound on one datum is a pair: its log-likelihood, and for every latent site s a draw of, or the closed form of,

.. math::
    D_s \approx \mathrm{KL}\bigl(q(z_s | \cdot) \,\|\, p(z_s | \cdot)\bigr), \qquad
    L = \frac{1}{n} \sum_i \Bigl[-\log p(x_i | z) + \sum_s D_{s,i}\Bigr]

It comes from a model's distributions (:func:`of_marginal`) or from the traces of any two Pyro programs
(:func:`of_programs`), and does not tell which. A *charge* maps the divergences by site to what is paid for them, by
site; charges compose:

=================== ================================================================================
:class:`FreeBits`   :math:`\max(\lambda, \bar D_s)`: the first :math:`\lambda` nats of a site cost nothing
:class:`Balance`    :math:`\gamma_s D_s`, with :math:`\gamma_s \propto \bar D_s`: no site of a hierarchy falls silent
:func:`weigh`       :math:`\beta_s D_s`: numbers or schedules, for all sites or by name
=================== ================================================================================

:math:`\bar D_s` is the mean over the batch. A charge of your own is a module from such a dictionary to another.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution, HalfCauchy, HalfNormal, kl_divergence

from ..distributions import Marginal
from ..nn import at_least_float32
from .annealing import Counted

Divergences = dict[str, Tensor]
Weight = float | nn.Module


class Bound(NamedTuple):
    """A lower bound in its parts, tensors whose *means* are nats per datum.

    Attributes:
        log_likelihood: log p(x | z).
        divergences: By latent site, one number per datum, or per element of the plates around the site.
    """

    log_likelihood: Tensor
    divergences: Divergences


class FreeBits(nn.Module):
    r"""Charges a site's divergence only above a number of nats, so that encoding something costs nothing.

    .. math::
        \sum_s \max\Bigl(\lambda_s, \frac{1}{n} \sum_i D_{s,i}\Bigr)

    (Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improving Variational Inference with Inverse
    Autoregressive Flow, 2016, arXiv:1606.04934.) It cures a latent that is used too little, at the price of a bound
    that is looser by up to :math:`\lambda`.

    Args:
        nats: :math:`\lambda`, for all sites, or by site; sites without one are charged in full.
        per_datum: Whether the maximum is taken of every datum's divergence rather than of the batch's mean. A closed
            form (``ELBO(analytic=True)``) makes that maximum one of divergences, not of noisy draws.

    Example:
        >>> FreeBits(0.5)({"z": torch.tensor([0.1, 0.3])})
        {'z': tensor(0.5000)}
    """

    def __init__(self, nats: float | Mapping[str, float], per_datum: bool = False) -> None:
        super().__init__()
        if any(not each >= 0 for each in (nats.values() if isinstance(nats, Mapping) else [nats])):
            raise ValueError(f"nats: expected numbers that are not negative, got {nats}")
        self.nats, self.per_datum = nats, per_datum

    def forward(self, divergences: Divergences) -> Divergences:
        """Returns the charges."""
        free = by_site("nats", self.nats, divergences)
        means = {s: d if self.per_datum else d.mean() for s, d in divergences.items()}
        return {s: d.clamp(min=free[s]) if s in free else d for s, d in means.items()}


class Balance(Counted):
    r"""Charges sites in proportion to their own divergences during the first steps, and then all alike.

    .. math::
        \sum_s \gamma_s \bar D_s, \qquad \gamma_s = \frac{\bar D_s + \epsilon}{\frac{1}{S} \sum_t (\bar D_t + \epsilon)}

    without a gradient through :math:`\gamma`: a site that encodes little pays little. (Vahdat and Kautz, NVAE, 2020,
    arXiv:2007.03898.)

    Args:
        steps: Number of training steps; from then on, and in evaluation, :math:`\gamma = 1`.

    Example:
        >>> charges = Balance(100)({"a": torch.tensor(2.99), "b": torch.tensor(0.99)})
        >>> charges["a"] / 2.99, charges["b"] / 0.99
        (tensor(1.5000), tensor(0.5000))
    """

    EPSILON = 0.01

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.steps = steps

    def forward(self, divergences: Divergences) -> Divergences:
        """Returns the charges, and counts a step while training."""
        if not self.training:
            return divergences
        # a draw of a divergence may be negative
        sizes = {s: d.detach().mean().abs() + self.EPSILON for s, d in divergences.items()}
        mean = sum(sizes.values()) / len(sizes)
        charges = {s: d * torch.where(self.step < self.steps, sizes[s] / mean, 1.0) for s, d in divergences.items()}
        self.step += 1
        return charges


def weigh(divergences: Divergences, weight: Tensor | float | Mapping[str, Tensor | float]) -> Divergences:
    """Returns the divergences times a weight, or weights by site; sites without one count in full.

    Example:
        >>> weigh({"a": torch.ones(()), "b": torch.ones(())}, {"a": 0.5})
        {'a': tensor(0.5000), 'b': tensor(1.)}
    """
    weights = by_site("kl_weight", weight, divergences)
    return {s: weights[s] * d if s in weights else d for s, d in divergences.items()}


def by_site(name: str, setting: Any, sites: Sequence[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a setting as a mapping from sites.

    Raises:
        ValueError: If it names a site that there is not.
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(sites, setting)
    unknown = [site for site in setting if site not in sites]
    if unknown:
        raise ValueError(f"{name}: expected latent sites among {list(sites)}, got {unknown}")
    return setting


def closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    """Returns KL(q || p) in nats where a formula is registered (``torch.distributions.kl``), else ``None``.

    Left out are formulas that would be wrong: that of Pyro for ``Delta``, by which autoguides hand a constrained value
    on, without its log-determinant; that of torch for transforms that are no bijections; and that for two masks.
    """
    layers, others = _layers(q), _layers(p)
    folded = any(
        not t.bijective
        for layer in layers
        if not isinstance(layer, HalfNormal | HalfCauchy)
        for t in getattr(layer, "transforms", ())
    )
    if isinstance(layers[-1], Delta) or folded or _masks(layers) != _masks(others):
        return None
    try:
        return at_least_float32(kl_divergence(q, p))
    except NotImplementedError:
        return None


def _layers(p: Distribution) -> list[Distribution]:
    """Returns a distribution and those that it wraps, the innermost last."""
    found = [p]
    while (base := getattr(found[-1], "base_dist", None)) is not None:
        found.append(base)
    return found


def _masks(layers: list[Distribution]) -> list[int]:
    return [id(layer._mask) for layer in layers if isinstance(layer, MaskedDistribution)]


def of_marginal(p: Marginal, q: Distribution, x: Tensor, num_particles: int, analytic: bool) -> Bound:
    """Returns the bound on data x from a model's distributions; q is the proposal, reparameterised."""
    log_likelihood, log_ratios = p.terms(x, q, (num_particles,) if num_particles > 1 else ())
    divergences = {site: -log_ratio for site, log_ratio in log_ratios.items()}
    exact = closed_form(q, p.prior) if analytic else None
    return Bound(log_likelihood, divergences if exact is None else {"z": exact})


def of_programs(model: Any, guide: Any, args: Any, kwargs: Any, *, n: int, num_particles: int, analytic: bool) -> Bound:
    """Returns the bound from the traces of two programs on a batch that stands for n data, plates scaled as they say.

    Raises:
        ValueError: If a guide site draws without reparameterisation.
    """
    traces = list(Trace_ELBO(num_particles=num_particles)._get_traces(model, guide, args, kwargs))
    bounds = [_of_traces(*pair, n, analytic) for pair in traces]
    log_likelihood = torch.stack([bound.log_likelihood for bound in bounds])
    divergences = {s: torch.stack([b.divergences[s] for b in bounds]).mean(0) for s in bounds[0].divergences}
    return Bound(log_likelihood, divergences)


def _of_traces(model_trace: Any, guide_trace: Any, n: int, analytic: bool) -> Bound:
    """The terms of one draw."""
    sites = {name: site for name, site in guide_trace.nodes.items() if _is_latent(site)}
    latent = {name: site for name, site in model_trace.nodes.items() if _is_latent(site)}
    terms: dict[str, Tensor] = {}
    for name, q in sites.items():
        if not getattr(q["fn"], "has_rsample", False):
            raise ValueError(
                f"guide: expected reparameterised draws for charges and closed forms, but {name!r} is a "
                f"{type(q['fn']).__name__}; use ELBO() without them, whose kl_weight may be a mapping, or VIMCO"
            )
        p = latent.get(name)  # what the model lacks is auxiliary
        total = None
        if analytic and p is not None and _weighed_alike(q, p) and _parents_come_first(name, latent, sites):
            total = closed_form(q["fn"], p["fn"])
        if total is not None:
            total = scale_and_mask(total.expand(q["fn"].batch_shape), q["scale"], q["mask"])
        else:
            total = q["log_prob"] if p is None else q["log_prob"] - p["log_prob"]
        terms[name] = at_least_float32(total)
    divergences = {}
    for group in _drawn_together(sites, latent):
        first, *others = (terms[name] for name in group)
        together = all(total.shape == first.shape for total in others)
        total = sum(others, first) if together else sum(total.sum() for total in (first, *others))
        names = [name for name in group if name in latent] or group
        divergences[", ".join(names)] = total * (total.numel() / n)
    observed = [site for site in model_trace.nodes.values() if site["type"] == "sample" and site["is_observed"]]
    return Bound(sum(at_least_float32(site["log_prob"]).sum() for site in observed) / n, divergences)


def _is_latent(site: dict) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _drawn_together(sites: Mapping[str, Any], latent: Mapping[str, Any]) -> list[list[str]]:
    """Returns the guide's sites in groups that have one divergence.

    What the guide alone draws belongs to the latent after it, and to all that it hands on by ``Delta``.
    """
    groups: list[list[str]] = []
    for name, site in sites.items():
        auxiliary = bool(groups) and groups[-1][0] not in latent
        joins = auxiliary and (len(groups[-1]) == 1 or isinstance(_layers(site["fn"])[-1], Delta))
        if name in latent and joins:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _weighed_alike(q: dict, p: dict) -> bool:
    """Whether handlers have given both sites one scale and one mask; tensors are one only if they are the same."""
    pairs = [(q[key], p[key]) for key in ("scale", "mask")]
    return all(a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b) for a, b in pairs)


def _parents_come_first(name: str, model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> bool:
    """Whether what precedes a site in the model does so in the guide: else p(z_s | .) hangs on the draw of z_s."""
    before = list(guide_sites)[: list(guide_sites).index(name)]
    names = list(model_sites)
    return all(parent in before for parent in names[: names.index(name)])
