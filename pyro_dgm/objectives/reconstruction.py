r"""How well data are reconstructed from their codes: the loss of autoencoders.

.. math::
    L = -\frac{1}{n} \sum_i \Bigl[\log p\bigl(x_i \,|\, f(\tilde x_i)\bigr) + \beta \log p\bigl(f(\tilde x_i)\bigr)
        - \lambda\, \|J_f(\tilde x_i)\|_F^2\Bigr] + \omega \sum_w w^2

with :math:`\tilde x = x` for the plain autoencoder. A corrupted :math:`\tilde x` makes it a denoising one, whose
reconstruction r tells the score of the data, :math:`r(x) - x \approx \sigma^2 \nabla \log p(x)` for a little Gaussian
noise (Alain and Bengio, What Regularized Auto-Encoders Learn from the Data Generating Distribution, 2014,
arXiv:1211.4246); :math:`\lambda` a contractive one (Rifai, Vincent, Muller, Glorot and Bengio, 2011); :math:`\beta` and
:math:`\omega` the regularised one of Ghosh, Sajjadi, Vergari, Black and Scholkopf, 2019, arXiv:1903.12436.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..nn import at_least_float32
from ..nn.jacobian import squared_jacobian_norm
from .base import Objective, Player, generative_model, penalised, unique_parameters


class Reconstruction(Objective):
    r"""The reconstruction error in mean nats per datum, for models that encode and decode.

    In evaluation mode it is -log p(x | f(x)), and with a code weight the codes' share, and nothing more. A prior learns
    only if codes have weight; with a flexible prior they would then shrink to a point, so fit such a one afterwards.

    Args:
        corruption: Maps data to corrupted data: :class:`~pyro_dgm.nn.corruption.GaussianNoise`, ``MaskingNoise``,
            ``SaltAndPepper``, or a function or module of your own.
        contraction: The weight :math:`\lambda` of the squared norm of the encoder's Jacobian.
        probes: Random directions of its estimate in place of as many exact ones as there are numbers in a code.
        code_weight: The weight :math:`\beta` of the codes' log-density under the prior.
        weight_decay: The weight :math:`\omega` of the squared weights of encoder and decoder, biases not counted.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import Autoencoder, DiagonalNormal, StandardNormal
        >>> from pyro_dgm.nn.corruption import MaskingNoise
        >>> autoencoder = Autoencoder(StandardNormal(2), DiagonalNormal(5, context=2))
        >>> Reconstruction(MaskingNoise(0.3), contraction=0.1)(autoencoder)(torch.zeros(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        corruption: Callable[[Tensor], Tensor] | None = None,
        *,
        contraction: float = 0.0,
        probes: int | None = None,
        code_weight: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if min(contraction, code_weight, weight_decay) < 0:
            raise ValueError(
                "contraction, code_weight, weight_decay: expected at least 0, got "
                f"{contraction}, {code_weight}, {weight_decay}"
            )
        if probes is not None and probes < 1:
            raise ValueError(f"probes: expected at least 1, or None for the exact norm, got {probes}")
        self.corruption, self.contraction, self.probes = corruption, contraction, probes
        self.code_weight, self.weight_decay = code_weight, weight_decay

    def players(self, model: Any, guide: Any) -> list[Player]:
        """Returns the single player, to whom the prior belongs only if codes have weight."""
        owner = _autoencoder(model)
        parts = [owner.encoder, owner.likelihood, *([owner.prior] if self.code_weight else [])]
        return [Player("loss", unique_parameters(parts), lambda *batch: self.loss_of(model, guide, *batch))]

    @penalised
    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Encodes, decodes and scores.

        Raises:
            ValueError: If the model is no autoencoder.
        """
        owner = _autoencoder(model)
        x, c = (*batch, None)[:2]
        with owner._pyro_context:  # tells SVI of the parameters, as a call of the model does
            seen = self.corruption(x) if self.corruption is not None and owner.training else x
            z = owner.encode(seen, c)
            scores = at_least_float32(owner.decode(z, c).log_prob(x))
            if self.code_weight:
                scores = scores + self.code_weight * at_least_float32(owner.latent(c).log_prob(z))
            loss = -scores.mean()
            return loss + self._penalty(owner, seen, c) if owner.training else loss

    def _penalty(self, owner: Any, x: Tensor, c: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        if self.contraction:
            encoder = owner.encoder if c is None else lambda x: owner.encoder(x, c)
            norms = squared_jacobian_norm(encoder, x, len(owner.event_shape), self.probes)
            total = total + self.contraction * norms.mean()
        if self.weight_decay:
            weights = unique_parameters([owner.encoder, owner.likelihood])
            squares = (at_least_float32(w).square().sum() for w in weights if w.dim() > 1)
            total = total + self.weight_decay * sum(squares)
        return total


def _autoencoder(model: Any) -> Any:
    owner = generative_model(model)
    if not (hasattr(owner, "encode") and isinstance(getattr(owner, "encoder", None), nn.Module)):
        raise ValueError(
            f"model: expected an Autoencoder, got {type(owner or model).__name__}; use the model's own objective()"
        )
    return owner
