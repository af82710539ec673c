"""Judging a fitted generative model, by what it promises about p(x).

- With a density: `log_likelihood` of each datum, `held_out` mean with its error, `bits_per_dim`, and
  `compare` for a table of several models on the same data.
- With a latent variable: `importance_weighted` and `annealed` likelihoods, with all their errors, `bidirectional`
  bounds on both sides; `latent_units` (active, or collapsed) and the parts of their `divergence`.
- For codes and known factors: `mig`, `sap` and `dci`, scores of disentanglement.
- With samples only, or for the sampler of any model: `c2st`, `mmd` and `mmd_test`; in the space of features that
  `embed` takes from any network, `frechet_distance`, `kernel_distance`, and `prdc` for quality and diversity apart;
  `mode_coverage` of known modes and `class_coverage` of classes; `parzen` for old figures, distrusted.
- For a Markov chain, whether it has mixed: `chain_diagnostics` (R-hat, effective sample size, autocorrelation).
- For an amortised posterior, on simulations: `sbc_ranks` and `expected_coverage`, tested by `rank_test`.
- For the plots and the file format of ArviZ, 0.x or 1.x: `to_arviz`.

Log-likelihoods are in nats unless a name says bits. Nothing here changes a model or, unless it must sample, a
random generator.
"""

from .annealing import Sandwich, annealed, bidirectional
from .arviz_export import to_arviz
from .calibration import Coverage, expected_coverage, rank_test, sbc_ranks
from .chains import ChainDiagnostics, chain_diagnostics
from .comparison import Comparison, Score, compare
from .disentanglement import DCI, dci, mig, sap
from .feature_distance import KernelDistance, frechet_distance, frechet_distance_of_moments, kernel_distance
from .importance import Evidence, importance_weighted
from .latent import Divergence, LatentUnits, divergence, latent_units
from .likelihood import HeldOut, bits_per_dim, held_out, log_likelihood
from .modes import ModeCoverage, class_coverage, mode_coverage
from .parzen import Parzen, parzen
from .prdc import PRDC, prdc
from .two_sample import C2ST, c2st, mmd, mmd_test
from .vectors import embed

__all__ = [
    "C2ST",
    "DCI",
    "PRDC",
    "ChainDiagnostics",
    "Comparison",
    "Coverage",
    "Divergence",
    "Evidence",
    "HeldOut",
    "KernelDistance",
    "LatentUnits",
    "ModeCoverage",
    "Parzen",
    "Sandwich",
    "Score",
    "annealed",
    "bidirectional",
    "bits_per_dim",
    "c2st",
    "chain_diagnostics",
    "class_coverage",
    "compare",
    "dci",
    "divergence",
    "embed",
    "expected_coverage",
    "frechet_distance",
    "frechet_distance_of_moments",
    "held_out",
    "importance_weighted",
    "kernel_distance",
    "latent_units",
    "log_likelihood",
    "mig",
    "mmd",
    "mmd_test",
    "mode_coverage",
    "parzen",
    "prdc",
    "rank_test",
    "sap",
    "sbc_ranks",
    "to_arviz",
]
