"""Where implementations of flows are known to fail: one test for each trap that no other file has.

The others: splines and actnorm in ``test_transforms``; images, dequantisation and the logit in ``test_image_flows``;
numerical inverses and bounded images in ``test_monotone``; differential equations in ``test_continuous``.
"""

import math

import pytest
import torch
from torch import nn

from pyro_dgm import transforms as t
from pyro_dgm.datasets.toy import rings
from pyro_dgm.models import MAF, NICE, NSF, Glow, RealNVP
from pyro_dgm.nn import ShiftedReLU
from pyro_dgm.nn.activation import _Floor

from .zoo import MODELS, perturb

DEEP = {
    "RealNVP": lambda: RealNVP(4, transforms=32, hidden_features=(16,)),
    "MAF": lambda: MAF(4, transforms=16, hidden_features=(16,)),
    "NSF": lambda: NSF(4, transforms=32, hidden_features=(16,)),
    "Glow": lambda: Glow((1, 4, 4), levels=2, transforms=4, hidden_channels=8),
}
EXACT = [name for name, row in MODELS.items() if row.density == "exact" and not name.startswith("FFJORD")]


@pytest.mark.parametrize("scale", [0.15, 0.45])
@pytest.mark.parametrize("name", DEEP)
def test_deep_stacks_of_large_weights_do_not_overflow(name, scale):
    """Every feature is scaled sixteen times; weights as they are usually initialised, and three times as large."""
    torch.manual_seed(0)
    model = perturb(DEEP[name](), scale)
    p = model()
    x = torch.randn(8, *p.event_shape)
    with torch.no_grad():
        assert p.log_prob(x).isfinite().all()
        assert p.sample((8,)).isfinite().all()


@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
@pytest.mark.parametrize("outside", [1.5, -1e6])
def test_splines_where_every_input_is_outside(direction, outside):
    spline, theta = t.Spline(8, 1.0), torch.randn(5, 23, requires_grad=True)
    assert theta.shape[-1] == spline.size
    x = torch.full((5,), outside, requires_grad=True)
    y, ladj = getattr(spline, direction)(x, theta)
    assert torch.equal(y, x) and (ladj == 0).all()
    gradients = torch.autograd.grad(y.sum() + ladj.sum(), [x, theta])
    assert torch.equal(gradients[0], torch.ones(5)) and (gradients[1] == 0).all()


@pytest.mark.parametrize("make", [lambda: NSF(4), lambda: NSF(4, autoregressive=True), lambda: RealNVP(4)])
def test_flows_start_near_the_identity(make):
    """However deep: a stack of random splines would not be invertible in float32."""
    torch.manual_seed(0)
    x = torch.randn(100, 4)
    ladj = make().transform.inverse_and_ladj(x)[1]
    assert ladj.abs().max() < 0.5


@pytest.mark.parametrize("make", [lambda: NSF(2), lambda: RealNVP(2), lambda: MAF(2)])
def test_hidden_units_survive_large_first_steps(make):
    """From a last layer of zeros rectifiers die together: with ``nn.ReLU`` 57 to 69 percent of them are left here."""
    torch.manual_seed(0)
    flow, x = make(), rings().sample((256,))
    optimizer, seen = torch.optim.Adam(flow.parameters(), 8e-3), []
    for _ in range(20):
        optimizer.zero_grad()
        (-flow().log_prob(x).mean()).backward()
        optimizer.step()
    networks = [m.conditioner for m in flow.modules() if hasattr(m, "conditioner")]
    for network in networks:
        network.activation.register_forward_pre_hook(lambda sigma, h: seen.append((h[0] > -sigma.floor).any(0)))
    flow().log_prob(x)
    assert len(seen) == 2 * len(networks) and torch.cat(seen).double().mean() > 0.8


@pytest.mark.parametrize("inplace", [False, True])
def test_the_shifted_rectifier_by_definition(inplace):
    """Eager, without gradient, as it is compiled, and batched by ``vmap``; with both derivatives."""
    sigma, h = ShiftedReLU(0.4, inplace), torch.tensor([-2.0, -0.5, -0.3, 1.5], dtype=torch.float64)
    truth, v = torch.tensor([-0.4, -0.4, -0.3, 1.5], dtype=torch.float64), h.clone().requires_grad_()

    def compiled(h):
        return _Floor.apply(h, h.new_tensor(-0.4))

    for f in (sigma, compiled, torch.func.vmap(compiled)):
        assert torch.equal(f(v), truth) and torch.autograd.gradcheck(f, [v]) and torch.autograd.gradgradcheck(f, [v])
    with torch.no_grad():
        y = sigma(h)
    assert torch.equal(y, truth) and torch.equal(h, truth if inplace else v)


def test_an_affine_map_before_a_spline_acts_outside_of_its_interval():
    g, theta = t.Chain([t.Affine(), t.Spline(5, 2.0)]), torch.randn(3, 16, dtype=torch.float64)
    assert g.size == theta.shape[-1]
    x = torch.tensor([-1e3, 500.0, 1e3], dtype=torch.float64)
    for direction in ("forward_and_ladj", "inverse_and_ladj"):
        got, expected = getattr(g, direction)(x, theta), getattr(t.Affine(), direction)(x, theta[:, :2])
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="families: expected at least one"):
        t.Chain([])


@pytest.mark.parametrize("autoregressive", [False, True])
def test_what_lies_outside_of_the_interval_of_splines_is_left_to_affine_maps(autoregressive):
    x = torch.tensor([[50.0, -80.0]])
    for affine, least, greatest in ((False, 0.0, 0.0), (True, 0.1, 1e6)):
        flow = perturb(NSF(2, autoregressive=autoregressive, affine=affine, standardize=False))
        moved = (flow.transform.inverse_and_ladj(x)[0] - x).abs()
        assert least <= moved.min() and moved.max() <= greatest


@pytest.mark.parametrize("autoregressive", [False, True])
def test_gaps_are_deep_since_splines_lead_data_to_the_latent(autoregressive):
    """In the middle of a bin, s its mean slope and 1 those at its ends, a spline's slope is 2 s^2 / (s + 1).

    The inverse of a spline, from the same interval to the same, would have (s + s^2) / 2.
    """
    flow = NSF(2, transforms=1, bins=3, autoregressive=autoregressive, affine=False, standardize=False).double()
    height = torch.tensor([0.495, 0.01, 0.495], dtype=torch.float64).log()
    theta = torch.cat([torch.stack([torch.zeros(3), height], -1).flatten(), torch.zeros(2)])  # bins, slopes at knots
    given = theta / torch.tensor(t.Spline(3).gains)
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if name.endswith(("layers.2.bias", "own.value")):
                p.copy_((theta if "own" in name else given).repeat_interleave(len(p) // len(theta)))
    s = 3 * (1e-3 + (1 - 3e-3) * 0.01)
    log_prob = 2 * (math.log(2 * s**2 / (s + 1)) - math.log(2 * math.pi) / 2)
    assert flow().log_prob(torch.zeros(2).double()).item() == pytest.approx(log_prob, abs=1e-9)


def test_coupling_of_one_feature_says_what_to_use():
    for make in (lambda: RealNVP(1), lambda: NSF(1)):
        with pytest.raises(ValueError, match="features"):
            make()


def test_volume_is_kept_by_all_of_nice_but_its_scale():
    model = perturb(NICE(4, hidden_features=(8,)))
    x = torch.randn(10, 4)
    ladj = model.transform.inverse_and_ladj(x)[1]
    assert ladj.abs().max() > 1e-3
    torch.testing.assert_close(ladj, ladj[:1].expand(10))


@pytest.mark.parametrize("name", EXACT)
def test_density_is_the_same_in_training_and_evaluation(name):
    """No running statistics. (The training of a continuous flow estimates the trace: ``test_continuous``.)"""
    torch.manual_seed(0)
    context = MODELS[name].contexts[0]  # none, where a model can do without
    model = perturb(MODELS[name].make(context))
    x, c = MODELS[name].data(model, 5), torch.randn(5, context) if context else None
    train, evaluation = (model.train(mode)(c).log_prob(x) for mode in (True, False))
    assert torch.equal(train, evaluation)


@pytest.mark.parametrize("features", [2, 3, 5])
@pytest.mark.parametrize("context", [0, 2])
def test_no_hidden_unit_of_a_masked_network_is_idle(features, context):
    """Each reads something, and something reads it; the context reaches every output."""
    torch.manual_seed(0)
    transform = t.MaskedAutoregressive(features, None, None, (features + 3, features + 2), context, nn.Tanh)
    network = perturb(transform.conditioner)
    c = torch.randn(64, context, requires_grad=True) if context else None
    network(torch.randn(64, features), c).square().sum().backward()
    for name, p in network.named_parameters():
        if "bias" in name:
            assert (p.grad != 0).all(), name
