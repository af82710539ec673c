"""Defects of flows and of guides found by trying to break them, one test each, so that they stay mended."""

import pickle
from functools import partial

import pyro
import pyro.distributions.transforms as T
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.distributions import AffineTransform, IndependentTransform, constraints

from pyro_dgm import fit, load, save
from pyro_dgm import transforms as t
from pyro_dgm.distributions.quantization import Dequantization, Quantized
from pyro_dgm.evaluation import sbc_ranks
from pyro_dgm.guides import AutoFlow
from pyro_dgm.models import (
    MAF,
    NCSF,
    NICE,
    NSF,
    Dequantized,
    DiagonalNormal,
    GaussianizationFlow,
    Glow,
    IndependentBernoulli,
    Mixture,
    MultiscaleRealNVP,
    NormalizingFlow,
    RealNVP,
)
from pyro_dgm.objectives import ELBO, NegativeLogLikelihood

from .zoo import perturb

BOX = constraints.interval(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))


def planar(d):
    return NormalizingFlow(d, [T.planar(d)], invertible=False)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 2), (1, 1, 2)])
def test_levels_by_default_leave_a_checkerboard_two_pixels(shape):
    assert MultiscaleRealNVP(shape, hidden_channels=4)().log_prob(torch.zeros(2, *shape)).shape == (2,)
    with pytest.raises(ValueError, match=r"levels: images of 1x1 can be halved 0 times, so 0 levels fit, got 0"):
        MultiscaleRealNVP((3, 1, 1))


def test_a_family_of_one_slope_counts_every_pixel():
    class Twice(t.Shift):
        def forward_and_ladj(self, x, theta):
            return 2 * super().forward_and_ladj(x, theta)[0], torch.tensor(2.0).log()

    coupling = t.ImageCoupling((3, 4, 4), t.checkerboard(4, 4), Twice(), 4)
    torch.testing.assert_close(coupling.forward_and_ladj(torch.randn(3, 4, 4))[1], 24 * torch.tensor(2.0).log())


def test_gradients_of_an_image_flow_datum_by_datum():
    """Down to one pixel, whose memory format is not definite."""
    flow, x = perturb(Glow((1, 4, 4), hidden_channels=4), 0.05).double(), torch.rand(3, 1, 4, 4).double()
    loss = NegativeLogLikelihood()(flow)
    parameters = dict(loss.named_parameters())

    def of_one(parameters, x):
        return torch.func.functional_call(loss, parameters, x[None])

    each = torch.func.vmap(torch.func.grad(of_one), (None, 0))(parameters, x)
    for k in range(3):
        expected = torch.autograd.grad(loss(x[k : k + 1]), list(parameters.values()), materialize_grads=True)
        for (name, value), whole in zip(each.items(), expected, strict=True):
            torch.testing.assert_close(value[k], whole, msg=name)


@pytest.mark.parametrize("make", [Glow, MultiscaleRealNVP])
def test_image_flows_under_vmap(make):
    flow = perturb(make((2, 4, 4), hidden_channels=4), 0.05).double()
    x, score = flow().sample((3,)), lambda v: flow().log_prob(v)
    torch.testing.assert_close(torch.func.vmap(score)(x), score(x))
    one_by_one = torch.stack([torch.func.grad(score)(v) for v in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(score))(x), one_by_one)


@pytest.mark.parametrize("at_input", [False, True])
def test_a_second_initialisation_is_the_first(at_input):
    layer = t.InvertibleConvolution(3)
    x = torch.randn(200, 3, 4, 4) * torch.tensor([1e-2, 1.0, 50.0])[:, None, None] + 3
    for _ in range(3):
        layer.initialize(x, at_input=at_input)
        z = (layer.forward_value if at_input else layer.inverse_value)(x).movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(torch.cov(z.T), torch.eye(3), atol=0.1, rtol=0)


def test_masks_of_images_are_tables_of_their_shape():
    with pytest.raises(ValueError, match=r"mask: expected .* a table of 2 rows of 3, got shape \(3, 2\)"):
        t.ImageCoupling((1, 2, 3), t.checkerboard(3, 2))
    by_tensor = t.ImageCoupling((1, 2, 3), torch.tensor(t.checkerboard(2, 3)))
    assert by_tensor.parts.mask.tolist() == t.checkerboard(2, 3)


def test_a_support_that_leads_from_reals_to_reals_is_kept():
    class Sinh(t.Transform):
        domain = codomain = constraints.real

        def forward_and_ladj(self, x, context=None):
            return x.sinh(), x.cosh().log()

        def inverse_and_ladj(self, y, context=None):
            return y.asinh(), -y.asinh().cosh().log()

    flow = MultiscaleRealNVP((1, 2, 2), hidden_channels=4, support=Sinh())
    assert isinstance(flow.transform.transforms[-1], Sinh)


# --- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 41, 100, 256, 1000, 65536])
def test_noise_at_either_edge_stays_in_the_cell(levels, dtype):
    x = torch.arange(levels, dtype=dtype)[:, None]
    q = Dequantization(x, levels, 1)
    for u in (0.0, 1e-9, 1 - torch.finfo(dtype).eps / 2):
        v = q._place(torch.full_like(x, u))
        assert q.log_prob(v).isfinite().all() and (Quantized(v, levels, 1).log_prob(x) == 0).all()


def test_levels_of_single_numbers():
    x, v = torch.tensor([0.0, 3.0]), torch.tensor([0.1, 0.1])
    assert Quantized(v, 4, 0).log_prob(x).tolist() == [0.0, -torch.inf]
    torch.testing.assert_close(Dequantization(x, 4, 0).log_prob(v), torch.tensor([4.0, 0.0]).log())
    assert Dequantized(DiagonalNormal(()), 4)().log_prob(x).shape == (2,)


# --- parts of a flow -------------------------------------------------------------------------------------------------


def test_a_mixture_leaves_what_is_trained_as_it_is():
    x = torch.randn(200, 2) * 0.1 + 5
    trained, fresh = NICE(2), NICE(2)
    fit(trained, x, max_epochs=1, seed=0, progress=False)
    before = trained().log_prob(x)
    Mixture([trained, fresh]).initialize(torch.cat([x, -x]))
    assert torch.equal(trained().log_prob(x), before)
    torch.testing.assert_close(fresh.transform.transforms[-1].mean, torch.zeros(2))
    with pytest.raises(ValueError, match="components: expected at least two models, got 0"):
        Mixture([])


def test_a_loaded_order_is_gone_by_in_both_directions():
    a = perturb(t.MaskedAutoregressive(4, order=[2, 0, 3, 1], context=2)).double()
    b = t.MaskedAutoregressive(4, context=2).double()
    b.load_state_dict(a.state_dict())
    y, c = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(b.forward_value(b.inverse_value(y, c), c), y)
    assert b.conditioner.order == [2, 0, 3, 1]


def test_the_base_is_checked_and_initialised():
    for base in (DiagonalNormal(1), DiagonalNormal((2, 1)), IndependentBernoulli(2), Dequantized(NSF(2), 4)):
        with pytest.raises(ValueError, match="base: expected a model with an exact density of 2 continuous numbers"):
            NormalizingFlow(2, [t.LULinear(2)], base=base)
    flow = NormalizingFlow(2, [t.LULinear(2)], base=GaussianizationFlow(2))
    x = 5 + 3 * torch.randn(500, 2)
    flow.initialize(x)
    z = flow.transform.inverse_value(x)
    torch.testing.assert_close(flow.base.transform.transforms[-1].std, z.std(0), rtol=0.01, atol=0)


def test_guides_have_a_temperature():
    p = perturb(planar(2)).tempered(0.5)
    x, log_prob = p.rsample_and_log_prob((4,))
    assert x.shape == (4, 2) and log_prob.shape == (4,)
    assert p.log_prob(p.sample((4,))).isfinite().all()  # of its own samples it keeps the density
    assert planar(2).tempered(1e-6).sample((40,)).std(0).max() < 1e-4


# --- supports --------------------------------------------------------------------------------------------------------


def test_with_support_of_images_and_of_flows_without_weights_and_keeps_what_was_set():
    image = MultiscaleRealNVP((1, 4, 4), hidden_channels=4).with_support(constraints.unit_interval)
    assert constraints.unit_interval.check(image().sample((3,))).all()
    assert NormalizingFlow(2, [t.Permutation([1, 0])]).with_support(constraints.positive)().sample().min() > 0
    frozen = NSF(2).eval().requires_grad_(False).with_support(constraints.positive)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


def test_bounds_move_with_the_flow():
    columns = constraints.cat([BOX, constraints.real], -1, [2, 1])
    for features, support in ((2, constraints.independent(BOX, 1)), (3, columns)):
        flow = MAF(features, support=support).double()
        assert flow.support.check(flow().sample((20,))).all()
    flow = MAF(2, support=BOX).double()
    assert flow.support.base_constraint.lower_bound.dtype == torch.float64
    assert BOX.lower_bound.dtype == torch.float32  # the caller's is left alone
    for copied in (pickle.loads(pickle.dumps(flow)), flow):
        assert copied.support.check(copied().sample((20,))).all()
    meta = MAF(2, support=BOX).to("meta")
    assert meta.transform.forward_and_ladj(torch.zeros(3, 2, device="meta"))[0].is_meta
    nested = t.as_transform(IndependentTransform(AffineTransform(torch.zeros(2), torch.ones(2)), 1)).double()
    assert {v.dtype for v in nested.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize(
    "support",
    [
        BOX,
        constraints.greater_than(torch.zeros(2)),
        constraints.interval(torch.tensor(-10.0), torch.tensor(10.0)),
        constraints.real_vector,
        constraints.independent(constraints.positive, 1),
    ],
    ids=str,
)
def test_bounds_are_saved(support, tmp_path):
    flow, x = NSF(2, support=support).eval(), torch.tensor([0.3, 1.3])
    save(flow, tmp_path / "flow.pt")
    assert torch.equal(load(tmp_path / "flow.pt")().log_prob(x), flow().log_prob(x))


def test_samples_on_sets_of_columns_are_inside():
    support = constraints.cat([constraints.positive, constraints.real], dim=-1, lengths=[1, 2])
    flow = MAF(3, support=support)
    wide = torch.cat([torch.randn(500, 1).mul(40).exp().clamp(1e-38, 1e38), torch.randn(500, 2)], 1)
    flow.initialize(wide)
    x = flow().sample((2000,))
    assert support.check(x).all() and flow().log_prob(x).isfinite().all()


def test_a_set_of_vectors_that_says_it_is_one_of_numbers():
    flow = MAF(3, support=pyro.distributions.constraints.positive_ordered_vector)
    x = flow().sample((4,))
    assert flow().event_shape == (3,) and flow().log_prob(x).shape == (4,)
    assert (x.diff(dim=-1) > 0).all() and (x > 0).all()


# --- compilers -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch itself
def test_one_graph_for_batches_of_all_sizes():
    flow = RealNVP(3, 2)
    score = torch.compile(lambda x, c: flow(c).log_prob(x), backend="eager", dynamic=True, fullgraph=True)
    for n in (6, 8, 9):
        x, c = torch.randn(n, 3), torch.randn(n, 2)
        torch.testing.assert_close(score(x, c), flow(c).log_prob(x))


# --- programs --------------------------------------------------------------------------------------------------------


def coin(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


@pytest.mark.parametrize("make", [AutoFlow, AutoNormal])
def test_closed_forms_of_constrained_latents_keep_the_log_determinant(make):
    """log B(4, 2) = -2.9957 is the evidence, and no bound is above it; 2000 draws, five standard errors."""
    y = torch.tensor([1.0, 1.0, 0.0, 1.0])
    guide = make(coin)
    guide(y)
    bounds = {}
    for analytic in (False, True):
        torch.manual_seed(0)
        with torch.no_grad():
            bounds[analytic] = -len(y) * ELBO(analytic=analytic, num_particles=2000)(coin, guide)(y).item()
    assert bounds[True] == pytest.approx(bounds[False], rel=1e-5)
    assert bounds[True] < -2.9957


def latents():
    pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize("flow", [NCSF, partial(NSF, support=constraints.positive), Glow])
def test_guides_refuse_flows_that_do_not_reach_all_reals(flow):
    with pytest.raises(ValueError, match=r"flow: expected .* unconstrained features|event_shape: expected the shape"):
        AutoFlow(latents, flow).setup()


def test_guides_take_flows_without_an_inverse():
    guide = AutoFlow(latents, planar).setup()
    assert pyro.infer.Trace_ELBO()(latents, guide)().isfinite() and guide.median()["a"].shape == (2,)


def test_wrong_arguments_of_a_guide():
    guide = AutoFlow(latents)
    with pytest.raises(ValueError, match="log_prob: expected a guide that is set up"):
        guide.log_prob({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"quantiles, num_samples: expected numbers between 0 and 1"):
        guide.quantiles([1.5])


def test_another_program_of_a_model_is_scored_as_itself():
    class Mine(NSF):
        def other(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, 100.0).expand([2]).to_event(1), obs=x)

    flow, x = Mine(2), torch.randn(20, 2)
    expected = -poutine.trace(flow.other).get_trace(x).log_prob_sum() / 20
    torch.testing.assert_close(NegativeLogLikelihood()(flow.other)(x), expected)


def test_ranks_of_scalars():
    theta = torch.randn(50)
    assert sbc_ranks(dist.Normal(theta, 1.0), theta).shape == (50, 1)


def test_sets_of_vectors_side_by_side_are_refused():
    with pytest.raises(ValueError, match=r"constraint: expected constraints.cat of element-wise sets"):
        MAF(5, support=constraints.cat([constraints.simplex, constraints.real], dim=-1, lengths=[3, 2]))
