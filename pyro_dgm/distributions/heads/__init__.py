"""Heads: what the parameters that an autoregressive network gives for a number mean.

================================= ==================================================== ============
head                              distribution of the number                           parameters
================================= ==================================================== ============
:class:`Bernoulli`                0 or 1                                               1
:class:`Categorical`              one of L classes, or L ordered levels                L
:class:`DiscretizedLogisticMixture` one of L levels, by K logistic distributions       3 K
:class:`Normal`                   normal                                               2
:class:`NormalMixture`            K normal distributions                               3 K
:class:`LogisticMixture`          K logistic distributions                             3 K
:class:`StudentT`                 Student's t, of learned degrees of freedom           3
:class:`Monotone`                 normal seen through a monotone family, e.g. a spline that family's
:class:`Columns`                  another head for every column                        the most
================================= ==================================================== ============
"""

from .base import Columns, Head, Standardized
from .continuous import LogisticMixture, Monotone, Normal, NormalMixture
from .discrete import Bernoulli, Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from .student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Head",
    "LogisticMixture",
    "Monotone",
    "Normal",
    "NormalMixture",
    "Standardized",
    "StudentT",
]
