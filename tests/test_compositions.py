"""Flows inside Bayesian models: every example agrees with its known answer, and calibration is found or found wanting.

The examples are run from their ``main``, with fewer steps and draws than their defaults. Every row of an example's
table says its error, Monte Carlo and fit together; the tests allow four of them, so where the error is Monte Carlo
alone a row fails for one seed in 16,000. Seeds are fixed: what passes once goes on passing.
"""

import importlib.util
import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_dgm.evaluation import expected_coverage, rank_test, sbc_ranks
from pyro_dgm.models import RealNVP

from .test_import import ROOT


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(monkeypatch, capsys):
    """Runs an example as a script would, and returns all that one of its functions has returned."""

    def run(module, arguments, function, **settings):
        returned, original = [], getattr(module, function)

        def watched(*args, **kwargs):
            returned.append(original(*args, **{**kwargs, **settings}))
            return returned[-1]

        monkeypatch.setattr(module, function, watched)
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments.split()])
        with pyro.validation_enabled():
            module.main()
        assert capsys.readouterr().out.count("\n") > 2  # a table
        return returned

    return run


TABLES = {
    "flow_as_prior": ("--samples 150", {"epochs": 4, "steps": 400}),
    "flow_as_noise": ("--steps 400", {}),
    "mixture_of_flows": ("--steps 400", {}),
    "generative_classifier": ("--epochs 10", {}),
    "plates_and_particles": ("--particles 50", {}),
    "bayesian_flow": ("--samples 150", {"steps": 300}),
    "simulation_based_inference": ("--epochs 10", {}),
    "effect_handlers": ("", {}),
}


@pytest.mark.parametrize("name", TABLES)
def test_example_agrees_with_its_known_answer(name, results):
    arguments, settings = TABLES[name]
    (table,) = results(example(name), arguments, "rows", **settings)
    wrong_models = "Normal noise: KL", "Normal noise: sd"  # the contrast that flow_as_noise draws
    for row, answer, truth, error in table:
        assert math.isfinite(error) and error > 0, row
        off = abs(answer - truth) > 4 * error
        assert off == row.startswith(wrong_models), (row, answer, truth, error)


def test_priors_go_over_the_weights_of_any_flow():
    flow = example("bayesian_flow").with_priors(RealNVP(2, transforms=2, hidden_features=(4,)))
    with pyro.validation_enabled():
        trace = poutine.trace(flow.model).get_trace(torch.randn(5, 2))
    latent = [site for site in trace.stochastic_nodes if site != "x" and trace.nodes[site]["type"] == "sample"]
    assert len(latent) >= 8 and trace.log_prob_sum().isfinite()


def conjugate(n, scale=1.0, shift=0.0):
    """theta ~ N(0, 1), x | theta ~ N(theta, 1), so theta | x ~ N(x / 2, 1 / 2), in two independent coordinates."""
    torch.manual_seed(0)
    theta = torch.randn(n, 2)
    x = theta + torch.randn(n, 2)
    return dist.Normal(x / 2 + shift, scale * 0.5**0.5).to_event(1), theta


def p_values(posterior, theta):
    ranks = sbc_ranks(posterior, theta), expected_coverage(posterior, theta).ranks.unsqueeze(-1)
    return rank_test(torch.cat(ranks, -1), 99)


def test_the_exact_posterior_is_calibrated():
    """P-values are uniform: one of three is below 1e-3 for one seed in 300."""
    posterior, theta = conjugate(5000)
    assert p_values(posterior, theta).min() > 1e-3
    found = expected_coverage(posterior, theta)
    assert ((found.coverage - found.levels).abs() < 4 * found.standard_error).all()  # fails for one seed in 1,600


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_an_error_of_ten_percent_in_scale_is_detected(scale):
    posterior, theta = conjugate(5000, scale)
    assert p_values(posterior, theta).max() < 1e-3
    found = expected_coverage(posterior, theta, levels=[0.5])
    assert (found.coverage < found.levels).item() == (scale < 1)


def test_a_shift_is_detected_by_ranks():
    posterior, theta = conjugate(5000, shift=0.1)
    assert rank_test(sbc_ranks(posterior, theta), 99).max() < 1e-3


def test_calibration_refuses_what_cannot_be_right():
    posterior, theta = conjugate(100)
    with pytest.raises(ValueError, match="theta: expected one for each posterior"):
        sbc_ranks(posterior, theta[:50])
    with pytest.raises(ValueError, match="num_samples: expected at least 1"):
        sbc_ranks(posterior, theta, 0)
    with pytest.raises(ValueError, match="levels: expected probabilities"):
        expected_coverage(posterior, theta, levels=[1.0])
    ranks = torch.randint(100, (200,))
    with pytest.raises(ValueError, match="bins: expected a divisor"):
        rank_test(ranks, 99, bins=7)
    with pytest.raises(ValueError, match="ranks: expected at least 5"):
        rank_test(ranks[:50], 99)
    with pytest.raises(ValueError, match="ranks: expected values from 0"):
        rank_test(ranks + 1, 98, bins=11)
