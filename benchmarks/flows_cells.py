r"""The cells of ``benchmarks.flows``: which flow does which work on how many data, and what it may cost.

.. math::
    \frac{\text{ours}}{\text{best peer}} \le \text{bar}

Bars hold for the vector flows, for Glow's training step and for the exact trace of a continuous flow of many features;
the other cells inform.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .flows_contestants import EAGER, Form
from .flows_monotone import FORMS, MonotoneForm
from .flows_others import ContinuousForm, ImageForm

AnyForm = Form | ImageForm | ContinuousForm | MonotoneForm
LOG_PROB, TRAIN, SAMPLE, OWN = "log_prob", "training step", "sampling", "density of own samples"


@dataclass(frozen=True)
class Cell:
    """One kind of work of one flow.

    Attributes:
        form: The flow.
        batch: Number of data.
        work: The work.
        bars: Whether the bars of vector flows hold for it; else it informs.
    """

    form: AnyForm
    batch: int
    work: str
    bars: bool = True

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.form.label}, batch {self.batch}, {self.work}"

    @property
    def sequential(self) -> bool:
        """Whether the work takes D passes."""
        if not isinstance(self.form, Form):
            return False
        costly = (LOG_PROB, TRAIN) if self.form.family == "IAF" else (SAMPLE, OWN)
        return self.form.autoregressive and self.work in costly

    def bar(self, way: str) -> float | None:
        """The greatest ratio to the best peer that the eager or the compiled flow may have."""
        if isinstance(self.form, ImageForm):
            return 0.8 if self.form.family == "Glow" and self.work == TRAIN else None
        if isinstance(self.form, MonotoneForm):
            return None
        if isinstance(self.form, ContinuousForm):
            return 0.1 if self.form.features > 2 and self.work == LOG_PROB else None
        spline = self.form.family.startswith("NSF")
        if not self.bars or (self.sequential and (self.form.features < 64 or self.work == OWN)):
            return None
        if self.sequential:
            return 0.15
        if way == EAGER:
            return 0.6 if spline else 1.0
        return 0.35 if spline else 0.8 if self.form.hidden == 64 else 1.0


def cells(quick: bool) -> Iterator[Cell]:
    """All cells, or a few for development."""
    families = "RealNVP", "MAF", "NSF coupling", "NSF autoregressive"
    features, hidden, batches = ((16,), (64,), (512,)) if quick else ((2, 16, 64), (64, 256), (512, 4096))
    for family, d, h, n in product(families, features, hidden, batches):
        for work in (LOG_PROB, TRAIN, SAMPLE, OWN):
            cell = Cell(Form(family, d, h), n, work)
            if not (cell.sequential and work == OWN and d == 64 and n == 4096):  # what sampling costs, once more
                yield cell
    glow = ImageForm("Glow", (1, 28, 28), 64, 4, 2), ImageForm("Glow", (3, 32, 32), 64, 4, 3)
    realnvp = [ImageForm("multi-scale RealNVP", f.event_shape, 32, 2, f.levels) for f in glow]
    others = [(f, 16) for f in (*glow, *realnvp)] + [(ContinuousForm(2, 64), 512), (ContinuousForm(43, 128), 512)]
    for (form, n), work in product(others, (LOG_PROB, TRAIN, SAMPLE)):
        yield Cell(form, n, work)
    for form, work in product((Form("NICE", 16, 64), *FORMS), (LOG_PROB, TRAIN)):
        yield Cell(form, 512, work, bars=False)
    for work in (SAMPLE, OWN):
        yield Cell(Form("IAF", 16, 64), 512, work, bars=False)
