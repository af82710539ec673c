"""Masks of couplings: alternating and random ones, and that weights bring along the masks they were trained with."""

import copy

import pytest
import torch

from pyro_dgm import load, save
from pyro_dgm.models import NCSF, NICE, NSF, RealNVP
from pyro_dgm.transforms import alternating, first_half, random_masks

from .zoo import perturb

SMALL = {"transforms": 4, "hidden_features": (8,)}
FLOWS = {
    "NICE": lambda d, masks: NICE(d, masks=masks, **SMALL),
    "RealNVP": lambda d, masks: RealNVP(d, masks=masks, **SMALL),
    "NSF": lambda d, masks: NSF(d, masks=masks, bins=3, **SMALL),
    "NCSF": lambda d, masks: NCSF(d, masks=masks, bins=3, **SMALL),
}
every_flow = pytest.mark.parametrize("name", FLOWS)


def measure(flow, x):
    torch.manual_seed(3)
    return flow().sample((4,)), flow().log_prob(x)


@pytest.mark.parametrize("features", [2, 5, 8])
def test_random_masks_halve_in_pairs_and_follow_their_seed_alone(features):
    state = torch.get_rng_state()
    masks = random_masks(features, 5, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(masks) == 5 and all(len(m) == features for m in masks)
    for k, mask in enumerate(masks):
        assert sum(mask) == (features + 1 - k % 2) // 2
    for first, second in (masks[:2], masks[2:4]):
        assert [not m for m in first] == second
    torch.manual_seed(99)
    assert random_masks(features, 5, seed=4) == masks == random_masks(features, 7, seed=4)[:5]
    with torch.device("meta"):
        assert random_masks(features, 5, seed=4) == masks
    if features > 2:
        assert random_masks(features, 5, seed=5) != masks
        assert masks[0] != masks[2]
    with pytest.raises(ValueError, match="number: expected at least 1"):
        random_masks(features, 0)


def test_random_masks_are_uniform():
    """The 6 halves of 4 features: a chi-square of 5 degrees exceeds 25.7 once in 10^4 runs; these seeds are fixed."""
    drawn = [tuple(random_masks(4, 1, seed)[0]) for seed in range(600)]
    counts = torch.tensor([drawn.count(mask) for mask in set(drawn)])
    assert len(counts) == 6 and ((counts - 100.0) ** 2 / 100).sum() < 25.7


@every_flow
@pytest.mark.parametrize("features", [4, 5])
def test_weights_bring_their_masks(name, features):
    """Into flows of other masks, whether those are taken by views or by indices, and back."""
    x = 2 * torch.rand(5, features) - 1
    halves = first_half(features)
    halves = [halves, [not m for m in halves]] if features % 2 == 0 else [[not m for m in halves], halves]
    kinds = [alternating(features), halves, *(random_masks(features, 4, seed) for seed in range(3))]
    flows = [perturb(FLOWS[name](features, masks)) for masks in kinds]
    states = [copy.deepcopy(flow.state_dict()) for flow in flows]
    expected = [measure(flow, x) for flow in flows]
    for flow in flows:
        for state, values in zip(states, expected, strict=True):
            flow.load_state_dict(state)
            for a, b in zip(measure(flow, x), values, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(expected[0][1], expected[2][1])


def test_the_masks_are_what_differs():
    """The same weights under other masks are another density, so that the test above can fail."""
    flows = [perturb(RealNVP(4, masks=random_masks(4, 4, seed), **SMALL)) for seed in (0, 1)]
    weights = dict(flows[0].named_parameters())
    flows[1].load_state_dict(weights, strict=False)
    x = torch.randn(5, 4)
    assert not torch.allclose(flows[0]().log_prob(x), flows[1]().log_prob(x), atol=1e-3)


@every_flow
def test_a_file_restores_random_masks(name, tmp_path):
    flow = perturb(FLOWS[name](6, random_masks(6, 4, seed=11))).eval()
    x = 2 * torch.rand(5, 6) - 1
    save(flow, tmp_path / "flow.pt")
    torch.manual_seed(1234)
    again = load(tmp_path / "flow.pt")
    other = load(tmp_path / "flow.pt", into=FLOWS[name](6, random_masks(6, 4, seed=12)))
    for twin in (again, other, copy.deepcopy(other)):
        for a, b in zip(measure(twin, x), measure(flow, x), strict=True):
            assert torch.equal(a, b)
    assert again.config["masks"] == random_masks(6, 4, seed=11)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        RealNVP(4, masks=[[1, 0, 0, 0], [0, 1, 1, 1]], **SMALL).load_state_dict(RealNVP(4, **SMALL).state_dict())
