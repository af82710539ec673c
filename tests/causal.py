"""What is true of every conditioner and of every walk through one, for the tests of autoregressive families."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyro_dgm.distributions.autoregressive import fold
from pyro_dgm.nn import NaiveWalk


def total_probability(p, levels, chunk=2**17):
    """The sum of the probabilities of all events whose numbers are levels 0..levels-1."""
    size = p.event_shape.numel()
    with torch.no_grad():
        parts = torch.arange(levels**size).split(chunk)
        places = levels ** torch.arange(size)
        states = ((part[:, None] // places % levels).float().reshape(-1, *p.event_shape) for part in parts)
        return sum(float(p.log_prob(x).double().exp().sum()) for x in states)


def dependencies(model, context=None, draws=3):
    """Whether each number's parameters depend on each number, rows and columns in the order: a (D, D) matrix.

    The derivative of a random projection of the parameters, at several random data, in float64.
    """
    conditioner = model.conditioner
    event_shape, per = conditioner.event_shape, conditioner.in_per_feature
    first, *rest = event_shape
    found = torch.zeros(event_shape.numel(), event_shape.numel(), dtype=torch.bool)
    for _ in range(draws):
        projection = torch.randn(model.head.size, dtype=torch.float64)

        def outputs(seen, projection=projection):
            x = fold(seen.reshape(*event_shape, per), len(event_shape))
            return (conditioner(x, context) @ projection).flatten()[conditioner.sequence]

        seen = torch.randn(first, *rest, per, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(outputs, seen, vectorize=True).reshape(
            len(found), len(found), per
        )
        found |= (jacobian[:, conditioner.sequence] != 0).any(-1)
    return found


def assert_same_samples(p, shape=(20,), **given):
    """Samples in three ways, bit for bit."""
    draws = []
    for method in ("incremental", "naive", "jacobi"):
        torch.manual_seed(11)
        draws.append(p.draw(shape, method=method, **given))
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    return draws[0]


def assert_select(model, context=None):
    """A walk whose data are reordered, repeated and left out on the way is the naive walk treated alike."""
    n = 5
    conditioner, head = model.conditioner, model.head
    like = next(model.parameters())
    noise = head.noise((3 * n, conditioner.event_shape.numel()), like)
    walks = [conditioner.walk(context, n), NaiveWalk(conditioner, context, n)]
    for step in range(len(conditioner.sequence)):
        if step in (2, 4):
            index = torch.tensor([3, 0, 0, 4, 2, 1, 3])
            for walk in walks:
                walk.select(index)
        outputs = [walk.output() for walk in walks]
        torch.testing.assert_close(*outputs, atol=1e-12, rtol=1e-10)
        seen = head.embed(head.draw(outputs[0], noise[: len(outputs[0]), step])).mT
        for walk in walks:
            walk.see(seen)


def operations(function):
    """Floating-point operations of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def assert_walk_is_cheap(p, share, n=100):
    """A sample by the walk takes at most this share of the operations of the naive sampler."""
    x = p.sample((n,))
    naive = p.event_shape.numel() * operations(lambda: p.parameters_of(x))
    assert 0 < operations(lambda: p.draw((n,))) <= share * naive


def smooth(module):
    """A module in float64 with parameters in general position, none of them at its initial value."""
    torch.manual_seed(4)
    for p in module.double().parameters():
        nn.init.normal_(p, std=0.4)
    return module.eval()
