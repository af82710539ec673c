"""Mixed precision: networks compute in bfloat16 or float16, and nothing else does.

The exact statement is tested by taking the networks out of it: what they gave under autocast is recorded and given
again without, and everything else must come out the same bit for bit.
"""

import copy
from contextlib import contextmanager, nullcontext

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dgm.distributions import Marginal
from pyro_dgm.models import GAN, DiagonalNormal, IndependentBernoulli
from pyro_dgm.nn import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    ConvNet,
    GatedMLP,
    MaskedMLP,
    at_least_float32,
    leave_autocast,
    without_autocast,
)
from pyro_dgm.nn.dcgan import DCGANCritic, DCGANGenerator
from pyro_dgm.nn.nade import NADENetwork
from pyro_dgm.nn.orderless import Orderless, OrderlessMLP
from pyro_dgm.nn.pixel_cnn import RasterNetwork
from pyro_dgm.nn.pixel_cnn_plus_plus import PixelCNNPlusPlusNetwork
from pyro_dgm.nn.pixel_rnn import PixelRNNNetwork
from pyro_dgm.nn.recurrent import BackwardGRU, Combiner, GatedTransition
from pyro_dgm.nn.residual import ResidualCritic, ResidualGenerator
from pyro_dgm.nn.transformer import TransformerNetwork
from pyro_dgm.objectives import ELBO, Adversarial, GradientPenalty, NegativeLogLikelihood, Reconstruction, Wasserstein
from pyro_dgm.transforms import Coupling, MaskedAutoregressive

from .test_models import build, once
from .test_transforms import build as build_transform
from .test_transforms import every_transform
from .zoo import MODELS, SCORED, C, perturb

NETWORKS = (
    ConvDecoder, ConvEncoder, ConvNet, GatedMLP, MLP, MaskedMLP, Orderless, RasterNetwork, PixelCNNPlusPlusNetwork,
    PixelRNNNetwork, TransformerNetwork, BackwardGRU, Combiner, GatedTransition, DCGANGenerator, DCGANCritic,
    ResidualGenerator, ResidualCritic,
)  # fmt: skip
every_low = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def autocast(low=torch.bfloat16):
    return torch.autocast("cpu", dtype=low)


@contextmanager
def hooked(module, hook):
    """Calls ``hook(network, inputs, output)`` after every network."""
    networks = [m for m in module.modules() if isinstance(m, NETWORKS)]
    networks += [m.context for m in module.modules() if isinstance(m, NADENetwork | OrderlessMLP) and m.context]
    handles = [m.register_forward_hook(hook) for m in networks]
    yield
    for handle in handles:
        handle.remove()


def with_and_without(module, function, low):
    """Results under autocast, and without it from the same numbers of the networks; how many networks ran."""
    recorded, before = [], copy.deepcopy(module.state_dict())
    with autocast(low), hooked(module, lambda _, inputs, output: recorded.append(output)):
        torch.manual_seed(7)
        mixed = function()
    assert all(t.dtype in (low, torch.float32) for t in recorded)  # a walk runs networks in full precision
    module.load_state_dict(before)  # a loss in training mode moves codebooks
    again = iter(recorded)
    with hooked(module, lambda _, inputs, output: next(again).float()):
        torch.manual_seed(7)
        exact = function()
    assert next(again, None) is None
    return mixed, exact, len(recorded)


def assert_identical(mixed, exact):
    for a, b in zip(mixed, exact, strict=True):
        assert a.dtype == torch.float32 and a.isfinite().all()
        assert torch.equal(a, b)


# --- where low precision ends ----------------------------------------------------------------------------------------


@once(MODELS)
@every_low
def test_only_networks_are_imprecise(name, context, low):
    """Densities, samples and losses are float32, and exact given what the networks gave."""
    model, x, c = build(name, context)
    batch = (x,) if c is None else (x, c)

    def function():
        p = model(c)
        if MODELS[name].reconstructs:
            return [p.sample((2,)), model.encode(*batch), Reconstruction(code_weight=1.0)(model)(*batch)]
        if MODELS[name].walks:
            return [p.sample((2,)), model.reconstruct(*batch), model.objective()(model)(*batch)]
        if MODELS[name].density == "implicit":
            return [p.rsample((2,)), model.score(*batch), Adversarial()(model)(*batch)]
        objective = NegativeLogLikelihood() if MODELS[name].density == "exact" else ELBO()
        draws = [p.rsample((2,))] if p.has_rsample else [p.sample((2,))]
        return [*draws, p.log_prob(x), p.log_prob(draws[0]), objective(model)(*batch)]

    mixed, exact, count = with_and_without(model, function, low)
    if name == "GSN":  # it is a network itself, of tied weights
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in mixed)
        return
    assert_identical(mixed, exact)
    assert (
        count or not context or any(k in name for k in ("pyro", "FFJORD", "BNAF", "RBM", "EnergyModel"))
    )  # all in full precision


@every_transform
@every_low
def test_only_networks_of_transforms_are_imprecise(name, context, low):
    transform, x, c = build_transform(name, context)
    transform, x, c = transform.float(), x.float(), None if c is None else c.float()
    y = transform.forward_and_ladj(x, c)[0]

    def function():
        return *transform.forward_and_ladj(x, c), *transform.inverse_and_ladj(y, c)

    mixed, exact, _ = with_and_without(transform, function, low)
    assert_identical(mixed, exact)


@once(SCORED)
def test_log_density_under_autocast_is_near_the_exact_one(name, context):
    """Within two units of bfloat16's last place; the most over 20 other seeds was 0.9 of one, 2**-8, for any row.

    The median, since a single density can be as sensitive to its network as one likes.
    """
    model, x, c = build(name, context, 64)
    with torch.no_grad():
        torch.manual_seed(5)
        exact = model(c).log_prob(x)
        with autocast():
            torch.manual_seed(5)
            mixed = model(c).log_prob(x)
    assert mixed.dtype == torch.float32 and mixed.isfinite().all()
    assert ((mixed - exact).abs() / (1 + exact.abs())).median() < 2**-7


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
@every_low
def test_log_determinant_of_many_features_is_added_in_float32(kind, low):
    """In low precision, by the same network, the sum would be wrong in the second or third decimal."""
    d = 256
    t = (
        Coupling([True, False] * (d // 2), None, (32,))
        if kind == "coupling"
        else MaskedAutoregressive(d, None, None, (d,))
    )
    perturb(t, 0.5)
    theta, x = [], torch.randn(16, d)
    with autocast(low), hooked(t, lambda _, inputs, output: theta.append(output)):
        ladj = t.forward_and_ladj(x)[1]
    (theta,) = theta
    terms = t.univariate.forward_and_ladj(torch.zeros(1), theta.float())[1]
    assert ladj.dtype == torch.float32 and torch.equal(ladj, terms.sum(-1))
    exact = terms.double().sum(-1)
    assert (ladj - exact).abs().max() < 1e-4
    assert (terms.to(low).sum(-1) - exact).abs().max() > 1e-2


class _Given(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, context):
        return self.value


@pytest.mark.parametrize("model", [DiagonalNormal, IndependentBernoulli])
def test_networks_of_the_users_own(model):
    """A network that is no class of ours, in every place that takes one."""
    network = nn.Linear(2, 6 if model is DiagonalNormal else 3)
    p = model(3, 2, network=network)
    c, x = torch.randn(5, 2), torch.ones(5, 3)
    with autocast():
        theta = network(c)
        mixed = p(c)
        assert mixed.sample().dtype == torch.float32
        mixed = mixed.log_prob(x)
    p.network = _Given(theta.float())
    assert mixed.dtype == torch.float32 and torch.equal(mixed, p(c).log_prob(x))


def test_context_in_low_precision():
    """Features from a network outside of the model come in low precision, and the density does not."""
    encoder = nn.Linear(4, C)
    for name in ("NSF", "NormalizingFlow", "NormalizingFlow-pyro", "VAE", "DiagonalNormal"):
        model, x, _ = build(name, C)
        with autocast():
            assert model(encoder(torch.randn(len(x), 4))).log_prob(x).dtype == torch.float32


# --- sums of importance weights, scores, penalties -------------------------------------------------------------------


def test_importance_weights_are_added_in_float32():
    """Of parts in bfloat16, which have a bfloat16 density each."""
    prior = dist.Normal(torch.zeros(2).bfloat16(), 1.0).to_event(1)
    p = Marginal(prior, lambda z: dist.Normal(z, 1.0).to_event(1), None, (2,), num_particles=512)
    x = torch.randn(5, 2).bfloat16()
    torch.manual_seed(3)
    got = p.log_prob(x)
    torch.manual_seed(3)
    z = prior.expand((5,)).rsample((512,))
    log_w = dist.Normal(z, 1.0).to_event(1).log_prob(x)
    assert log_w.dtype == torch.bfloat16 and got.dtype == torch.float32
    torch.testing.assert_close(got, log_w.double().logsumexp(0).sub(torch.tensor(512.0).log()).float())


@pytest.mark.parametrize("context", [0, C])
@every_low
def test_gradient_penalty_is_that_of_float32(context, low):
    """The critic runs in full precision within it: value and gradient are the same bit for bit."""
    torch.manual_seed(0)
    gan = GAN((1, 8), 4, context, (32, 32))
    x, fake = torch.randn(16, 1, 8), torch.randn(16, 1, 8)
    c = torch.randn(16, context) if context else None
    parameters = [p for name, p in gan.critic.named_parameters() if "weight" in name]

    def penalty_and_gradients(context_manager):
        torch.manual_seed(1)
        with context_manager:
            penalty = GradientPenalty(1.0)(lambda u: gan.score(u, c), x, fake, 2)
        return penalty.detach(), *torch.autograd.grad(penalty, parameters)

    exact = penalty_and_gradients(nullcontext())
    assert exact[0] > 0.01
    assert_identical(penalty_and_gradients(autocast(low)), exact)


def test_penalised_game_under_autocast_trains_the_critic():
    gan = GAN(3, 2, 0, (8,))
    loss = Adversarial(Wasserstein(), GradientPenalty(10.0))
    x = torch.randn(6, 3)

    def value_and_gradient(context_manager):
        torch.manual_seed(1)
        with context_manager:
            value = loss.critic_loss(gan, x)
        gradients = torch.autograd.grad(value, list(gan.critic.parameters()))
        return value.detach(), torch.cat([g.flatten() for g in gradients])

    value, exact = value_and_gradient(nullcontext())
    mixed_value, mixed = value_and_gradient(autocast())
    assert mixed_value.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(mixed_value, value, rtol=2**-7, atol=2**-7)
    assert (mixed - exact).norm() < 2**-5 * exact.norm()


# --- what stays as it was --------------------------------------------------------------------------------------------


def test_helpers_do_nothing_to_full_precision():
    for dtype in (torch.float32, torch.float64):
        t = torch.zeros(3, dtype=dtype)
        assert at_least_float32(t) is t and leave_autocast(t) is t
        with autocast():
            assert at_least_float32(t) is t and leave_autocast(t) is t
    half = torch.zeros(3, dtype=torch.bfloat16)
    assert leave_autocast(half) is half and at_least_float32(half).dtype == torch.float32
    meta = torch.zeros(3, dtype=torch.bfloat16, device="meta")  # which torch.autocast refuses
    with without_autocast(meta):
        assert leave_autocast(meta) is meta
    with autocast():
        assert leave_autocast(half).dtype == torch.float32
        with without_autocast(half):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


@once(MODELS)
def test_models_in_half_precision_stay_in_it(name, context):
    if name == "NormalizingFlow-pyro":
        return  # Pyro's splines fill a float32 tensor
    model, x, c = build(name, context)
    model, x, c = model.bfloat16(), x.bfloat16(), None if c is None else c.bfloat16()
    p = model(c)
    draw = p.sample((2,))
    assert draw.dtype == torch.bfloat16 and draw.isfinite().all()
    if MODELS[name].walks:
        scores = [model.reconstruct(x, c)]
    elif MODELS[name].density == "implicit":
        scores = [model.encode(x, c) if MODELS[name].reconstructs else model.score(x, c)]
    else:
        scores = [p.log_prob(x), p.log_prob(draw)]
    assert all(s.isfinite().all() for s in scores)


@pytest.mark.parametrize("name", ["RealNVP", "NSF-autoregressive", "NormalizingFlow", "VAE-flows", "GAN-interval"])
def test_traces_under_autocast_and_adds_no_operation_without(name):
    model, x, _ = build(name, 0)
    pyro.enable_validation(False)  # it asks for the values of tensors
    casts = torch.ops.aten._to_copy.default

    def function(x):
        return model.score(x) if MODELS[name].density == "implicit" else model().log_prob(x)

    assert all(node.target != casts for node in make_fx(function)(x).graph.nodes)
    with autocast():
        graph = make_fx(function)(x)
        torch.manual_seed(2)
        expected = function(x)
    assert any(node.target == casts for node in graph.graph.nodes)
    torch.manual_seed(2)
    assert torch.equal(graph(x), expected)
