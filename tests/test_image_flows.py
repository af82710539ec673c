"""Flows on images and discrete data, against known truths."""

import copy
import math

import pytest
import torch
from pyro import distributions as dist
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_dgm import fit, nn
from pyro_dgm import transforms as t
from pyro_dgm.evaluation import held_out
from pyro_dgm.models import Dequantized, DiagonalNormal, Glow, MultiscaleRealNVP, NormalizingFlow, RealNVP

from .zoo import perturb
from .zoo_transforms import multi_scale


class Uniform(DiagonalNormal):
    """The uniform distribution on the unit cube, in place of a flow."""

    def _distribution(self, context):
        return dist.Uniform(torch.zeros(self.event_shape), 1.0).to_event(len(self.event_shape))


def test_squeeze_puts_every_square_into_four_channels():
    x = torch.arange(32.0).reshape(2, 4, 4)
    y = t.Squeeze()(x)
    for c, i, j in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1)]:
        assert torch.equal(y[4 * c + 2 * i + j], x[c, i::2, j::2])
    with pytest.raises(ValueError, match="even height and width, got 3x4"):
        t.Squeeze()(torch.zeros(1, 3, 4))


@pytest.mark.parametrize("first", [True, False])
def test_checkerboard_keeps_one_colour_and_conditions_on_it_alone(first):
    board = torch.tensor(t.checkerboard(3, 4, first))
    assert board[0, 0] == first and (board[:, 1:] != board[:, :-1]).all() and (board[1:] != board[:-1]).all()
    coupling = perturb(t.ImageCoupling((1, 3, 4), board.tolist(), None, 4))
    x = torch.randn(1, 3, 4)
    y, _ = coupling.forward_and_ladj(x)
    assert torch.equal(y[:, board], x[:, board]) and (y[:, ~board] != x[:, ~board]).all()
    other = torch.where(board, x, torch.randn_like(x))
    theta = [coupling._theta(coupling.parts.split(v.movedim(-3, -1))[0], None) for v in (x, other)]
    assert torch.equal(*theta)


def test_what_one_pixel_says_to_others_is_bounded():
    """However far out it is: a speck on the border is a single large number, and makes no others."""
    torch.manual_seed(0)
    coupling = perturb(t.ImageCoupling((2, 4, 4), t.first_half(2), None, 8))
    x = torch.randn(3, 2, 4, 4)
    near, far = x.clone(), x.clone()
    near[1, 0, 2, 2], far[1, 0, 2, 2] = 1e2, 1e6
    (z, ladj), (z_far, ladj_far) = map(coupling.inverse_and_ladj, (near, far))
    assert (z[1, 1] != coupling.inverse_and_ladj(x)[0][1, 1]).any()
    torch.testing.assert_close((z[:, 1], ladj), (z_far[:, 1], ladj_far))
    torch.testing.assert_close(coupling.forward_and_ladj(z_far)[0], far)


def test_positions_are_an_offset_of_the_first_layer():
    torch.manual_seed(0)
    f = perturb(nn.ConvNet(2, 3, 0, context=5, positions=(4, 6)))
    x, c = torch.randn(7, 2, 4, 6), torch.randn(7, 5)
    offset = (c @ f.context.weight.mT)[..., None, None] + f.positions.permute(2, 0, 1)
    torch.testing.assert_close(f(x, c), F.conv2d(x, f.first.weight, f.first.bias, padding=1) + offset)
    assert f.positions.std() > 0
    with pytest.raises(ValueError, match="expected images of 4x6"):
        f(x[..., :1, :], c)


@pytest.mark.parametrize("make", [Glow, MultiscaleRealNVP])
def test_models_tell_all_of_their_conditioners_where_they_are(make):
    for positions in (False, True):
        flow = make((1, 4, 4), levels=2, transforms=1, hidden_channels=2, positions=positions)
        couplings = [m for m in flow.modules() if isinstance(m, t.ImageCoupling)]
        assert couplings and all((c.conditioner.positions is not None) == positions for c in couplings)


def test_multi_scale_is_its_levels_by_hand():
    flow, z = perturb(multi_scale(0)).double(), torch.randn(5, 16, dtype=torch.float64)
    fine, coarse = flow.levels
    h, ladj = coarse.forward_and_ladj(z[:, :8].reshape(5, 8, 1, 1))
    x, more = fine.forward_and_ladj(torch.cat([h, z[:, 8:].reshape(5, 2, 2, 2)], 1))
    torch.testing.assert_close(flow.forward_and_ladj(z), (x, ladj + more))


def test_convolution_is_a_matrix_whose_determinant_is_known():
    convolution, x = perturb(t.InvertibleConvolution(3)).double(), torch.randn(3, 4, 5, dtype=torch.float64)
    y, ladj = convolution.forward_and_ladj(x)
    permutation, lower, upper = convolution._factors()
    weight = permutation @ (lower + torch.eye(3)) @ upper
    torch.testing.assert_close(y, torch.einsum("kc,chw->khw", weight, x) + convolution.bias[:, None, None])
    torch.testing.assert_close(ladj, 20 * torch.linalg.slogdet(weight)[1])


@pytest.mark.parametrize("at_input", [True, False])
def test_convolution_normalises(at_input):
    x = torch.randn(400, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 3
    convolution = t.InvertibleConvolution(3)
    convolution.initialize(x, at_input=at_input)
    z = (convolution.forward_and_ladj if at_input else convolution.inverse_and_ladj)(x)[0].movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(3), atol=0.1, rtol=0)  # five deviations of a sample covariance


def test_initialisation_standardises_once_and_survives_loading():
    x = 3 * torch.randn(200, 1, 4, 4) + 5
    for make in (MultiscaleRealNVP, Glow):
        flow = make((1, 4, 4), levels=2, hidden_channels=4)
        flow.initialize(x)
        z = flow.encode(x)
        assert z.mean().abs() < 0.1 and (z.std() - 1).abs() < 0.1
        other = make((1, 4, 4), levels=2, hidden_channels=4)
        other.load_state_dict(copy.deepcopy(flow.state_dict()))
        torch.testing.assert_close(other.encode(x), z)
        flags = [b for name, b in other.named_buffers() if name.endswith("initialized")]
        assert flags and all(flags)
        before = copy.deepcopy(other.state_dict())
        fit(other, x, max_epochs=1, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_logit_is_finite_at_its_edges(alpha, dtype):
    y = torch.tensor([0.0, 1e-9, 0.5, 1.0], dtype=dtype, requires_grad=True)
    x, ladj = t.Logit(alpha).inverse_and_ladj(y)
    (gradient,) = torch.autograd.grad(x.sum() + ladj.sum(), y)
    assert all(v.isfinite().all() for v in (x, ladj, gradient))
    torch.testing.assert_close(x[-1], torch.tensor(math.log1p(-alpha) - math.log(alpha), dtype=dtype))
    torch.testing.assert_close(t.Logit(alpha)(x), y, atol=1e-6, rtol=0)
    far = t.Logit(alpha)(torch.tensor([-1e4, 1e4], dtype=dtype))
    assert t.Logit(alpha).codomain.check(far).all()


def test_temperature_is_the_scale_of_the_latent():
    flow = perturb(Glow((1, 4, 4), 2, levels=2, transforms=1, hidden_channels=4)).double()
    c = torch.randn(3, 2, dtype=torch.float64)
    p = flow.tempered(0.5, c)
    x, log_prob = p.rsample_and_log_prob((4,))
    assert x.shape == (4, 3, 1, 4, 4) and p.density == "exact"
    z, ladj = flow.transform.inverse_and_ladj(x, c)
    torch.testing.assert_close(log_prob, dist.Normal(0.0, 0.5).log_prob(z).sum(-1) + ladj)
    torch.testing.assert_close(flow.tempered(1.0, c).log_prob(x), flow(c).log_prob(x))
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        flow.tempered(0.0, c)


def test_levels_that_do_not_fit_are_refused():
    assert len(Glow((1, 28, 28), transforms=1, hidden_channels=2).transform.transforms[0].levels) == 2
    assert len(MultiscaleRealNVP((1, 28, 28), hidden_channels=2).transform.transforms[0].levels) == 3
    with pytest.raises(ValueError, match="28x28 can be halved 2 times, so 2 levels fit, got 3"):
        Glow((1, 28, 28), levels=3)
    with pytest.raises(ValueError, match="so 3 levels fit, got 4"):
        MultiscaleRealNVP((1, 28, 28), levels=4)


# --- discrete data -------------------------------------------------------------------------------------------------


def test_uniform_noise_has_exactly_eight_bits():
    p, x = Dequantized(Uniform((1, 4, 4)), 256), torch.randint(256, (50, 1, 4, 4))
    for particles in (1, 7):
        p.num_particles = particles
        scores = held_out(p, x)
        assert scores.bits_per_dim == pytest.approx(8.0, abs=1e-6) and scores.density == "lower_bound"


def test_noise_stays_in_its_cell():
    for levels in (3, 17, 256):
        x = torch.arange(float(levels)).expand(5000, -1)
        v = Dequantized(Uniform(levels), levels).infer(x).rsample()
        assert torch.equal((levels * v).floor(), x) and (v - x / levels < 1 / levels + 1e-6).all() and (v >= 0).all()


def states(levels):
    return torch.cartesian_prod(torch.arange(levels), torch.arange(levels))


@pytest.mark.parametrize("variational", [False, True])
def test_bound_is_below_the_mass_rises_and_converges(variational):
    """P(x) of a product of squashed normals is known; the bound's mean over 2000 repetitions, deviation below 0.02."""
    torch.manual_seed(0)
    flow = NormalizingFlow(2, [t.ActNorm(2)], support=constraints.unit_interval, standardize=False)
    with torch.no_grad():
        flow.transform.transforms[0].affine.value.copy_(torch.tensor([0.5, -1.0, 0.3, -0.5]))
    q = NormalizingFlow(2, [t.ActNorm(2, 2)], 2, support=constraints.unit_interval, standardize=False)
    with torch.no_grad():  # wide, since the weights of a logit-normal with thin edges have no variance
        q.transform.transforms[0].affine.value[2:] = math.log(1.8)
        q.transform.transforms[0].shift.network.layers[0].weight.copy_(0.1 * torch.randn(4, 2))
    model, x = Dequantized(flow, 3, q if variational else None), states(3)
    b, s = torch.tensor([0.5, -1.0]), torch.tensor([0.3, -0.5]).exp()
    edges = dist.Normal(0.0, 1.0).cdf((torch.logit(torch.arange(4)[:, None] / 3) - b) / s).diff(dim=0)
    exact = edges[x[:, 0], 0].log() + edges[x[:, 1], 1].log()
    with torch.no_grad():
        means = {k: model().with_particles(k).log_prob(x.expand(2000, -1, -1)).mean(0) for k in (1, 5)}
        close = model().with_particles(20_000).log_prob(x)
    assert (means[1] < means[5]).all() and (means[5] < exact + 0.02).all()
    torch.testing.assert_close(close, exact, atol=0.1, rtol=0)
    assert close.exp().sum() == pytest.approx(1.0, abs=0.02)


def test_what_is_no_level_is_refused():
    p = Dequantized(RealNVP(2, support=constraints.unit_interval), 3)()
    for x in ([[0.0, 3.0]], [[-1.0, 0.0]], [[0.5, 1.0]]):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor(x))
    with pytest.raises(ValueError, match="levels: expected at least 2"):
        Dequantized(RealNVP(2), 1)
    with pytest.raises(ValueError, match="unit_interval"):
        Dequantized(RealNVP(2), 3, RealNVP(2, context=2))


def test_a_learned_dequantizer_trains_with_the_flow():
    torch.manual_seed(0)
    x = 2.0 * torch.randint(2, (256, 1)) + torch.zeros(1, 2)  # (0, 0) or (2, 2)
    cube = constraints.unit_interval
    model = Dequantized(RealNVP(2, support=cube), 3, RealNVP(2, context=2, support=cube), num_particles=16)
    before = held_out(model, x).mean
    fit(model, x, max_epochs=60, batch_size=64, progress=False, seed=0, compile=False)
    assert before < -2.0 < -1.6 < held_out(model, x).mean < math.log(0.5) + 0.05
