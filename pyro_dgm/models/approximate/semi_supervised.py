r"""The semi-supervised variational autoencoder: a class as a second latent, observed for some of the data.

.. math::
    y \sim p(y), \qquad z \sim p(z), \qquad x \sim p(x | y, z), \qquad
    q(y, z | x) = q(y | x)\, q(z | x, y)

    \log p(x) \ge \log \sum_y p(y)\, e^{B_y(x)}
        \ge \sum_y q(y | x) \bigl(\log p(y) + B_y(x)\bigr) + H\bigl(q(y | x)\bigr)

with the bound :math:`B_y(x) \le \log p(x | y)` of a conditional autoencoder. So the model is a mixture, over classes,
of one conditional autoencoder. The density sums over classes and needs no :math:`q(y | x)`; training by the right side
makes it a classifier. (Kingma, Rezende, Mohamed and Welling, Semi-Supervised Learning with Deep Generative Models,
2014, arXiv:1406.5298: the model M2.)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.nn import pyro_method
from torch import Tensor, nn

from ...distributions import BatchMixture
from ...distributions.hierarchy import sample_latent
from ...nn import MLP, leave_autocast
from ..base import ApproximateModel
from .latent import LatentVariableModel

if TYPE_CHECKING:
    from ...objectives import Objective


class SemiSupervisedVAE(ApproximateModel):
    r"""A variational autoencoder of data of which some have a label.

    Labels are its context, one column of class numbers 0..K-1, with -1 (or NaN) where there is none:
    ``fit(model, x, labels.float())`` takes both kinds in one batch (-1 there: ``fit`` refuses NaN). Likewise
    ``model(labels)`` is p(x | y) where the label is known and p(x) where it is not, and ``model()`` is p(x); all are
    lower bounds, tight in y.

    Its Pyro program has the sites ``"y_observed"``, ``"y_unobserved"``, ``"z"`` and ``"x"``. To sum over classes, say
    so: ``SVI(model.model, config_enumerate(model.guide), optimizer, TraceEnum_ELBO(max_plate_nesting=1))``; other
    estimators sample them. (Either leaves out the classifier's cross-entropy, which is no part of the bound.)

    Args:
        vae: The conditional autoencoder p(x | y), whose context is the class as K numbers, one of them 1, others 0:
            ``ConditionalVAE(StandardNormal(L), likelihood, posterior, context=K)``.
        classifier: A module of your own from data, flattened, (*, D) to logits (*, K); an MLP when ``None``.
        hidden_features: Hidden widths of that MLP.
        class_probs: Probabilities of the classes, in any unit; equal when ``None``.
        alpha: The weight of the classifier's cross-entropy in :class:`~pyro_dgm.objectives.SemiSupervised`.

    Attributes:
        num_classes: The number K of classes.
        log_class_probs: log p(y), with shape (K,).

    Raises:
        ValueError: If there are fewer than two classes, or not as many probabilities.

    Example:
        >>> from pyro_dgm.models import ConditionalVAE, DiagonalNormal, StandardNormal
        >>> vae = ConditionalVAE(StandardNormal(2), DiagonalNormal(5, 2 + 10), DiagonalNormal(2, 5 + 10), context=10)
        >>> model = SemiSupervisedVAE(vae)
        >>> x, labels = torch.zeros(4, 5), torch.tensor([[3], [-1], [-1], [7]])
        >>> model(labels).log_prob(x).shape, model.classify(x).probs.shape
        (torch.Size([4]), torch.Size([4, 10]))
    """

    context_optional = True

    def __init__(
        self,
        vae: LatentVariableModel,
        classifier: nn.Module | None = None,
        hidden_features: Sequence[int] = (64, 64),
        class_probs: Sequence[float] | None = None,
        alpha: float = 0.1,
    ) -> None:
        k = vae.context
        if k < 2:
            raise ValueError(f"vae: expected a conditional model with one context feature per class, got context={k}")
        if class_probs is not None and (len(class_probs) != k or not min(class_probs) > 0):
            raise ValueError(f"class_probs: expected {k} positive numbers, one per class, got {class_probs}")
        super().__init__(vae.event_shape, 1, vae.support)
        self.vae, self.num_classes, self.alpha = vae, k, alpha
        self.classifier = classifier or MLP(self.event_shape.numel(), k, hidden_features)
        probs = torch.ones(k) if class_probs is None else torch.tensor(class_probs, dtype=torch.get_default_dtype())
        self.register_buffer("log_class_probs", (probs / probs.sum()).log())
        self.register_buffer("classes", torch.eye(k))

    def labels(self, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns whether labels are known, with shape (*), and the class as 0s and a 1, all 0 if not, shape (*, K).

        Args:
            context: The labels, with shape (*, 1).

        Raises:
            ValueError: If labels are not whole numbers below K, as long as Pyro validates its arguments.
        """
        if context is None:
            context = torch.full_like(self.log_class_probs[:1], -1)
        y = context.squeeze(-1)
        known = y >= 0
        one_hot = (y.unsqueeze(-1) == torch.arange(self.num_classes, device=y.device)).to(self.classes)
        if dist.is_validation_enabled() and not torch.equal(known, one_hot.sum(-1) > 0):
            raise ValueError(
                f"context: expected labels 0..{self.num_classes - 1}, -1 where there is none, got values from "
                f"{context.min():g} to {context.max():g}"
            )
        return known, one_hot

    def classify(self, x: Tensor) -> dist.Categorical:
        """Returns q(y | x), with batch shape (*), for x with shape (*, *event_shape)."""
        flat = x.flatten(-len(self.event_shape)) if self.event_shape else x.unsqueeze(-1)
        return dist.Categorical(logits=leave_autocast(self.classifier(flat)))

    def _check_context(self, context: Tensor | None) -> None:
        super()._check_context(context.float() if isinstance(context, Tensor) else context)  # labels may be integers

    def _distribution(self, context: Tensor | None) -> BatchMixture:
        if context is None:
            return BatchMixture(self.vae(self.classes), self.log_class_probs)
        known, one_hot = self.labels(context)
        return BatchMixture(
            self.vae(self.classes), torch.where(known.unsqueeze(-1), one_hot.log(), self.log_class_probs)
        )

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the representation z of x, given its label, or the most probable class where there is none."""
        known, one_hot = self.labels(context)
        likely = self.classes[self.classify(x).logits.argmax(-1)]
        return self.vae.encode(x, torch.where(known.unsqueeze(-1), one_hot, likely))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises the conditional autoencoder, data without a label having the class that the classifier says."""
        known, one_hot = self.labels(context)
        likely = self.classes[self.classify(x).logits.argmax(-1)]
        self.vae.initialize(x, torch.where(known.unsqueeze(-1), one_hot, likely))

    def _sample_class(self, p: dist.Categorical, context: Tensor | None, observe: bool) -> Tensor:
        """Samples the class where there is no label, and returns it as 0s and a 1, a context of the autoencoder."""
        known, one_hot = self.labels(context)
        label = one_hot.argmax(-1)
        if observe:
            with poutine.mask(mask=known):
                pyro.sample("y_observed", p, obs=label)
        with poutine.mask(mask=~known):
            sampled = pyro.sample("y_unobserved", p)
        return self.classes[torch.where(known, label, sampled)]

    @pyro_method
    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The generative process: y, z, and x in a plate ``"data"``; see :meth:`TractableModel.model`."""
        with self._data_plates(x, context, data_size):
            y = self._sample_class(dist.Categorical(logits=self.log_class_probs), context, observe=True)
            p = self.vae(y)
            return pyro.sample("x", p.likelihood(sample_latent(p.prior)), obs=x)

    @pyro_method
    def guide(self, x: Tensor, context: Tensor | None = None, *, data_size: int | None = None) -> Tensor:
        """The approximate posterior: the class where it is unknown, and ``"z"``, in the plate ``"data"``."""
        with self._data_plates(x, context, data_size):
            q = self.vae.infer(x, self._sample_class(self.classify(x), context, observe=False))
            return sample_latent(q, proposal=True)

    def objective(self) -> "Objective":
        """Returns the bounds of labelled and unlabelled data, and the classifier's cross-entropy."""
        from ...objectives import SemiSupervised

        return SemiSupervised(self.alpha)
