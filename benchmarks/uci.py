r"""Held-out log-likelihood of neural spline flows on three UCI tables: ``pyro_dgm.models.NSF`` against ``zuko.flows.NSF``.

.. math::
    \frac{1}{n} \sum_i \log p_\theta(x_i) \quad \text{in nats, over the test rows of } \texttt{pyro\_dgm.datasets.uci}

Both flows have the same transforms, bins, interval, widths and activation, start from the same seed and go through one and
the same plain loop: Adam with a cosine schedule, the same batches in the same order, validation after every epoch, the
weights of the best epoch, one look at the test rows. Settings were chosen on the validation rows. A third contestant is our
flow trained by ``pyro_dgm.fit`` with those settings: it has to give what the loop gives.

Rows: the mean over seeds, with the least and greatest seed; the difference ours - zuko, paired by test row and averaged
over seeds, with two standard errors over test rows either side; and the time of a training step of ours over that of
zuko, rounds interleaved. Coupling forms differ in one respect: zuko's (``passes=2``) also bends the conditioning
half of the features, by splines without input, where ours leaves them alone.

Importing zuko switches off the argument validation of ``torch.distributions`` in the whole process, so both run without.

    python -m benchmarks.uci [--seeds 0 1 2] [--tables power-plant ...]
"""

import argparse
import copy
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
import zuko
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_dgm import fit
from pyro_dgm.datasets.uci import Splits, uci
from pyro_dgm.models import NSF


class Settings(NamedTuple):
    """What both contestants share."""

    batch_size: int
    max_epochs: int
    patience: int
    lr: float = 1e-3
    clip: float = 5.0


def batch_order(seed: int) -> torch.Generator:
    """The generator of the batches' order, the one that ``fit(seed=seed)`` uses."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def train(flow: nn.Module, data: Splits, settings: Settings, seed: int) -> float:
    """Trains any flow whose call gives a distribution; returns the best validation log-likelihood, weights restored."""
    order, n = batch_order(seed), len(data.train)
    optimizer = torch.optim.Adam(flow.parameters(), settings.lr)
    schedule = CosineAnnealingLR(optimizer, settings.max_epochs * math.ceil(n / settings.batch_size))
    best, best_epoch, weights = -math.inf, 0, copy.deepcopy(flow.state_dict())
    for epoch in range(settings.max_epochs):
        for index in torch.randperm(n, generator=order).split(settings.batch_size):
            loss = -flow().log_prob(data.train[index]).mean()
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(flow.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
        score = float(scores(flow, data.validation).mean())
        if score > best:
            best, best_epoch, weights = score, epoch, copy.deepcopy(flow.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    flow.load_state_dict(weights)
    flow.history = epoch, best_epoch
    return best


@torch.no_grad()
def scores(flow: nn.Module, x: Tensor) -> Tensor:
    """The log-likelihood of every row."""
    return flow().log_prob(x)
