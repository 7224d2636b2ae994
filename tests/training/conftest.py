"""A small regression with dropout and noise, so that every source of randomness is in play."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from girsanov.training import ShuffledBatches, TrainingConfig, TrainingResult, train
from tests.seeds import seeded


class RunningScale(nn.Module):
    """A loss with memory: what a fitted time importance does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, module: nn.Module, batch: Tensor, generator: torch.Generator, step: int) -> Tensor:
        eps = torch.randn(batch.shape, generator=generator)
        errors = (module(batch + eps) - eps).square().sum(1)
        self.scale.lerp_(errors.detach().mean(), 0.1)
        return errors / self.scale


@dataclass
class Problem:
    rows: Tensor = field(default_factory=lambda: torch.randn(37, 3, generator=seeded(1)))

    def module(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3)
            )

    def config(self, **changes) -> TrainingConfig:
        settings = {"steps": 40, "batch_size": 8, "checkpoint_steps": 3, "log_every": 5, "validate_every": 7, "seed": 3}
        return TrainingConfig(**(settings | changes))

    def validate(self, module: nn.Module, step: int) -> float:
        with torch.no_grad():
            return -float(module(self.rows).square().mean())

    def train(self, run=None, *, loss=None, module=None, batches=None, **changes) -> tuple[nn.Module, TrainingResult]:
        config = self.config(**{k: v for k, v in changes.items() if k not in ("validate", "progress", "identity")})
        shuffled = ShuffledBatches(len(self.rows), config.batch_size, config.seed)
        module = module or self.module()
        result = train(
            module,
            loss or RunningScale(),
            batches or (lambda step: self.rows[shuffled(step)]),
            config=config,
            validate=changes.get("validate", self.validate),
            run=run,
            progress=changes.get("progress"),
            identity=changes.get("identity", ""),
        )
        return module, result


@pytest.fixture
def problem() -> Problem:
    return Problem()


@pytest.fixture
def same():
    """Whether two state dicts have the same bits."""

    def compare(a: nn.Module, b: nn.Module) -> bool:
        left, right = a.state_dict(), b.state_dict()
        return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)

    return compare


@pytest.fixture
def interrupt_at():
    """A batch function that raises after so many calls: a crash at a known step."""

    def make(problem: Problem, step: int):
        shuffled = ShuffledBatches(len(problem.rows), 8, 3)

        def batches(current: int) -> Tensor:
            if current == step:
                raise RuntimeError("crash")
            return problem.rows[shuffled(current)]

        return batches

    return make
