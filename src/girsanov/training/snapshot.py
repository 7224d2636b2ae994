"""Everything a resumed run needs, to a checkpoint and back."""

__all__ = ["Snapshot"]

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from girsanov.training import checkpoints
from girsanov.training.config import TrainingConfig
from girsanov.training.ema import MovingAverage
from girsanov.training.meter import NonFiniteLossError
from girsanov.training.optimizer import Optimizer
from girsanov.training.state import TrainingState
from girsanov.training.validation import Validator
from girsanov.types import InputError


@dataclass(frozen=True)
class Snapshot:
    """The parts of a run that change, and the settings that must not.

    Attributes:
        module: what is trained.
        loss: its tensors are kept too if it has ``state_dict`` and ``load_state_dict``.
        average: the averaged weights.
        optimizer: its memory.
        validator: the best weights.
        state: the position.
        config: the settings.
        identity: describes the data and the model.
    """

    module: nn.Module
    loss: Any
    average: MovingAverage
    optimizer: Optimizer
    validator: Validator
    state: TrainingState
    config: TrainingConfig
    identity: str

    def save(self, root: Path) -> None:
        """Write a checkpoint.

        Raises:
            InputError: if the disk refuses.
            NonFiniteLossError: if a weight is not finite; nothing is written then.
        """
        step = self.state.step
        if not self.optimizer.finite():
            raise NonFiniteLossError(f"a weight is not finite after {step} steps: lower learning_rate")
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.module.state_dict(),
            "average": self.average.evaluated().state_dict(),
            "optimizer": self.optimizer.tensors(),
        }
        if self.validator.best is not None:
            tensors["best"] = self.validator.best
        if _stateful(self.loss):
            tensors["loss"] = self.loss.state_dict()
        state = {
            "config": self.config.numerics(),
            "identity": self.identity,
            "training": self.state.to_json(),
        }
        checkpoints.save(root, step, tensors, state)

    def restore(self, found: checkpoints.Checkpoint) -> None:
        """Take over what a checkpoint holds.

        Raises:
            InputError: if it is of other settings, other data, another module, or malformed.
        """
        self._check_settings(found)
        content = found.state.get("training")
        restored = TrainingState.from_json(content if isinstance(content, dict) else {})
        for field in fields(TrainingState):
            setattr(self.state, field.name, getattr(restored, field.name))
        groups = found.tensors
        averaged = self.average.evaluated()
        if restored.best_step is not None:
            _load(averaged, groups.get("best", {}), found.path / "best")
            self.validator.best = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
        _load(self.module, groups.get("model", {}), found.path / "model")
        _load(averaged, groups.get("average", {}), found.path / "average")
        self.optimizer.load(groups.get("optimizer", {}))
        if _stateful(self.loss):
            _load(self.loss, groups.get("loss", {}), found.path / "loss")

    def _check_settings(self, found: checkpoints.Checkpoint) -> None:
        stored, root = found.state.get("config"), found.path.parent
        if not isinstance(stored, dict) or found.state.get("identity") != self.identity:
            raise InputError(f"{root} is of other data or another model: choose another folder")
        for name, value in self.config.numerics().items():
            if stored.get(name, "missing") != value:
                was = stored.get(name, "missing")
                raise InputError(f"{root} was trained with {name}={was}, not {value}: choose another folder")


def _stateful(loss: Any) -> bool:
    return hasattr(loss, "state_dict") and hasattr(loss, "load_state_dict")


def _load(target: Any, tensors: Mapping[str, Tensor], name: Path) -> None:
    try:
        target.load_state_dict(dict(tensors))
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{name}.safetensors does not fit this model: choose another folder") from error
