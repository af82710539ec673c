"""What a conditioner gives is multiplied by the gains of the family of functions that it parametrises."""

import pytest
import torch

from pyro_dgm.nn import MLP, MaskedMLP

from .zoo import C, perturb


@pytest.mark.parametrize("hidden_features", [(), (8, 8)])
@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("masked", [False, True])
def test_gains_multiply_the_numbers_that_a_network_gives(masked, context, hidden_features):
    """In one pass, and where one input after another becomes known."""
    settings = {"hidden_features": hidden_features, "context": context}

    def make(gains):
        if masked:
            return MaskedMLP(4, 2, direct=bool(hidden_features), gains=gains, **settings)
        return MLP(4, 4, out_per_feature=2, gains=gains, **settings)

    gains = torch.tensor([0.25, 3.0])
    plain, amplified = perturb(make(None)), make(gains.tolist())
    assert not amplified.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x, c = torch.randn(5, 4), torch.randn(5, context) if context else None
    given = gains * plain(x, c)
    torch.testing.assert_close(amplified(x, c), given)
    if masked:
        walk = amplified.walk(c, 5)
        for i in amplified.sequence:
            torch.testing.assert_close(walk.output(), given[:, i])
            walk.see(x[:, i][None])
