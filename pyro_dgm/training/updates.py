r"""An optimizer's step without its cost in Python.

.. math::
    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
    \theta \leftarrow \theta - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

is one kernel in torch's fused Adam, but ``optimizer.step()`` gathers the tensors of every parameter, sorts them by
device and dtype and opens a profiler's record before it calls that kernel, which takes longer than the whole of a small
compiled step. :class:`FusedAdam` gathers them once. The state stays the optimizer's own, in its ``state_dict`` and its
checkpoints. (Kingma and Ba, Adam, 2014, arXiv:1412.6980; Loshchilov and Hutter, Decoupled Weight Decay
Regularization, 2017, arXiv:1711.05101.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer


class FusedAdam:
    """The step of a fused ``Adam`` or ``AdamW`` whose parameters all have a gradient.

    Args:
        optimizer: The optimizer; whichever it is, a step that this class cannot make is made by the optimizer itself.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._suits = type(optimizer) in (Adam, AdamW) and all(
            group["fused"] and not torch.is_tensor(group["lr"]) and _alike(group["params"])
            for group in optimizer.param_groups
        )
        self._lists: list[list[list[Tensor]]] | None = None

    def __call__(self) -> None:
        """Makes a step with the gradients that the parameters hold."""
        optimizer = self.optimizer
        gradients = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        if not self._suits or _is_heard(optimizer) or any(g is None for each in gradients for g in each):
            optimizer.step()
            self.forget()
            return
        if self._lists is None:
            if any(p not in optimizer.state for group in optimizer.param_groups for p in group["params"]):
                optimizer.step()  # the first one makes the state
                return
            self._lists = [self._gather(group) for group in optimizer.param_groups]
        found_inf = getattr(optimizer, "found_inf", None)
        for group, grads, lists in zip(optimizer.param_groups, gradients, self._lists, strict=True):
            _step(group, grads, lists, found_inf)

    def forget(self) -> None:
        """Gathers the tensors anew at the next step, as after the optimizer has loaded its state."""
        self._lists = None

    def _gather(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """Returns parameters, first and second moments, greatest second moments, step counts, and these as one."""
        states = [self.optimizer.state[p] for p in group["params"]]
        counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, counts.unbind(), strict=True):
            state["step"] = count
        greatest = [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else []
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        return [list(group["params"]), *moments, greatest, list(counts.unbind()), [counts]]


def _step(group: dict[str, Any], grads: list[Tensor], lists: list[list[Tensor]], found_inf: Tensor | None) -> None:
    parameters, first, second, greatest, steps, (counts,) = lists
    beta1, beta2 = group["betas"]
    counts.add_(1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        parameters, grads, first, second, greatest, steps, amsgrad=group["amsgrad"], lr=group["lr"], beta1=beta1,
        beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
        grad_scale=None, found_inf=found_inf,
    )  # fmt: skip
    if found_inf is not None:
        counts.sub_(found_inf)


def _alike(parameters: list[Tensor]) -> bool:
    """Whether one kernel takes all of them: plain real tensors of one device and one dtype."""
    kinds = {(p.device, p.dtype) for p in parameters}
    plain = all(type(p) in (Tensor, torch.nn.Parameter) and not p.is_complex() for p in parameters)
    return len(kinds) == 1 and plain


def _is_heard(optimizer: Optimizer) -> bool:
    """Whether somebody wants to be told of every step."""
    step = vars(optimizer).get("step")  # bound anew, by a schedule that counts steps or by the user
    if step is not None and getattr(step, "__wrapped__", None) is not type(optimizer).step:
        return True
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any((*hooks, torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks))
