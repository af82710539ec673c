"""Pyro's effect handlers on a flow site: a tour in which every claim is checked.

    python examples/effect_handlers.py

The program: z ~ flow (two features), y ~ Normal(z_1 + z_2, 1/2), for three data in a plate. A handler changes what the
program means without touching it, and each change says what has to happen to the log joint density. The left column
is what Pyro computes, the right one the formula by hand; they agree to rounding, which is what the error says.
"""

import argparse

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_dgm.models import RealNVP

Row = tuple[str, float, float, float]
ROUNDING = 1e-4


def log_joint(program, *args: Tensor) -> float:
    """The log joint density of one run of a program."""
    return poutine.trace(program).get_trace(*args).log_prob_sum().item()


@torch.no_grad()
def rows() -> list[Row]:
    """One row for each identity."""
    flow = RealNVP(2, transforms=2, hidden_features=(16,))
    for p in flow.parameters():  # a flow that has learned something
        p.add_(0.1 * torch.randn_like(p))

    def likelihood(z: Tensor) -> dist.Normal:
        return dist.Normal(z.sum(-1), 0.5)

    def program(y: Tensor | None = None) -> Tensor:
        with pyro.plate("data", 3):
            z = pyro.sample("z", flow())
            return pyro.sample("y", likelihood(z), obs=y)

    z, y = flow().sample((3,)), torch.randn(3)
    prior, fit = flow().log_prob(z), likelihood(z).log_prob(y)
    given, table = poutine.condition(program, {"z": z}), []

    def check(name: str, pyro_says: float, by_hand: Tensor | float) -> None:
        table.append((name, pyro_says, float(by_hand), ROUNDING))

    # condition: the site becomes an observation and keeps its density
    check("condition: log p(z) + log p(y | z)", log_joint(given, y), (prior + fit).sum())
    check("condition: z is observed", poutine.trace(given).get_trace(y).nodes["z"]["is_observed"], True)

    # do: y sees the value set from outside, a site that no trace sees (Pearl, Causality, 2009); what z would have been
    # by itself is still drawn as site z, with its density, for counterfactuals; an intervention alone hides it
    done = poutine.do(program, {"z": z})
    trace = poutine.trace(done).get_trace(y)
    natural = flow().log_prob(trace.nodes["z"]["value"])
    check("do: log p(z drawn) + log p(y | z set)", trace.log_prob_sum().item(), (natural + fit).sum())
    cut = poutine.block(done, hide=["z"])
    check("do, drawn z hidden: log p(y | z set)", log_joint(cut, y), fit.sum())

    # mask: some data do not count, at this site or in the whole program
    mask = torch.tensor([True, False, True])
    check("mask: data 1 and 3 of the program", log_joint(poutine.mask(given, mask=mask), y), (prior + fit)[mask].sum())
    check("mask: the distribution itself", flow().expand((3,)).mask(mask).log_prob(z).sum().item(), prior[mask].sum())

    # scale: a datum counts 10 times, as in a minibatch of 3 of 30
    check("scale: ten times the log joint", log_joint(poutine.scale(given, scale=10.0), y), 10 * (prior + fit).sum())

    # block: the site is hidden from whoever traces, and still runs
    trace = poutine.trace(poutine.block(given, hide=["z"])).get_trace(y)
    check("block: log p(y | z) is all that is seen", trace.log_prob_sum().item(), fit.sum())
    check("block: z is not in the trace", "z" in trace.nodes, False)

    # replay: what one run drew is scored again, as a guide's draws are under the model
    source = poutine.trace(program).get_trace(y)
    replayed = poutine.trace(poutine.replay(program, trace=source)).get_trace(y)
    check("replay: the same z, the same density", replayed.log_prob_sum().item(), source.log_prob_sum())

    # and handlers nest
    check("scale of do, once more", log_joint(poutine.scale(cut, scale=2.0), y), 2 * fit.sum())
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':42}{'Pyro':>12}{'by hand':>12}{'error':>10}")
    for name, answer, truth, error in rows():
        print(f"{name:42}{answer:12.5f}{truth:12.5f}{error:10.0e}")


if __name__ == "__main__":
    main()
