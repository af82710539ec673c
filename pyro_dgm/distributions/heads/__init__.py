"""Heads: what the parameters that a network gives for a number mean.

================================= ==================================================== ============
head                              distribution of the number                           parameters
================================= ==================================================== ============
:class:`Bernoulli`                0 or 1                                               1
:class:`Categorical`              one of L classes, or L ordered levels                L
:class:`DiscretizedLogisticMixture` one of L levels, by K logistic distributions       3 K
:class:`Poisson`                  a count                                              1
:class:`NegativeBinomial`         a count that scatters more                           2
:class:`Normal`                   normal, of learned or known deviation                2 or 1
:class:`ContinuousBernoulli`      a grey level in [0, 1]                               1
:class:`NormalMixture`            K normal distributions                               3 K
:class:`LogisticMixture`          K logistic distributions                             3 K
:class:`StudentT`                 Student's t, of learned degrees of freedom           3
:class:`Monotone`                 normal seen through a monotone family, e.g. a spline that family's
:class:`Columns`                  another head for every column                        the most
================================= ==================================================== ============
"""

from .base import Head, Standardized
from .columns import Columns
from .continuous import ContinuousBernoulli, LogisticMixture, Monotone, Normal, NormalMixture
from .counts import NegativeBinomial, Poisson
from .discrete import Bernoulli, Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from .student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Head",
    "LogisticMixture",
    "Monotone",
    "NegativeBinomial",
    "Normal",
    "NormalMixture",
    "Poisson",
    "Standardized",
    "StudentT",
]
