r"""Guides: flows as approximate posteriors of any Pyro model.

A guide :math:`q(\theta)` is fitted to the posterior :math:`p(\theta | x)` of a program by its evidence lower bound,
whose gap is :math:`\mathrm{KL}(q \| p)`. :class:`AutoFlow` covers all continuous latents of a program by one flow;
:class:`AutoAmortizedFlow` the latents of every row of a (subsampled) plate by a flow that is told what an encoder reads
off the row's data. Both are guides of Pyro's: they go where its autoguides go, into ``SVI``, ``Trace_ELBO()(model,
guide)``, ``AutoGuideList``, ``Predictive``, and :class:`AutoFlow` into ``NeuTraReparam``.
"""

from .amortized import AutoAmortizedFlow
from .auto import AutoFlow
from .base import FlowGuide

__all__ = ["AutoAmortizedFlow", "AutoFlow", "FlowGuide"]
