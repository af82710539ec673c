"""Markov chains as models: generative stochastic networks, denoising autoencoders, walkback, diagnostics.

Statistical tests are seeded; their failure rate over seeds is at most 1e-3 unless a comment says otherwise.
"""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Predictive
from torch import nn

from pyro_dgm import fit, load, save
from pyro_dgm.distributions import MarkovChain, heads
from pyro_dgm.evaluation import chain_diagnostics
from pyro_dgm.models import GAN, GSN, DenoisingAutoencoder, IndependentBernoulli, TractableModel
from pyro_dgm.nn import GaussianNoise, SaltAndPepper, StochasticBinary
from pyro_dgm.objectives import Walkback

from .statistics import chi_squared_p_value
from .zoo import perturb

BITS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)  # (8, 3)
N = 5000


def numbers(x):
    """Which row of BITS each x is."""
    return (x * torch.tensor([4.0, 2.0, 1.0])).sum(-1).long()


def p_value(x, probabilities):
    return chi_squared_p_value(numbers(x).bincount(minlength=8), len(x) * probabilities)


def corruption_matrix(rate):
    """C(x~ | x) of salt and pepper, rows x."""
    same = (BITS[:, None] == BITS).float()
    return ((1 - rate) * same + rate / 2).prod(-1)


def stationary(transition):
    return torch.linalg.matrix_power(transition.double(), 100)[0].float()


class Rows(dist.Categorical):
    """A distribution over the rows of BITS."""

    def __init__(self, probabilities):
        super().__init__(probabilities)
        self._event_shape = torch.Size([3])

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape) + self.batch_shape
        draws = torch.multinomial(self.probs.expand(*shape, 8).reshape(-1, 8), 1)
        return BITS[draws.reshape(shape)]

    @property
    def mean(self):
        return self.probs @ BITS


class Posterior(TractableModel):
    """The exact p(x | x~), which no product of coins is."""

    def __init__(self, data, rate):
        super().__init__(3, 3, dist.constraints.boolean)
        joint = data[:, None] * corruption_matrix(rate)
        self.table = (joint / joint.sum(0)).T

    def _distribution(self, context):
        return Rows(self.table[numbers(context)])


def boltzmann(hidden=(3, 2), **settings):
    """A GSN that is Gibbs sampling in a deep Boltzmann machine, with its exact p(x) over BITS."""
    noise = {"corruption": SaltAndPepper(0.0), "before": GaussianNoise(0.0), "after": StochasticBinary()}
    torch.manual_seed(2)
    gsn = perturb(GSN(3, hidden, activation=nn.Sigmoid, burn_in=40, **noise, **settings), 0.7)
    b0, *b = gsn.biases(None).detach().split(gsn.widths)
    h1, h2 = (torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * n) for n in hidden)
    w1, w2 = (w.detach() for w in gsn.weights)
    lower = BITS @ b0, BITS @ w1.T @ h1.T, h1 @ b[0], h1 @ w2.T @ h2.T, h2 @ b[1]
    joint = lower[0][:, None, None] + lower[1][..., None] + lower[2][:, None] + lower[3] + lower[4]
    return gsn, joint.flatten(1).logsumexp(1).softmax(0)


# --- what the chains sample ------------------------------------------------------------------------------------------


def test_with_the_true_posterior_the_chain_samples_the_data():
    """Theorem 1 of the paper, and the chain of the model against it."""
    rate, data = 0.6, torch.tensor([0.3, 0.02, 0.05, 0.13, 0.1, 0.02, 0.03, 0.35])
    dae = DenoisingAutoencoder(Posterior(data, rate), SaltAndPepper(rate), burn_in=30)
    transition = corruption_matrix(rate) @ dae.likelihood.table
    torch.testing.assert_close(stationary(transition), data, atol=1e-4, rtol=0)
    torch.manual_seed(0)
    x = dae().sample((N,))
    assert p_value(x, data) > 1e-3
    assert p_value(x, torch.tensor([0.25, 0.05, 0.06, 0.14, 0.1, 0.02, 0.03, 0.35])) < 1e-6  # it has power


def test_any_denoiser_has_the_stationary_distribution_of_its_transition_matrix():
    torch.manual_seed(0)
    rate = 0.4
    dae = DenoisingAutoencoder(
        perturb(IndependentBernoulli(3, 3, ()), 1.0), SaltAndPepper(rate), burn_in=60, thinning=1
    )
    restored = dae.decode(BITS).mean.detach()
    likelihood = (restored[:, None] * BITS + (1 - restored[:, None]) * (1 - BITS)).prod(-1)
    transition = corruption_matrix(rate) @ likelihood
    torch.manual_seed(0)
    assert p_value(dae().sample((N,)), stationary(transition)) > 1e-3
    one = BITS[5].expand(N, 3)
    steps = list(dae.walk(one, steps=3))
    assert p_value(steps[0].sample(), transition[5]) > 1e-3  # steps of the walk are steps of that chain
    assert p_value(steps[2].sample(), torch.linalg.matrix_power(transition, 3)[5]) > 1e-3
    draws = dae.chain().run(2, N)  # and so are consecutive draws
    before, after = numbers(draws[:, 0]), draws[:, 1]
    common = int(before.mode().values)
    assert p_value(after[before == common], transition[common]) > 1e-3


def test_layers_of_coins_are_a_deep_boltzmann_machine():
    gsn, exact = boltzmann()
    torch.manual_seed(0)
    assert p_value(gsn().sample((N,)), exact) > 1e-3
    assert (exact - 1 / 8).abs().max() > 0.05


def test_chains_start_at_data_where_given():
    gsn = GSN(3, (4,), burn_in=0)
    assert (gsn.chain(start=BITS[5:6]).run(1, 20) == BITS[5]).all()
    gsn.burn_in = 1
    assert gsn.chain(start=BITS).sample((4, 2)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"start: expected shape \(n, 3\)"):
        gsn.chain(start=BITS[0])


def test_chains_of_a_trained_network_start_at_numbers_drawn_from_the_data(tmp_path):
    """The least p-value of the three bits is below 1e-3 with a rate of 3e-3."""
    torch.manual_seed(0)
    x = BITS[torch.tensor([4, 4, 4, 5])].repeat(50, 1)  # the first bit is always 1, the second never, the third at 1/4
    gsn = GSN(3, (5,), burn_in=0)
    assert 0.3 < gsn.chain().run(1, 500)[..., 1].mean() < 0.7  # not seen any data
    fit(gsn, x, max_epochs=1, progress=False)
    save(gsn, tmp_path / "gsn.pt")
    starts = load(tmp_path / "gsn.pt").chain().run(1, 500).squeeze(1)
    assert starts[:, 0].all() and not starts[:, 1].any()
    p = gsn.starts[:, 2].mean()  # of 64 drawn once
    assert (p - 0.25).abs() < 3.3 * (0.25 * 0.75 / 64) ** 0.5
    assert (starts[:, 2].mean() - p).abs() < 3.3 * (p * (1 - p) / 500) ** 0.5
    held = gsn.complete(BITS[2].expand(20, 3), torch.tensor([True, False, True])).run(1).flatten(0, 1)
    assert held[..., 1].all() and held[..., 0].all()


def test_what_is_known_is_held():
    """Clamped chains against p(x_1, x_3 | x_2) of the same machine, and every datum has its own mask."""
    gsn, exact = boltzmann()
    torch.manual_seed(0)
    known = torch.tensor([torch.nan, 1.0, torch.nan])
    x = gsn.complete(known, known.isnan()).sample((N,))
    assert (x[:, 1] == 1).all()
    conditional = exact * BITS[:, 1]
    assert p_value(x, conditional / conditional.sum()) > 1e-3
    masks = torch.tensor([[True, False, False], [False, False, True]])
    data = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    many, means = (gsn.complete(data, masks, means=m).sample((20,)) for m in (False, True))
    assert many.shape == means.shape == (20, 2, 3)
    for draws in (many, means):
        assert (draws == data)[:, ~masks].all()
    assert ((means[:, masks] > 0) & (means[:, masks] < 1)).all()
    with pytest.raises(ValueError, match=r"x: expected shape \(\*, 3\), got \(2, 4\)"):
        gsn.complete(torch.zeros(2, 4), torch.ones(4))


# --- training --------------------------------------------------------------------------------------------------------


def test_walkback_scores_the_steps_of_a_walk():
    torch.manual_seed(0)
    x = BITS[:6]
    forgetful = DenoisingAutoencoder(perturb(IndependentBernoulli(3, 3, ())), torch.ones_like)
    expected = -forgetful.likelihood(torch.ones(3)).log_prob(x).mean()
    for k, decay in ((1, 1.0), (4, 0.5)):  # nothing is known of x, so all steps cost the same
        torch.testing.assert_close(Walkback(k, decay)(forgetful)(x), expected)
    still = DenoisingAutoencoder(perturb(IndependentBernoulli(3, 3, ())), lambda x: x)
    torch.manual_seed(1)
    losses = torch.stack([-p.log_prob(x).mean() for p in still.walk(x, None, 3)])
    torch.manual_seed(1)
    weighted = losses @ torch.tensor([1.0, 0.5, 0.25]) / 1.75
    torch.testing.assert_close(Walkback(3, 0.5)(still)(x), weighted)


@pytest.mark.parametrize("head", [heads.Bernoulli(), heads.Normal(scale=0.2)], ids=["coins", "numbers"])
def test_a_network_learns_two_modes_and_moves_between_them(head):
    torch.manual_seed(0)
    low = 0.0 if isinstance(head, heads.Bernoulli) else -1.0
    x = torch.where(torch.rand(512, 1) < 0.5, low, 1.0).expand(512, 6).contiguous()
    x = x if low == 0 else x + 0.2 * torch.randn_like(x)
    gsn = GSN(
        6, (8, 4), head=head, corruption=SaltAndPepper(0.4, low=low), before=GaussianNoise(0.3),
        after=GaussianNoise(0.3), burn_in=20,
    )  # fmt: skip
    pyro.enable_validation(False)
    optimizer = partial(torch.optim.Adam, lr=0.02)
    history = fit(gsn, x, max_epochs=12, optimizer=optimizer, seed=0, progress=False, compile=False)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    high = gsn().sample((400,)) > (low + 1) / 2
    share = high.float().mean(1)
    agreeing = (share == 0) | (share == 1)
    assert agreeing.float().mean() > 0.4 and 0.2 < (share > 0.5).float().mean() < 0.8


def test_walkback_refuses_what_does_not_walk():
    with pytest.raises(ValueError, match="expected one with a method walk, such as GSN, got GAN"):
        Walkback()(GAN(3))(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="steps, decay"):
        Walkback(0)
    with pytest.raises(ValueError, match="weights are tied"):
        GSN(3, head=heads.Normal())
    with pytest.raises(ValueError, match="at least one hidden layer"):
        GSN(3, ())
    with pytest.raises(ValueError, match="context=5"):
        DenoisingAutoencoder(IndependentBernoulli(3, 4), SaltAndPepper(0.1), context=2)
    with pytest.raises(ValueError, match="burn_in, thinning, chains"):
        GSN(3, thinning=0)


# --- the distribution of a chain, and its diagnostics ----------------------------------------------------------------


def autoregression(a, scale=1.0, **settings):
    """x' = a x + noise, which leaves a standard normal as it is."""
    return MarkovChain(
        lambda shape: 5 * torch.ones(shape), lambda x: a * x + (1 - a * a) ** 0.5 * torch.randn_like(x), (), **settings
    )


def test_a_chain_is_a_distribution_without_density():
    p = autoregression(0.5, burn_in=30, chains=4)
    assert p.sample().shape == () and p.sample((3, 2)).shape == (3, 2) and p.sample((0, 2)).shape == (0, 2)
    q = p.expand((5,))
    assert q.batch_shape == (5,) and q.sample((3,)).shape == (3, 5) and q.run(7, 2).shape == (2, 7, 5)
    assert p.support is dist.constraints.real and not p.has_rsample and p.chains == q.chains == 4
    with pytest.raises(NotImplementedError, match="has no density"):
        p.log_prob(torch.zeros(()))
    with pytest.raises(ValueError, match="burn_in, thinning, chains"):
        autoregression(0.5, burn_in=-1)
    with pytest.raises(ValueError, match="draws, chains"):
        p.run(0)


def test_burn_in_and_thinning_are_counted_in_steps():
    count = MarkovChain(torch.zeros, lambda x: x + 1, (2,), (), burn_in=3, thinning=2)
    count.initial = lambda shape: torch.zeros(*shape, 2)
    assert count.run(3)[0, :, 0].tolist() == [3, 5, 7]
    shared = MarkovChain(torch.zeros, lambda x: x + 1, (), burn_in=1, chains=2)
    assert shared.sample((5,)).tolist() == [1, 2, 3, 1, 2]  # three of one chain, then two of the other


def test_diagnostics_know_an_autoregression():
    """ESS within 15%, autocorrelations within 0.05, over 100 seeds."""
    torch.manual_seed(0)
    a, draws, chains = 0.6, 2000, 4
    x = autoregression(a, burn_in=50).run(draws, chains)
    found = chain_diagnostics(x, lags=5)
    assert found.r_hat < 1.02 and found.ess.shape == ()
    assert found.ess == pytest.approx(chains * draws * (1 - a) / (1 + a), rel=0.15)
    torch.testing.assert_close(found.autocorrelation, a ** torch.arange(6.0).double(), atol=0.05, rtol=0)
    assert str(found).startswith("R-hat at most 1.0")


def test_diagnostics_find_chains_that_disagree_or_stand_still():
    torch.manual_seed(0)
    x = torch.randn(4, 200, 2, 3)
    x[0, :, 1, 2] += 3
    x[..., 0, 0] = 7.0
    found = chain_diagnostics(x)
    assert found.r_hat.shape == found.ess.shape == (2, 3) and found.autocorrelation.shape == (21, 2, 3)
    assert found.r_hat[1, 2] > 1.3 and found.ess[1, 2] < 50 and found.r_hat[0, 1] < 1.05
    assert found.r_hat[0, 0].isnan() and found.autocorrelation[:, 0, 0].isnan().all()
    for wrong, lags in ((x[:1], 5), (x[:, :3], 1), (x, 200), (x / 0, 5)):
        with pytest.raises(ValueError, match=r"draws:|lags:"):
            chain_diagnostics(wrong, lags)


def test_a_network_is_sampled_in_pyro_programs_and_never_observed():
    gsn = GSN(3, (4,), context=2, burn_in=2)
    context = torch.randn(5, 2)
    assert Predictive(gsn.model, num_samples=7)(None, context)["x"].shape == (7, 5, 3)
    with pytest.raises(NotImplementedError, match="has no density"):
        gsn.model(torch.zeros(5, 3), context)
    with pyro.plate("many", 4):
        assert pyro.sample("x", gsn.chain(context[0])).shape == (4, 3)
