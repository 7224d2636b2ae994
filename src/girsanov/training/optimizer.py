"""AdamW as the loop uses it: fused, clipped by the global norm, no decay on biases and norms."""

__all__ = ["Optimizer"]

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from girsanov.training.config import TrainingConfig
from girsanov.types import InputError

BETAS = (0.9, 0.99)  # the short second memory follows a loss whose scale changes over training
SLOTS = ("step", "exp_avg", "exp_avg_sq")


@final
class Optimizer:
    """AdamW over the trainable parameters of a module.

    The fused kernel is the fastest on the CPU, by a factor of 3 to 8 over the default, and the clipping
    goes over all gradients at once.

    Args:
        module: whose parameters with ``requires_grad`` are trained.
        config: ``learning_rate``, ``weight_decay`` and ``clip_norm``.

    Attributes:
        parameters: what is trained.
        adamw: the optimiser of torch, one group with decay and one without.

    Raises:
        InputError: if nothing is trainable.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self._named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self._named:
            raise InputError("the module has no trainable parameter: set requires_grad on what should be trained")
        self.parameters = list(self._named.values())
        self._clip_norm = config.clip_norm
        decayed = [p for p in self.parameters if p.ndim >= 2]
        plain = [p for p in self.parameters if p.ndim < 2]
        groups = [(decayed, config.weight_decay), (plain, 0.0)]
        self.adamw = torch.optim.AdamW(
            [{"params": params, "weight_decay": decay} for params, decay in groups if params],
            lr=config.learning_rate,
            betas=BETAS,
            fused=True,
        )

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, forget the gradients.

        Args:
            learning_rate: of this step.

        Returns:
            The global norm of the gradient before clipping, a scalar on the parameters' device.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(_norms(gradients))
        if self._clip_norm is not None:
            factor = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm

    def finite(self) -> bool:
        """Whether every weight is finite."""
        return bool(_norms([p.detach() for p in self.parameters]).isfinite().all())

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's memory by parameter name."""
        state = self.adamw.state
        return {f"{name}:{slot}": state[p][slot] for name, p in self._named.items() if p in state for slot in SLOTS}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave.

        Raises:
            InputError: if the names or shapes are not those of the module.
        """
        remaining = dict(tensors)
        for name, parameter in self._named.items():
            found = {slot: remaining.pop(f"{name}:{slot}", None) for slot in SLOTS}
            if all(tensor is None for tensor in found.values()):
                continue
            for slot, tensor in found.items():
                counter = slot == "step"
                if tensor is None or tensor.shape != (torch.Size() if counter else parameter.shape):
                    raise InputError(f"the checkpoint's optimiser does not fit {name}: start in another folder")
                dtype = torch.float32 if counter else parameter.dtype
                self.adamw.state[parameter][slot] = tensor.to(parameter.device, dtype)
        if remaining:
            raise InputError(f"the checkpoint's optimiser has an unknown {min(remaining)}: use another folder")


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))  # pyright: ignore[reportPrivateImportUsage]
