"""Training: it learns, stops, restores, reproduces, refuses, and explains what went wrong."""

import copy
from functools import partial

import pyro
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_dgm import fit
from pyro_dgm.models import (
    GAN,
    NSF,
    RNADE,
    VAE,
    DiagonalNormal,
    NormalizingFlow,
    RealNVP,
    StandardNormal,
)
from pyro_dgm.models.base import GenerativeModel
from pyro_dgm.objectives import Adversarial, GradientPenalty, LeastSquares, NegativeLogLikelihood
from pyro_dgm.training import one_cycle
from pyro_dgm.training.assembly import initialize
from pyro_dgm.training.moves import Game
from pyro_dgm.transforms import ActNorm

from .zoo import MODELS

quiet = partial(fit, progress=False, seed=0)
X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def small(**settings):
    return RealNVP(2, transforms=2, hidden_features=(8,), **settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_learns_a_known_density():
    """A standardised flow on Gaussian data reaches minus the entropy, within 6 standard errors (4,000 data)."""
    truth = dist.MultivariateNormal(torch.tensor([10.0, -5.0]), torch.tensor([[4.0, 1.5], [1.5, 1.0]]))
    x = truth.sample((4000,))
    model = small()
    history = quiet(model, x, max_epochs=15)
    assert -history["loss"][-1] == pytest.approx(truth.log_prob(x).mean().item(), abs=0.05)
    assert history["loss"][-1] < history["loss"][0] - 0.1


@pytest.mark.parametrize("kind", ["tensor", "numpy", "float64 numpy", "TensorDataset", "Dataset", "DataLoader", "list"])
@pytest.mark.parametrize("context", [0, 3])
def test_takes_data_of_every_kind(kind, context):
    x, c = torch.randn(40, 2), torch.randn(40, context) if context else None
    tensors = (x,) if c is None else (x, c)

    class Pairs(Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return x[i] if c is None else (x[i], c[i])

    given = {
        "tensor": tensors,
        "numpy": tuple(t.numpy() for t in tensors),
        "float64 numpy": tuple(t.double().numpy() for t in tensors),
        "list": tuple(t.tolist() for t in tensors),
        "TensorDataset": (TensorDataset(*tensors),),
        "Dataset": (Pairs(),),
        "DataLoader": (DataLoader(Pairs(), batch_size=16, shuffle=True),),
    }[kind]
    model = small(context=context)
    before = weights(model)
    history = quiet(model, *given, max_epochs=2, batch_size=16, validation=tensors if context else x)
    assert history.columns == ["epoch", "step", "seconds", "loss", "validation"]
    assert history["step"] == [3, 6]
    assert not torch.equal(weights(model), before)


def test_same_seed_same_weights_and_the_global_state_is_untouched():
    x = torch.randn(100, 2)
    model = small()
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    quiet(model, x, max_epochs=3, validation=0.2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(5)
    quiet(twin, x, max_epochs=3, validation=0.2)
    assert torch.equal(weights(model), weights(twin))
    fit(other, x, max_epochs=3, validation=0.2, progress=False, seed=1)
    assert not torch.equal(weights(model), weights(other))


def test_early_stopping_restores_the_best_weights():
    x, held = torch.randn(60, 2), torch.randn(60, 2)
    model = NSF(2, hidden_features=(64,))
    seen = []

    def remember(history, trained):
        seen.append(copy.deepcopy(trained.state_dict()))

    optimizer = partial(torch.optim.Adam, lr=0.02)
    history = quiet(model, x, validation=held, max_epochs=200, patience=5, optimizer=optimizer, callbacks=[remember])
    assert history.stopped == "patience" and len(history) == history.best_epoch + 5 < 200
    best = seen[history.best_epoch - 1]
    assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items())
    assert history["validation"][history.best_epoch - 1] == min(history["validation"])
    with torch.no_grad():
        assert -model().log_prob(held).mean().item() == pytest.approx(min(history["validation"]), rel=1e-4)


def test_callbacks_stop_and_loggers_hear(tmp_path):
    rows = []
    history = quiet(small(), torch.randn(40, 2), callbacks=[lambda h, m: len(h) == 3], logger=rows.append)
    assert history.stopped == "callback" and [row["epoch"] for row in rows] == [1, 2, 3]
    from lightning_fabric.loggers import CSVLogger

    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    quiet(small(), torch.randn(40, 2), max_epochs=2, logger=logger)
    assert any("loss" in f.read_text() for f in tmp_path.rglob("metrics.csv"))


def test_schedule_and_clipping():
    model, x = small(), 100 * torch.randn(64, 2)
    rates = []

    def schedule(optimizer, steps):
        rates.append((optimizer, steps))
        return one_cycle(optimizer, steps)

    quiet(model, x, max_epochs=3, batch_size=32, schedule=schedule)
    optimizer, steps = rates[0]
    assert steps == 6 and optimizer.param_groups[0]["lr"] < 1e-4
    for clip in (1e-3, None):
        model = small(standardize=False)
        before = weights(model)
        quiet(model, x, max_epochs=1, gradient_clip=clip, optimizer=partial(torch.optim.SGD, lr=1.0), batch_size=64)
        moved = (weights(model) - before).norm()
        assert moved <= 1.001e-3 if clip else moved > 1e-2


def test_initialisation_happens_once_before_training():
    model = NormalizingFlow(2, [ActNorm(2)])
    x = 5 + 3 * torch.randn(100, 2)
    quiet(model, x, max_epochs=1)
    standardize = model.transform.transforms[-1]
    torch.testing.assert_close(standardize.mean, x.mean(0))
    mean = standardize.mean.clone()
    quiet(model, x + 100, max_epochs=1, gradient_clip=0.1)
    assert torch.equal(standardize.mean, mean)


def test_what_depends_on_data_is_fitted_once():
    """Before training, and by no later run: what it fits has a flag, and parts that a model leaves alone no say."""
    for name, row in MODELS.items():
        context = row.contexts[0]
        model, direct = row.build(context), row.build(context)
        if type(model).initialize is GenerativeModel.initialize:
            continue
        batch = (row.data(model), torch.randn(6, context)) if context else (row.data(model),)
        begin = copy.deepcopy(model.state_dict())
        direct.initialize(*batch)
        initialize(model, batch)
        assert differ(model, begin) or not differ(direct, begin), name
        begin = copy.deepcopy(model.state_dict())
        initialize(model, (row.data(model), *batch[1:]))
        assert not differ(model, begin), name


def differ(model, state):
    return any(not torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_units_of_a_head_are_those_of_the_data():
    model = RNADE(2, hidden_features=8)
    quiet(model, 100 + 5 * X, max_epochs=1)
    torch.testing.assert_close(model.head.loc, 100 + 5 * X.mean(0))


def test_plain_svi_reaches_what_fit_reaches():
    """The same flow by pyro.infer.SVI and by fit, 300 full-batch steps of Adam each, to 0.02 nats."""
    x = torch.randn(500, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.4]]) + 0.3 * torch.randn(500, 1).abs()
    model = small()
    twin = copy.deepcopy(model)
    quiet(model, x, max_epochs=300, batch_size=500, gradient_clip=None, optimizer=partial(torch.optim.Adam, lr=1e-3))
    twin.initialize(x)
    svi = SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    for _ in range(300):
        svi.step(x)
    with torch.no_grad():
        by_fit, by_svi = (-m().log_prob(x).mean().item() for m in (model, twin))
    assert by_svi == pytest.approx(by_fit, abs=0.02) and by_fit < -NormalizingFlow(2, [])().log_prob(x).mean()


def test_gan_with_networks_of_the_users_own():
    generator = nn.Sequential(nn.Linear(4, 8 * 2 * 2), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 1, 4, 2, 1))
    critic = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(), nn.Flatten(), nn.Linear(16, 1))
    gan = GAN((1, 4, 4), 4, generator=generator, critic=critic)
    history = quiet(gan, torch.randn(64, 1, 4, 4), max_epochs=2, objective=Adversarial(penalty=GradientPenalty(1.0)))
    assert gan().sample((3,)).shape == (3, 1, 4, 4) and len(history) == 2


def test_gan_learns_location_and_keeps_its_players_apart():
    """The generator finds the data's mean and deviation; a chance failure would need a diverging game."""
    x = 3 + 0.5 * torch.randn(2000, 1)
    gan = GAN(1, 2, hidden_features=(16,))
    optimizer = partial(torch.optim.Adam, lr=3e-3, betas=(0.5, 0.9))
    optimizers = {"critic": optimizer, "generator": optimizer}
    history = quiet(gan, x, objective=Adversarial(LeastSquares()), optimizer=optimizers, max_epochs=40)
    assert history.losses == ["critic", "generator"]
    draws = gan().sample((1000,))
    assert draws.mean().item() == pytest.approx(3, abs=0.3) and draws.std().item() == pytest.approx(0.5, abs=0.25)
    assert all(p.requires_grad for p in gan.parameters())


def test_vae_learns_two_clusters():
    x = torch.cat([torch.randn(300, 2) * 0.2 - 2, torch.randn(300, 2) * 0.2 + 2])
    vae = VAE(StandardNormal(1), DiagonalNormal(2, 1, (32,)), DiagonalNormal(1, 2, (32,)))
    one_gaussian = DiagonalNormal(2)
    quiet(one_gaussian, x, max_epochs=100, optimizer=partial(torch.optim.Adam, lr=0.05))
    quiet(vae, x, max_epochs=60, batch_size=64, optimizer=partial(torch.optim.Adam, lr=5e-3))
    with torch.no_grad():
        assert vae().with_particles(64).log_prob(x).mean() > one_gaussian().log_prob(x).mean() + 1


def test_any_module_that_maps_a_batch_to_a_loss():
    def program(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    guide = AutoNormal(program)
    x = 4 + torch.randn(50)
    history = quiet(
        Trace_ELBO()(program, guide), x, max_epochs=150, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.05)
    )
    assert guide.median()["loc"].item() == pytest.approx(x.mean().item(), abs=0.3)
    assert history["loss"][-1] < history["loss"][0]
    bound = NegativeLogLikelihood()(small())
    quiet(bound, torch.randn(30, 2), max_epochs=1)


def test_training_mode_is_restored_and_networks_of_the_user_train():
    class Network(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 4))

    vae = VAE(StandardNormal(2), DiagonalNormal(2, 2, network=Network()), DiagonalNormal(2, 2, (8,)))
    vae.eval()
    history = quiet(vae, torch.randn(64, 2), max_epochs=2, validation=0.25)
    assert not vae.training and not vae.likelihood.network[1].training
    assert vae.likelihood.network[1].num_batches_tracked == history.best_epoch


def test_bf16_mixed_precision_stays_near_float32():
    x = torch.randn(512, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    model = small()
    twin = copy.deepcopy(model)
    exact = quiet(model, x, max_epochs=8)["loss"][-1]
    mixed = quiet(twin, x, max_epochs=8, precision="bf16-mixed")["loss"][-1]
    assert mixed == pytest.approx(exact, rel=0.02)
    assert all(p.dtype == torch.float32 for p in twin.parameters())


def test_history_is_a_table_with_a_picture():
    history = quiet(small(), torch.randn(64, 2), max_epochs=12, validation=0.25)
    assert len(history) == 12 and [row["epoch"] for row in history] == list(range(1, 13))
    assert "12 epochs, stopped by max_epochs" in repr(history)
    with pytest.raises(KeyError, match="expected one of"):
        history["accuracy"]
    figure = history.plot()
    lines = figure.axes[0].get_lines()
    assert any(list(line.get_ydata()) == history["validation"] for line in lines)


def test_game_is_one_module_for_all_players():
    gan = GAN(2, hidden_features=(4,))
    bound = Adversarial()(gan)
    game = Game(bound, bound.players)
    assert {id(p) for p in game.parameters()} == {id(p) for p in gan.parameters()}
    assert game(0, X).shape == game(1, X).shape == ()


def test_progress_bar_tells_losses(capsys):
    fit(small(), torch.randn(64, 2), max_epochs=2, validation=0.25, seed=0)
    err = capsys.readouterr().err
    assert "RealNVP" in err and "loss=" in err and "validation=" in err and "00:00<" in err
