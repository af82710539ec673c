"""Defects found by trying to break the library, one test each, so that they stay mended."""

import numpy as np
import pyro.distributions.transforms as T
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

import pyro_dgm
from pyro_dgm import fit
from pyro_dgm.distributions import Flow
from pyro_dgm.models import (
    GAN,
    MAF,
    VAE,
    DiagonalNormal,
    IndependentBernoulli,
    NormalizingFlow,
    RealNVP,
    StandardNormal,
)
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood
from pyro_dgm.transforms import ActNorm, Compose, Coupling, LULinear, Permutation, Shift, Standardize, Support

from .test_faithful import Loss
from .zoo import perturb

SMALL = {"transforms": 2, "hidden_features": (8,)}


def vae():
    return VAE(StandardNormal(2), DiagonalNormal(3, 2, (8,)), DiagonalNormal(2, 3, (8,)))


def test_mixed_precision_does_not_round_the_data():
    seen = []

    def loss(module, x):
        seen.append(x)
        return (module.w * x).mean()

    x = 2013.7 + torch.randn(64, 1)
    fit(Loss(loss), x, max_epochs=1, precision="bf16-mixed", progress=False, batch_size=64)
    assert set(seen[-1].flatten().tolist()) == set(x.flatten().tolist())


def test_contextual_lu_under_autocast():
    model = perturb(NormalizingFlow(3, [LULinear(3, 2)], context=2))
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    expected = model(c).log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(c).log_prob(x), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("make", [ActNorm, LULinear, lambda d: Compose([Standardize(d), ActNorm(d)])])
def test_constant_log_determinants_count_once_per_row_of_an_event(make):
    transform = perturb(make(2)).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    wide = Flow(dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(2), transform)
    narrow = Flow(dist.Normal(torch.zeros(2).double(), 1.0).to_event(1), transform)
    torch.testing.assert_close(wide.log_prob(x), narrow.log_prob(x).sum())
    y, log_prob = wide.rsample_and_log_prob()
    torch.testing.assert_close(log_prob, wide.log_prob(y))


def test_flow_gathers_the_event_of_its_base():
    p = Flow(dist.Normal(torch.zeros(2), torch.ones(2)), [perturb(LULinear(2))])
    assert p.event_shape == (2,) and p.log_prob(torch.zeros(5, 2)).shape == (5,)


def test_likelihood_of_a_program_with_latents_is_refused_and_of_a_vae_is_its_bound():
    def program(x):
        loc = pyro_dgm.models.base.pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro_dgm.models.base.pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"without latent sites, got \['loc'\]"):
        NegativeLogLikelihood()(program)(torch.zeros(3))
    model, x = vae(), torch.randn(2000, 3)
    svi = SVI(model.model, model.guide, Adam({}), NegativeLogLikelihood())
    assert svi.evaluate_loss(x) == pytest.approx(ELBO()(model)(x).item(), abs=0.2)


def test_discrete_posterior_is_trained_by_elbo_only():
    model = VAE(IndependentBernoulli(3), DiagonalNormal(2, 3, (8,)), IndependentBernoulli(3, 2, (8,)))
    x = torch.randn(5, 2)
    with pytest.raises(NotImplementedError, match="without reparameterisation"):
        NegativeLogLikelihood()(model)(x)
    with torch.no_grad():
        assert model().log_prob(x).shape == (5,)
    ELBO()(model)(x).backward()


def test_random_permutations_and_constants_of_pyro_are_saved():
    def make():
        layers = [T.affine_coupling(6), T.permute(6), T.AffineTransform(torch.randn(6), torch.ones(6))]
        return NormalizingFlow(6, layers)

    model, other = make(), make()
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(model().log_prob(x), other().log_prob(x))
    model.double()().log_prob(x.double())


@pytest.mark.parametrize("make", [
    lambda: T.ComposeTransform([T.affine_coupling(3), T.permute(3)]),
    lambda: T.iterated(2, T.affine_autoregressive, 3),
    lambda: T.iterated(2, T.affine_autoregressive, 3).inv,
])  # fmt: skip
def test_composed_transforms_of_pyro_show_their_parameters(make):
    model = perturb(NormalizingFlow(3, [make()]))
    assert list(model.parameters())
    x = torch.randn(4, 3)
    model().log_prob(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(model.decode(model.encode(x)), x, atol=1e-4, rtol=1e-4)


def test_simplex_edges_and_many_dimensions():
    model = RealNVP(4, support=constraints.simplex, **SMALL)
    x = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert model().log_prob(x).isfinite().all()
    wide = Support(constraints.simplex)(torch.randn(200, 1000))
    assert constraints.simplex.check(wide).all()


def test_supports_wrapped_or_unknown():
    y = Support(constraints.independent(constraints.positive, 1))(torch.full((1, 2), -1e4))
    assert (y > 0).all()
    with pytest.raises(ValueError, match=r"constraints\.cat"):
        Support(constraints.stack([constraints.positive, constraints.real], -1))
    with pytest.raises(ValueError, match="unconstrained features"):
        RealNVP(4).with_support(constraints.simplex)


def test_damaged_files_are_noticed(tmp_path):
    pyro_dgm.save(RealNVP(3, **SMALL), tmp_path / "a.pt")
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    rng = np.random.RandomState(0)
    before = pyro_dgm.load(tmp_path / "a.pt").state_dict()
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[rng.randint(len(whole))] ^= 1 << rng.randint(8)
        (tmp_path / "b.pt").write_bytes(flipped)
        try:
            after = pyro_dgm.load(tmp_path / "b.pt").state_dict()
        except ValueError:
            continue
        assert all(torch.equal(v, after[k]) for k, v in before.items())  # the flip hit padding
    # the bit that marks an entry as a folder, which torch would not read: its tensor would be left uninitialised
    place = whole.index(b"archive/data/1", whole.index(b"PK\x01\x02"))
    whole[place - 46 + 38] ^= 0x10
    (tmp_path / "b.pt").write_bytes(whole)
    with pytest.raises(ValueError, match="attributes of archive/data/1"):
        pyro_dgm.load(tmp_path / "b.pt")


@pytest.mark.parametrize("model", ["[" * 100_000, '{"class": "GenerativeModel", "arguments": {"event_shape": 2}}'])
def test_strange_descriptions_are_clear_errors(tmp_path, model):
    torch.save({"format": "pyro_dgm.model.v1", "version": "0", "model": model, "state": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not suit this version"):
        pyro_dgm.load(tmp_path / "a.pt")
    torch.save({"format": "pyro_dgm.model.v1"}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"written by pyro_dgm\.save"):
        pyro_dgm.load(tmp_path / "a.pt")


def test_save_keeps_what_was_changed_or_says_so(tmp_path):
    model = vae()
    model.num_particles = 7
    pyro_dgm.save(model, tmp_path / "a.pt")
    assert pyro_dgm.load(tmp_path / "a.pt").num_particles == 7
    model.prior = RealNVP(2, **SMALL)
    with pytest.raises(ValueError, match="changed after construction"):
        pyro_dgm.save(model, tmp_path / "a.pt")
    layer = Coupling([True, False], Shift(), (8,))
    pyro_dgm.save(NormalizingFlow(2, [layer, Permutation(np.array([1, 0]))]), tmp_path / "a.pt")
    pyro_dgm.save(RealNVP(np.int64(3), **SMALL), tmp_path / "a.pt")
    shared = NormalizingFlow(2, [layer, layer])
    pyro_dgm.save(shared, tmp_path / "a.pt")  # a part with two places comes back as one part
    loaded, x = pyro_dgm.load(tmp_path / "a.pt"), torch.randn(5, 2)
    assert len(list(loaded.parameters())) == len(list(shared.parameters()))
    assert torch.equal(loaded().log_prob(x), shared().log_prob(x))
    tied = NormalizingFlow(2, [Coupling([True, False], Shift(), (8,)) for _ in range(2)])
    first, second = (m for m in tied.modules() if isinstance(m, Coupling))
    next(m for m in second.modules() if isinstance(m, nn.Linear)).weight = next(first.parameters())
    with pytest.raises(ValueError, match="shared between parts"):
        pyro_dgm.save(tied, tmp_path / "a.pt")
    with pytest.raises(OSError):
        pyro_dgm.save(RealNVP(2), tmp_path)
    assert not list(tmp_path.parent.glob("*.tmp"))


def test_gan_on_the_simplex():
    x = GAN(3, support=constraints.simplex)().sample((5,))
    assert constraints.simplex.check(x).all()


X = torch.randn(20, 2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fit(RealNVP(2, 3), X, torch.zeros(20, 3).long()), "context: expected dtype torch.float32"),
        (lambda: fit(RealNVP(2), TensorDataset(X, X, X)), "expected a TensorDataset of x or"),
        (lambda: fit(RealNVP(2, 2), TensorDataset(X, X), X), "expected a TensorDataset of x or"),
        (lambda: fit(RealNVP(2), DataLoader(TensorDataset(X), batch_size=64, drop_last=True)), "at least one batch"),
        (lambda: RealNVP(2, masks=[]), "masks: expected at least one"),
        (lambda: Coupling([True, False])(torch.zeros(5, 3)), "expected vectors of 2 features"),
        (lambda: Permutation([1, 0])(torch.zeros(5, 3)), "expected vectors of 2 features"),
        (lambda: GAN(()), "event_shape: expected at least one dimension"),
        (lambda: VAE(StandardNormal(2), Bare(), DiagonalNormal(2, 3)), "lack .to_event"),
    ],
)
def test_clear_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()


class Bare(nn.Module):
    def forward(self, z):
        return dist.Normal(z @ torch.ones(2, 3), 1.0)


def test_transforms_without_an_inverse_say_so():
    model = NormalizingFlow(2, [T.planar(2)], invertible=False)
    assert model().sample((3,)).shape == (3, 2)
    with pytest.raises(NotImplementedError, match="Planar has no inverse"):
        model().log_prob(torch.zeros(2))


def test_scalar_events():
    for make in (DiagonalNormal, IndependentBernoulli):
        p = make((), 3)(torch.randn(4, 3))
        assert p.batch_shape == (4,) and p.event_shape == () and p.log_prob(torch.ones(4)).shape == (4,)


def test_tests_of_samples_refuse_what_is_not_finite():
    from pyro_dgm.evaluation import c2st, mmd_test

    x = X.index_fill(0, torch.tensor([3]), torch.nan)
    for test in (mmd_test, c2st):
        with pytest.raises(ValueError, match="y: expected finite samples, got NaN or infinity in 1 of 20"):
            test(X, x)


def test_one_cycle_leaves_the_momentum_alone():
    for make in (lambda p: torch.optim.Adam(p, betas=(0.5, 0.9)), torch.optim.Adagrad):
        optimizer = make([nn.Parameter(torch.ones(1))])
        before = {k: v for k, v in optimizer.param_groups[0].items() if k in ("betas", "momentum")}
        schedule = pyro_dgm.training.one_cycle(optimizer, 4)
        optimizer.step()
        schedule.step()
        assert {k: optimizer.param_groups[0][k] for k in before} == before


@pytest.mark.parametrize("constraint", [constraints.positive, constraints.unit_interval])
def test_densities_with_a_support_are_drawn(constraint):
    model = RealNVP(2, support=constraint, **SMALL)
    x = model().sample((50,))
    assert pyro_dgm.plots.density_2d(model().log_prob, x).axes
    line = pyro_dgm.plots.density_1d(MAF(1, support=constraint)().log_prob, x[:, 0]).axes[0].get_lines()
    assert line


def test_a_flow_as_likelihood_is_standardised():
    model = VAE(StandardNormal(2), RealNVP(3, 2, **SMALL), DiagonalNormal(2, 3, (8,)))
    x = 100 * torch.randn(400, 3) + 1000
    fit(model, x, max_epochs=1, progress=False)
    torch.testing.assert_close(model.likelihood.transform.transforms[-1].mean, x.mean(0))


def test_layers_that_constrain_are_refused():
    with pytest.raises(ValueError, match="say support="):
        NormalizingFlow(2, [LULinear(2), T.ExpTransform()])


def test_masks_of_any_kind():
    masks = torch.tensor([[True, False, True], [False, True, False]])
    for given in (masks, masks.numpy(), masks.tolist()):
        assert RealNVP(3, masks=given, **SMALL)().log_prob(torch.zeros(3)).shape == ()


def test_encode_checks_the_context():
    with pytest.raises(ValueError, match="context: RealNVP was built with context=3, got None"):
        RealNVP(2, 3).encode(X)


@pytest.mark.parametrize(
    ("validation", "match"),
    [
        (X, "validation's context: the model was built with context=3, got none"),
        ((X, torch.zeros(20, 1)), r"validation's context: expected shape \(20, 3\)"),
        ((X, torch.zeros(10, 3)), "validation's context: expected 20 rows"),
        ((X, X, X), "validation: expected x, "),
        (1, "validation: expected a fraction"),
    ],
)
def test_validation_errors_name_the_validation_data(validation, match):
    with pytest.raises(ValueError, match=match):
        fit(RealNVP(2, 3), X, torch.zeros(20, 3), validation=validation, progress=False)
