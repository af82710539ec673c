r"""Maximum likelihood in all orders at once.

.. math::
    L = -\frac{1}{n} \sum_i E_o \bigl[\log p(x_i | o, c_i)\bigr]

over the orders (and the connections) o that one network serves, estimated at one of them, or one set of known numbers,
for each batch or datum (Uria, Murray and Larochelle, A Deep and Tractable Density Estimator, 2014, arXiv:1310.1757;
Germain, Gregor, Murray and Larochelle, MADE, 2015, arXiv:1502.03509). It bounds the loss of the mixture of
orders from above.
"""

from typing import Any

from torch import Tensor

from .base import Objective, generative_model


class OrderAgnostic(Objective):
    """The mean of -log p(x | o, c) over the batch and over orders, in nats, for models of many orders.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import EoNADE
        >>> OrderAgnostic()(EoNADE(4))(torch.zeros(3, 4)).item() / torch.tensor(2.0).log().item()
        4.0
    """

    def loss_of(self, model: Any, guide: Any, *batch: Any, **settings: Any) -> Tensor:
        """Asks the model for its estimate.

        Raises:
            ValueError: If it is no model of many orders.
        """
        owner = generative_model(model)
        if not hasattr(owner, "order_agnostic_loss"):
            raise ValueError(
                f"model: expected one of many orders (EoNADE, ConvNADE, MADE), got {type(owner or model).__name__}; "
                "use NegativeLogLikelihood"
            )
        with owner._pyro_context:  # tells SVI of the parameters, as a call of the model does
            return owner.order_agnostic_loss(*batch)
