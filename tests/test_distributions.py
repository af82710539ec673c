"""Densities that integrate to one and agree with samples; bounds against an exact marginal.

Statistical tests are seeded; each would fail by chance with the probability stated beside it were the seed redrawn.
"""

import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import constraints

from pyro_dgm import models as m
from pyro_dgm.distributions import Flow, Marginal, Proposal, Pushforward, UnitNormal, density_of
from pyro_dgm.transforms import Compose, Coupling, LULinear, Spline, Squeeze

from .statistics import chi_squared_p_value, grid_2d
from .zoo import perturb

FLOWS = {
    "NICE": lambda **kw: m.NICE(2, hidden_features=(8,), **kw),
    "RealNVP": lambda **kw: m.RealNVP(2, hidden_features=(8,), **kw),
    "MAF": lambda **kw: m.MAF(2, hidden_features=(8,), **kw),
    "IAF": lambda **kw: m.IAF(2, hidden_features=(8,), **kw),
    "NSF": lambda **kw: m.NSF(2, hidden_features=(8,), **kw),
    "NSF-autoregressive": lambda **kw: m.NSF(2, autoregressive=True, hidden_features=(8,), **kw),
}
every_flow = pytest.mark.parametrize("name", FLOWS)


def flow(name, **settings):
    torch.manual_seed(2)
    return perturb(FLOWS[name](**settings), 0.08).double().requires_grad_(False)()


@every_flow
def test_density_integrates_to_one(name):
    x, area = grid_2d(-12, 12, 600)
    assert (flow(name).log_prob(x).exp().sum() * area).item() == pytest.approx(1, abs=1e-3)


@every_flow
@pytest.mark.parametrize("constraint", [constraints.unit_interval, constraints.interval(-1.0, 3.0)])
def test_density_on_a_box_integrates_to_one(name, constraint):
    x, area = grid_2d(*((0, 1) if constraint is constraints.unit_interval else (-1, 3)), 500)
    p = flow(name, support=constraint)
    assert (p.log_prob(x).exp().sum() * area).item() == pytest.approx(1, abs=2e-3)
    assert constraint.check(p.sample((1000,))).all()


@every_flow
def test_samples_agree_with_density(name):
    """Chi-squared on a grid of 16 x 16 cells, their mass by 30 x 30 points each; fails by chance 1 time in 1000."""
    p = flow(name)
    x, area = grid_2d(-6, 6, 480)
    mass = (p.log_prob(x).exp() * area).reshape(16, 30, 16, 30).sum((1, 3)).flatten()
    cell = ((p.sample((20_000,)) + 6) / 12 * 16).floor().long()
    inside = ((cell >= 0) & (cell < 16)).all(-1)
    counts = torch.bincount(cell[inside, 0] * 16 + cell[inside, 1], minlength=256).double()
    counts, mass = torch.cat([counts, (~inside).sum()[None].double()]), torch.cat([mass, (1 - mass.sum())[None]])
    assert chi_squared_p_value(counts, 20_000 * mass.clamp_min(0)) > 1e-3
    wrong = mass * (1 + 0.15 * (-1.0) ** torch.arange(257))  # the test can fail
    assert chi_squared_p_value(counts, 20_000 * wrong / wrong.sum()) < 1e-3


def test_simplex_flow_lives_on_the_simplex_and_matches_a_known_density():
    """At initialisation: a standard normal through stick breaking, whose density Pyro can compute too."""
    p = m.RealNVP(3, support=constraints.simplex, standardize=False).double()()
    base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
    same = dist.TransformedDistribution(base, [torch.distributions.biject_to(constraints.simplex)])
    x = p.sample((10,))
    assert p.support.check(x).all()
    torch.testing.assert_close(p.log_prob(x), same.log_prob(x))


def test_density_at_the_edge_of_the_support_is_finite_with_finite_gradient():
    model = perturb(m.RealNVP(2, support=constraints.unit_interval))
    x = torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.3, 1.0]])
    log_prob = model().log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_validation_refuses_data_outside_the_support():
    with pytest.raises(ValueError, match="support"):
        m.RealNVP(2, support=constraints.positive)().log_prob(-torch.ones(2))


def test_flow_of_pyro_transforms_and_ours_with_an_elementwise_one():
    base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
    affine = dist.transforms.AffineTransform(torch.tensor([1.0, 2.0]).double(), torch.tensor([2.0, 3.0]).double())
    p = Flow(base, [affine])
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), dist.Normal(affine.loc, affine.scale).to_event(1).log_prob(x))
    y, log_prob = p.rsample_and_log_prob((3,))
    torch.testing.assert_close(p.log_prob(y), log_prob)
    mixed = Flow(base, [affine, perturb(LULinear(2)).double(), perturb(Coupling([True, False])).double()])
    y, log_prob = mixed.rsample_and_log_prob((3,))
    torch.testing.assert_close(mixed.log_prob(y), log_prob)


@pytest.mark.parametrize(
    ("shape", "event_dim", "make"),
    [
        ((), 0, dist.transforms.ExpTransform),
        ((), 0, lambda: dist.transforms.AffineTransform(torch.zeros(3), 1.0)),
        ((2,), 1, dist.transforms.ExpTransform),
        ((2,), 1, lambda: dist.transforms.AffineTransform(torch.zeros(3, 2), 1.0, event_dim=1)),
        ((4, 2), 0, lambda: LULinear(2)),
        ((4, 3, 2), 2, lambda: LULinear(2)),
        ((3,), 1, dist.transforms.StickBreakingTransform),
        ((1, 4, 4), 3, Squeeze),
    ],
)
def test_shapes_of_a_flow_are_those_of_a_transformed_distribution(shape, event_dim, make):
    base = dist.Normal(torch.zeros(shape), torch.ones(shape)).to_event(event_dim)
    p, q = Flow(base, [make()]), dist.TransformedDistribution(base, [make()])
    assert (p.batch_shape, p.event_shape) == (q.batch_shape, q.event_shape)
    assert (p.base_dist.batch_shape, p.base_dist.event_shape) == (q.base_dist.batch_shape, q.base_dist.event_shape)
    assert p.expand((5, *p.batch_shape)).sample((2,)).shape == (2, 5, *p.batch_shape, *p.event_shape)


def test_a_base_of_too_few_dimensions_is_refused():
    with pytest.raises(ValueError, match="base_distribution needs to have shape with size at least 3, but got"):
        Flow(dist.Normal(torch.zeros(4, 4), 1.0).to_event(2), Squeeze())


def test_flow_density_follows_the_parameters():
    model, x = perturb(m.NSF(2)), torch.randn(4, 2)
    p = model()
    before = p.log_prob(x)
    with torch.no_grad():
        p.log_prob(x)
    perturb(model)
    assert not torch.equal(p.log_prob(x), before)


def test_proposal_scores_its_latest_sample_without_inverting():
    calls = []

    class Counting(Coupling):
        def inverse_and_ladj(self, y, context=None):
            calls.append(1)
            return super().inverse_and_ladj(y, context)

    base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    p = Flow(base, perturb(Counting([True, False], Spline(4))))
    q = Proposal(p).expand((7,))
    z = q.rsample()
    log_q = q.log_prob(z)
    assert not calls and q.batch_shape == (7,) and z.shape == (7, 2)
    torch.testing.assert_close(log_q, p.log_prob(z), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.log_prob(z.clone()), log_q, atol=1e-5, rtol=1e-5)
    assert len(calls) == 2


# --- latent variables: a linear-Gaussian model, whose marginal and posterior are known ------------------------------


class LinearNormal(nn.Module):
    """N(W z + b, s^2 I) as a network module of the user's own."""

    def __init__(self, weight, bias, scale):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.scale = nn.Parameter(scale)

    def forward(self, z):
        return dist.Normal(z @ self.weight.T + self.bias, self.scale).to_event(1)


def linear_gaussian(posterior_scale=1.0):
    """Returns a VAE with the exact posterior (its deviation scaled), its exact marginal, and data."""
    torch.manual_seed(5)
    weight, bias = torch.randn(4, 2).double(), torch.randn(4).double()
    s = torch.tensor(0.7).double()
    covariance = weight @ weight.T + s**2 * torch.eye(4).double()
    precision = torch.eye(2).double() + weight.T @ weight / s**2
    gain = torch.linalg.solve(precision, weight.T / s**2)

    class Posterior(nn.Module):
        def forward(self, x):
            scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision)) * posterior_scale
            return dist.MultivariateNormal((x - bias) @ gain.T, scale_tril=scale_tril)

    vae = m.VAE(m.StandardNormal(2).double(), LinearNormal(weight, bias, s), Posterior())
    exact = dist.MultivariateNormal(bias, covariance)
    return vae, exact, exact.sample((200,))


def test_with_the_exact_posterior_every_bound_is_the_exact_marginal():
    vae, exact, x = linear_gaussian()
    for particles in (1, 7):
        bound = vae().with_particles(particles).log_prob(x)
        torch.testing.assert_close(bound, exact.log_prob(x), atol=1e-8, rtol=1e-8)


def test_importance_weighted_bound_rises_to_the_exact_marginal():
    """Means over 200 data; the gaps are tens of standard errors wide, so chance failures are below 1e-6."""
    vae, exact, x = linear_gaussian(posterior_scale=1.6)
    truth = exact.log_prob(x).mean()
    bounds = [vae().with_particles(k).log_prob(x).mean() for k in (1, 10, 100, 10_000)]
    assert bounds[0] < bounds[1] < bounds[2] < truth + 0.01
    # KL of N(0, a^2) from N(0, 1) in two dimensions
    gap = 2 * 0.5 * (1.6**2 - 1 - math.log(1.6**2))
    assert (truth - bounds[0]).item() == pytest.approx(gap, abs=0.2)
    assert bounds[3].item() == pytest.approx(truth.item(), abs=0.01)


def test_the_bound_is_a_bound_with_the_prior_as_proposal():
    vae, exact, x = linear_gaussian()
    p = Marginal(vae.prior(), vae.decode, None, (4,), num_particles=20_000)
    torch.testing.assert_close(p.log_prob(x[:20]).mean(), exact.log_prob(x[:20]).mean(), atol=0.1, rtol=0)


def test_marginal_samples_have_the_exact_moments():
    """Covariance of 50,000 samples; the tolerance is 6 standard errors, chance failure below 1e-7."""
    vae, exact, _ = linear_gaussian()
    x = vae().sample((50_000,))
    torch.testing.assert_close(x.mean(0), exact.mean, atol=6 * 3 / 50_000**0.5, rtol=0)
    scale = exact.covariance_matrix.diagonal().max()
    torch.testing.assert_close(x.T.cov(), exact.covariance_matrix, atol=6 * float(scale) * (2 / 50_000) ** 0.5, rtol=0)


def test_chunks_bound_memory_and_change_nothing_but_noise():
    vae, exact, x = linear_gaussian()
    largest = []

    def likelihood(z):
        largest.append(z.shape[:-1].numel())
        return vae.decode(z)

    p = Marginal(vae.prior(), likelihood, vae.infer, (4,), num_particles=50, chunk_size=1000)
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob(x), exact.log_prob(x), atol=1e-8, rtol=1e-8)
    assert max(largest) <= 1000 and len(largest) == 10


def test_training_reaches_the_exact_marginal():
    """Probabilistic PCA: a VAE with a linear decoder learns the covariance of Gaussian data."""
    from pyro_dgm import fit

    _, exact, _ = linear_gaussian()
    torch.manual_seed(0)
    x = exact.sample((4000,)).float()
    vae = m.VAE(
        m.StandardNormal(2),
        m.DiagonalNormal(4, context=2, hidden_features=(), shared_scale=True),
        m.DiagonalNormal(2, context=4, hidden_features=()),
    )
    fit(vae, x, max_epochs=40, batch_size=100, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, 1e-2))
    with torch.no_grad():
        learned = vae().with_particles(500).log_prob(x[:1000]).mean()
    assert learned.item() == pytest.approx(exact.log_prob(x[:1000].double()).mean().item(), abs=0.1)


@pytest.mark.parametrize("name", ["num_particles", "chunk_size"])
def test_marginal_refuses_nonsense(name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1"):
        Marginal(m.StandardNormal(2)(), lambda z: z, None, (2,), **{name: 0})


# --- implicit --------------------------------------------------------------------------------------------------------


def test_pushforward_samples_and_refuses_densities():
    p = Pushforward(m.StandardNormal(3)(), nn.Linear(3, 2), (2,))
    assert p.rsample((5,)).requires_grad and not p.sample((5,)).requires_grad
    with pytest.raises(NotImplementedError, match="c2st"):
        p.log_prob(torch.zeros(2))


def test_promises():
    normal = dist.Normal(torch.zeros(3), 1.0)
    assert density_of(normal) == density_of(normal.to_event(1).mask(True)) == "exact"
    vae, _, _ = linear_gaussian()
    assert (
        density_of(vae()) == density_of(vae().expand((3,)).to_event(1)) == density_of(vae().mask(True)) == "lower_bound"
    )
    assert density_of(m.GAN(2)().expand((3,)).to_event(1)) == "implicit"
    stack = Compose([LULinear(2)])
    assert density_of(Flow(m.StandardNormal(2)(), stack).mask(True)) == "exact"


def test_unit_normal_is_the_standard_normal():
    p = UnitNormal(torch.zeros(4, 3, dtype=torch.float64))
    q = dist.Normal(p.loc, p.scale)
    x = 5 * torch.randn(7, 1, 3, dtype=torch.float64)
    assert torch.allclose(p.log_prob(x), q.log_prob(x), rtol=1e-12) and p.log_prob(x).shape == (7, 4, 3)
    for n in (0, 1, 2):
        a, b, y = p.to_event(n), q.to_event(n), x.expand(7, 4, 3)
        assert torch.allclose(a.log_prob(y), b.log_prob(y), rtol=1e-12) and a.log_prob(y).shape == (7, 4, 3)[: 3 - n]
        assert isinstance(a, dist.Independent) == (n > 0) and a.event_shape == b.event_shape
        assert torch.equal(torch.distributions.kl_divergence(a, b), torch.zeros(b.batch_shape, dtype=torch.float64))
    torch.manual_seed(0)
    draws = p.sample((5,)), p.rsample((5,)), p.to_event(2).sample((5,))
    torch.manual_seed(0)
    assert all(torch.equal(draw, torch.randn(5, 4, 3, dtype=torch.float64)) for draw in draws)
    wide = p.to_event(1).expand((2, 4))
    assert wide.log_prob(x[:1]).shape == wide.sample().shape[:-1] == (2, 4)
    other = dist.Normal(torch.randn(4, 3, dtype=torch.float64), 0.5)
    for pair, same in (((p, other), (q, other)), ((other, p), (other, q))):
        assert torch.equal(torch.distributions.kl_divergence(*pair), torch.distributions.kl_divergence(*same))
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((4, 3), torch.nan, dtype=torch.float64))
