"""Adversarial games in training: players' optimizers, averages and bounds, traces, resumption, Pyro programs."""

import copy
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn
from torch.optim import SGD

from pyro_dgm import fit
from pyro_dgm import objectives as o
from pyro_dgm.models import GAN
from pyro_dgm.nn import MLP, DiffAugment, Packed, spectrally_normalized
from pyro_dgm.training import trace

from .zoo import perturb

quiet = partial(fit, progress=False, seed=0, compile=False)


def spectral_gan(shape=(2,)):
    size = torch.Size(shape).numel()
    critic = nn.Sequential(nn.Flatten(-len(shape)), spectrally_normalized(MLP(size, 1, (5,), activation=nn.LeakyReLU)))
    return GAN(shape, 2, hidden_features=(5,), critic=critic)


GAMES = {
    "relativistic": o.Adversarial(o.Relativistic(average=True), [o.R1(0.1), o.R2(0.1)]),
    "clipped": o.Adversarial(o.Wasserstein(), weight_clip=0.1),
    "DRAGAN-smoothed": o.Adversarial(o.NonSaturating(smoothing=0.1), o.DRAGAN()),
    "one-sided": o.Adversarial(o.Wasserstein(), o.GradientPenalty(one_sided=True)),
    "divergence": o.Adversarial(o.SquaredHellinger(), augment=lambda x: x + torch.randn_like(x)),
    "energy": o.Adversarial(o.EnergyMargin()),
}


@pytest.mark.parametrize("name", GAMES)
def test_traced_equals_eager(name):
    """Spectral normalisation included: its buffers end where they do without a graph."""
    x = torch.randn(6, 2)
    bound = GAMES[name](perturb(spectral_gan()))
    twin = copy.deepcopy(bound)
    results = []
    for loss in (trace(bound, x), twin):
        parameters = [p for p in (bound if loss is not twin else twin).parameters()]
        torch.manual_seed(1)
        value = loss(x)
        results.append([value.detach(), *torch.autograd.grad(value, parameters, allow_unused=True)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    for got, expected in zip(bound.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(got, expected)


def test_augmented_game_is_traced():
    x = torch.rand(6, 3, 4, 4)
    bound = o.Adversarial(augment=DiffAugment(), penalty=o.R1())(perturb(spectral_gan((3, 4, 4))))
    traced = trace(bound, x)
    values = []
    for loss in (bound.eval(), traced):
        torch.manual_seed(1)
        values.append(loss(x).detach())
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.usefixtures("replayed_not_compiled")
def test_game_goes_on_from_a_checkpoint_exactly(tmp_path, compiled):
    objective = o.Adversarial(o.Relativistic(), [o.R1(0.1)], critic_steps=2)
    settings = {"objective": objective, "batch_size": 8, "ema": 0.9, "compile": compiled}
    x = torch.randn(40, 2)
    torch.manual_seed(3)
    model = perturb(spectral_gan())
    models = [copy.deepcopy(model) for _ in range(3)]
    fit(models[0], x, max_epochs=4, seed=0, progress=False, **settings)
    path = tmp_path / "run.ckpt"
    fit(models[1], x, max_epochs=2, seed=0, progress=False, checkpoint=path, **settings)
    fit(models[2], x, max_epochs=4, seed=5, progress=False, checkpoint=path, resume=True, **settings)
    for (name, a), b in zip(models[0].state_dict().items(), models[2].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_weights_are_clipped_after_every_step():
    gan, seen = GAN(2, hidden_features=(8,)), []

    def look(history, model):
        seen.append(max(float(p.detach().abs().max()) for p in model.critic.parameters()))

    before = copy.deepcopy(gan.generator.state_dict())
    objective = o.Adversarial(o.Wasserstein(), critic_steps=2, weight_clip=0.02)
    quiet(gan, torch.randn(32, 2), objective=objective, batch_size=8, max_epochs=2, callbacks=[look])
    assert all(largest == pytest.approx(0.02) for largest in seen)
    assert max(float(p.detach().abs().max()) for p in gan.generator.parameters()) > 0.02
    assert any(not torch.equal(v, before[k]) for k, v in gan.generator.state_dict().items())
    with pytest.raises(ValueError, match="weight_clip: expected a positive bound"):
        o.Adversarial(weight_clip=0.0)


def test_average_is_of_the_generator_alone():
    """Against a run without it: critics are the same, generators not."""
    x, ends = torch.randn(32, 2), []
    torch.manual_seed(0)
    gan = GAN(2, hidden_features=(8,))
    for ema in (None, 0.99):
        model = copy.deepcopy(gan)
        quiet(model, x, objective=o.Adversarial(), batch_size=8, max_epochs=3, ema=ema, optimizer=partial(SGD, lr=0.1))
        ends.append(model.state_dict())
    same = {name: torch.equal(value, ends[1][name]) for name, value in ends[0].items()}
    assert all(same[name] for name in same if name.startswith("critic"))
    assert not any(same[name] for name in same if name.startswith("generator"))


def test_defaults_are_two_time_scales_where_the_paper_has_them():
    players = o.Adversarial(o.Hinge())(GAN(2)).players
    assert [player.adam["lr"] for player in players] == [4e-4, 1e-4]
    players = o.Adversarial(o.Relativistic(o.Wasserstein()))(GAN(2)).players
    assert [player.adam["betas"] for player in players] == [(0.0, 0.9)] * 2


def test_packed_critic_plays():
    gan = GAN(2, hidden_features=(8,), critic=Packed(MLP(4, 1, (8,)), 2))
    objective = o.Adversarial(o.Relativistic(), o.GradientPenalty())
    assert len(quiet(gan, torch.randn(21, 2), objective=objective, batch_size=8, max_epochs=2)) == 2


# --- Pyro programs --------------------------------------------------------------------------------------------------


class Program(PyroModule):
    """x = loc + z."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, c=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return self.loc + z + (0 if c is None else c)


def stored(c=None):
    loc = pyro.param("loc", torch.zeros(2))
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return loc + z


@pytest.mark.parametrize(("kind", "compiled"), [("module", True), ("store", False)])
@pytest.mark.usefixtures("replayed_not_compiled")
def test_a_program_learns_its_parameter_by_a_game(kind, compiled):
    """Data are N((1, -1), I): the mean is found, to 0.3, whose error is 1 / sqrt(512) of data and the game's wobble."""
    torch.manual_seed(0)
    x = torch.randn(512, 2) + torch.tensor([1.0, -1.0])
    program = Program() if kind == "module" else stored
    bound = o.Adversarial(penalty=o.R1(0.5))(program, nn.Linear(2, 1))  # the best critic of two such normals is linear
    optimizer = partial(SGD, lr=0.3)
    history = fit(bound, x, batch_size=64, max_epochs=25, optimizer=optimizer, ema=0.95, compile=compiled, seed=0,
                  progress=False)  # fmt: skip
    assert {"critic", "generator"} <= set(history.columns)
    loc = program.loc if kind == "module" else pyro.param("loc")
    torch.testing.assert_close(loc.detach(), torch.tensor([1.0, -1.0]), rtol=0, atol=0.3)


def test_a_program_reads_a_context():
    bound = o.Adversarial(penalty=o.R1())(Program(), MLP(2, 1, (4,), context=2))
    quiet(bound, torch.randn(16, 2), torch.randn(16, 2), batch_size=8, max_epochs=1)


def test_an_implicit_models_program_is_one():
    gan = GAN(2, hidden_features=(4,))
    bound = o.Adversarial()(gan.model, gan.critic)
    torch.manual_seed(0)
    value = bound(torch.ones(5, 2))
    torch.manual_seed(0)
    torch.testing.assert_close(value, o.Adversarial()(gan)(torch.ones(5, 2)))


def test_unsuitable_programs_are_refused():
    def discrete():
        return pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))

    def shapeless():
        return pyro.sample("z", dist.Normal(0.0, 1.0)).sum()

    critic, x = MLP(2, 1, (4,)), torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"reparametrised draws, got .* at 'z'"):
        o.Adversarial()(discrete, critic)(x)
    with pytest.raises(ValueError, match="a program that returns x, with shape"):
        o.Adversarial()(shapeless, critic)(x)
    with pytest.raises(ValueError, match="expected an ImplicitModel such as GAN, or a Pyro program"):
        _ = o.Adversarial()(stored).players


def test_penalties_stay_in_float32_under_autocast():
    gan = perturb(spectral_gan())
    x = torch.randn(6, 2)
    for penalty in (o.R1(1.0), o.R2(1.0), o.DRAGAN(1.0), o.GradientPenalty(1.0)):
        values = []
        for enabled in (False, True):
            gan.load_state_dict(copy.deepcopy(gan.state_dict()))
            gan.eval()
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                values.append(penalty(gan.score, x, x + 1, 1))
        assert torch.equal(*values)
