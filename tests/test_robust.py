"""Promises of fit that readers broke, each with the run that shows it mended."""

from functools import partial

import numpy as np
import pyro
import pyro.infer.reparam
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from pyro_dgm.models import VAE, DiagonalNormal, RealNVP, StandardNormal
from pyro_dgm.objectives import ELBO, LinearWarmup
from pyro_dgm.training import NonFiniteError

from .test_faithful import Loss, quiet

pytestmark = pytest.mark.usefixtures("replayed_not_compiled")


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.modes = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5)), []

    def model(self, x):
        self.modes.append(self.net.training)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def test_programs_that_are_methods_go_back_to_training_after_validation():
    program = Program()
    quiet(Trace_ELBO()(program.model, program.guide), torch.randn(8, 1), batch_size=4, max_epochs=3,
          validation=torch.randn(4, 1), compile=False)  # fmt: skip
    assert program.modes == [True] + [True, True, False] * 3 and program.training


def test_modes_of_objectives_are_left_as_they_were():
    vae = VAE(StandardNormal(1), DiagonalNormal(1, 1, (2,)), DiagonalNormal(1, 1, (2,))).eval()
    bound = ELBO(kl_weight=LinearWarmup(3))(vae).eval()
    quiet(bound, torch.randn(8, 1), max_epochs=1, validation=0.5)
    assert not any(part.training for part in bound.modules())


def test_the_average_is_finite_where_the_weights_are():
    model, sgd = DiagonalNormal(2), partial(torch.optim.SGD, lr=1e38)
    with pytest.raises(NonFiniteError):
        quiet(model, torch.randn(64, 2), batch_size=8, optimizer=sgd, gradient_clip=None, ema=0.9)
    assert all(p.isfinite().all() for p in model.parameters())


def test_frozen_leaves_of_the_store_stay_frozen():
    pyro.param("frozen", torch.tensor(3.0))
    pyro.get_param_store().get_state()["params"]["frozen"].requires_grad_(False)

    def model(x):
        z = pyro.sample("z", dist.Normal(pyro.param("frozen"), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("items", torch.tensor(0.0)), 1.0))

    quiet(Trace_ELBO()(model, guide), torch.randn(8), max_epochs=2)
    frozen, learned = (float(pyro.param(name).detach()) for name in ("frozen", "items"))
    assert frozen == 3.0 and learned != 0.0


NAMES = ["items", "values", "training", "forward", "a.b", "a_dot_b", "a__b", "half"]


def test_parameters_may_have_any_name():
    def guide(x):
        z = sum(pyro.param(name, torch.tensor(0.0)) for name in NAMES)
        pyro.sample("z", dist.Normal(z, 1.0))

    def model(x):
        pyro.sample("z", dist.Normal(3.0, 1.0))

    quiet(Trace_ELBO()(model, guide), torch.randn(8), max_epochs=2, validation=0.5)
    assert all(float(pyro.param(name).detach()) > 0 for name in NAMES)


@pytest.mark.parametrize("compile", [False, True])
def test_a_weight_frozen_by_a_callback_moves_no_more(compile):
    model, seen = Loss(lambda m, x: (m.w - 5).square().sum() + (m.v - 5).square().sum() + 0 * x.sum()), []
    model.v = nn.Parameter(torch.zeros(1))

    def freeze(history, m):
        m.v.requires_grad_(len(history) >= 3)
        seen.append(float(m.v.detach()))

    quiet(model, torch.ones(8, 1), batch_size=4, max_epochs=4, compile=compile, callbacks=[freeze])
    assert seen[0] == seen[1] == seen[2] < seen[3]


def mixture(x):
    weights = pyro.param("weights", torch.ones(2) / 2, constraint=dist.constraints.simplex)
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


@pytest.mark.parametrize("compile", [False, True])
def test_enumeration_and_gradients_within_a_loss_are_fitted_and_validated(compile):
    pyro.clear_param_store()
    x = torch.cat([torch.randn(30) - 3, torch.randn(30) + 3])
    adam = partial(torch.optim.Adam, lr=0.1)
    quiet(TraceEnum_ELBO(max_plate_nesting=1)(mixture, lambda x: None), x, max_epochs=40, validation=0.2,
          compile=compile, optimizer=adam)  # fmt: skip
    assert pyro.param("locs").detach().abs().sub(3).abs().max() < 0.7

    def score(m, x):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((-0.5 * m.w[0] * x.square()).sum(), x, create_graph=True)
        return (0.5 * gradient.square() - m.w[0]).mean()

    model = Loss(score)
    quiet(model, 2 * torch.randn(512, 1), max_epochs=150, validation=0.5, compile=compile, optimizer=adam)
    assert float(model.w[0].detach()) == pytest.approx(0.25, abs=0.08)


def test_renyi_bounds_are_fitted_with_the_gradient_of_pyro():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.3)), pyro.param("scale", torch.tensor(0.7))))

    x = torch.randn(5) + 1
    for settings in ({"num_particles": 4}, {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}):
        estimator = RenyiELBO(alpha=0.5, **settings)
        torch.manual_seed(3)
        value = estimator.loss_and_grads(model, guide, x)
        leaves = dict(pyro.get_param_store().named_parameters())
        expected = {name: leaf.grad.clone() for name, leaf in leaves.items()}
        from pyro_dgm.objectives import differentiable_loss

        torch.manual_seed(3)
        loss = differentiable_loss(estimator, model, guide, x)
        assert float(loss.detach()) == pytest.approx(value, rel=1e-5)
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            torch.testing.assert_close(g, expected[name])
        for leaf in leaves.values():
            leaf.grad = None
    quiet(RenyiELBO(num_particles=2)(model, guide), x, max_epochs=3, compile=True)
    assert float(pyro.param("loc").detach()) != pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"TraceGraph_ELBO; Trace_ELBO"):
        quiet(TraceGraph_ELBO()(model, guide), x)


def test_the_loss_of_an_epoch_is_the_mean_over_its_data():
    x = torch.cat([torch.zeros(32), torch.full((1,), 99.0)])[:, None]
    model = Loss(lambda m, x: x.mean() + 0 * m.w.sum())
    assert quiet(model, x, batch_size=32, max_epochs=1)["loss"][0] == pytest.approx(3.0)


class Hidden(Loss):
    """A running mean that no state_dict holds."""

    def __init__(self):
        super().__init__(lambda m, x: (m.w - m.mean).square().mean())
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x):
        with torch.no_grad():
            self.mean.lerp_(x.mean(), 0.1)
        return super().forward(x)


def loaders(x, g, h):
    other = RandomSampler(x, generator=h)
    return [
        DataLoader(x, batch_sampler=BatchSampler(RandomSampler(x, generator=g), 4, False)),
        DataLoader(x, batch_size=4, sampler=other, generator=g),
    ]


@pytest.mark.parametrize("kind", [0, 1])
def test_resumed_runs_know_hidden_buffers_and_every_generator(kind, tmp_path):
    def run(epochs, path=None):
        x, (g, h) = torch.arange(16.0)[:, None], (torch.Generator().manual_seed(s) for s in (1, 2))
        model = Hidden()
        quiet(model, loaders(x, g, h)[kind], max_epochs=epochs, checkpoint=path, resume=path is not None, compile=False)
        return model

    alone = run(6)
    run(3, tmp_path / "run.ckpt")
    resumed = run(6, tmp_path / "run.ckpt")
    assert torch.equal(alone.w, resumed.w) and torch.equal(alone.mean, resumed.mean)


def test_a_refused_run_leaves_the_model_as_it_was(tmp_path):
    x = 5 + torch.randn(32, 2)
    for settings, reason in [
        ({"optimizer": partial(torch.optim.Adam, lr=-1.0)}, "Invalid learning rate"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"optimizer": torch.optim.Adam([torch.ones(1)])}, "function from parameters"),
        ({"optimizer": lambda ps: torch.optim.Adam([nn.Parameter(torch.ones(1))])}, "1 others"),
        ({"schedule": lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o)}, "without a metric"),
        ({"precision": "64-true"}, "precision"),
        ({"batch_size": 16.0}, "batch_size"),
        ({"gradient_clip": float("nan")}, "gradient_clip"),
        ({"callbacks": print}, "callbacks"),
        ({"checkpoint": tmp_path, "resume": True}, "folder"),
    ]:
        model = RealNVP(2, hidden_features=(4,))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match=reason):
            quiet(model, x, **settings)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), reason
    for function in (lambda m, x: m.w.sum(0, keepdim=True), lambda m, x: 1.0, lambda m, x: x.sum()):
        with pytest.raises(ValueError, match=r"model: expected a loss"):
            quiet(Loss(function), x)


def test_another_optimizer_does_not_go_on_from_a_checkpoint(tmp_path):
    x, path = torch.randn(32, 2), tmp_path / "run.ckpt"
    quiet(RealNVP(2, hidden_features=(4,)), x, max_epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match=r"optimizers was \['Adam'\], is \['SGD'\]"):
        quiet(RealNVP(2, hidden_features=(4,)), x, max_epochs=2, checkpoint=path, resume=True,
              optimizer=partial(torch.optim.SGD, lr=0.1))  # fmt: skip


def test_a_run_stopped_by_patience_goes_on_with_more_of_it(tmp_path):
    path, x = tmp_path / "run.ckpt", torch.randn(64, 2)

    def run(patience):
        settings = {"validation": 0.5, "max_epochs": 60, "checkpoint": path, "resume": True, "patience": patience}
        return quiet(RealNVP(2), x, optimizer=partial(torch.optim.Adam, lr=0.05), compile=False, **settings)

    first = run(2)
    assert first.stopped == "patience"
    assert len(run(6)) > len(first)


def test_integers_of_numpy_reach_a_module_as_integers():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 1)

        def forward(self, x):
            return self.table(x).square().mean()

    quiet(Embedded(), np.arange(4), max_epochs=1)
    with pytest.raises(ValueError, match="sparse"):
        model = Embedded()
        model.table = nn.Embedding(4, 1, sparse=True)
        quiet(model, np.arange(4), max_epochs=1)


class FirstForward(Loss):
    """Initialised at its first call, and remembers that in Python."""

    def __init__(self):
        super().__init__(lambda m, x: (m.w * (x - m.loc)).square().mean())
        self.register_buffer("loc", torch.zeros(()))
        self.known = False

    def forward(self, x):
        if not self.known:
            self.loc.copy_(x.mean())
            self.known = True
        return super().forward(x)


def test_a_module_that_initialises_itself_once_stays_initialised():
    model = FirstForward()
    quiet(model, torch.full((8, 1), 5.0), max_epochs=1)
    assert float(model.loc) == 5.0


def test_a_step_that_the_user_has_bound_anew_is_called():
    calls = []

    def make(parameters):
        optimizer = torch.optim.Adam(parameters, fused=True)
        own = optimizer.step
        optimizer.step = lambda *args: calls.append(1) or own(*args)
        return optimizer

    quiet(Loss(lambda m, x: m.w.square().mean() + 0 * x.sum()), torch.ones(8, 1), batch_size=2, max_epochs=2,
          optimizer=make)  # fmt: skip
    assert len(calls) == 8


def test_reparameterised_priors_are_ordinary_normals():
    vae = VAE(StandardNormal(2), DiagonalNormal(3, 2, (4,)), DiagonalNormal(2, 3, (4,)))
    program = pyro.poutine.reparam(vae.model, {"z": pyro.infer.reparam.LocScaleReparam(0.0)})
    trace = pyro.poutine.trace(program).get_trace(torch.randn(5, 3))
    assert trace.nodes["z_decentered"]["value"].shape == (5, 2) and trace.log_prob_sum().isfinite()
