r"""Alternating projections: each half is fitted to paths that the other one makes from rows of its own end.

The forward half moves rows of the start; the backward half is fitted to those paths, moves rows of the end, and the
forward half is fitted to these. Started from any path law :math:`R f(X_0) g(X_T)`, the reference or a closed form,
these are iterative proportional fitting, whose limit is the Schroedinger bridge; started from pairs of rows, they are
iterative Markovian fitting, whose limit is the same (note of paper 3, sections 2.7 and 2.9). Each projection is one
training run with held-out paths, whose best weights count. A correction is made only where those paths confirm it:
where their losses fall by more than twice the standard error of the fall, row by row.
"""

__all__ = ["AlternatingConfig", "Projection", "project", "simulate_rows"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from girsanov.bridges.chain import BridgeChain, rows_at_once
from girsanov.bridges.ends import EndRows, Pairs, coupled_rows
from girsanov.bridges.halves import Half
from girsanov.bridges.matching import MatchingObjective, Paths, TrajectoryObjective
from girsanov.pairs import Direction
from girsanov.randomness import mix
from girsanov.training import Progress, ShuffledBatches, SilentProgress, TrainingConfig, train

HELD_OUT = 0.1  # of the rows of each end: paths are held out by row, since rows may start several paths
MOST_HELD = 10_000  # paths from held-out rows: enough to see small falls, and cheap to look at
VALIDATION_TIMES = 8  # fixed times for each held-out pair


@dataclass(frozen=True)
class AlternatingConfig:
    """How a bridge between two sets of rows is fitted.

    Attributes:
        rounds: alternations, each of one backward and one forward projection. The means' error falls by the squared
            correlation of the ends in each: from the reference, ends that are tied closely need six or more.
        steps: training steps of a projection.
        paths: paths simulated for a projection.
        batch_size: of training.
        learning_rate: peak rate.
        loss: ``matching`` needs only ends of paths; ``trajectory`` the likelihood of their steps.
        warm_start: ``independent`` or ``minibatch`` pairs of rows that both halves are matched to first.
        warm_steps: training steps of each half for that.
        ema_decay: of the averaged weights.
        patience: validations without improvement that end a projection.
        time_budget: seconds of training of each projection and of each mixture, at most.
        seed: keys everything random.
    """

    rounds: int = 3
    steps: int = 1500
    paths: int = 10_000
    batch_size: int = 512
    learning_rate: float = 1e-3
    loss: Literal["matching", "trajectory"] = "matching"
    warm_start: Literal["independent", "minibatch"] | None = None
    warm_steps: int = 3000
    ema_decay: float = 0.995
    patience: int | None = None
    time_budget: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Projection:
    """What one projection has reached.

    Attributes:
        round: number of the alternation, 0 for the warm start.
        direction: of the half that was fitted.
        before: held-out loss per dimension before it.
        after: and of the weights that were kept.
        accepted: whether held-out paths confirmed the new weights; else the earlier ones were kept.
        steps: training steps taken.
        seconds: spent in training.
    """

    round: int
    direction: Direction
    before: float
    after: float
    accepted: bool
    steps: int
    seconds: float


def project(
    chain: BridgeChain,
    start: EndRows,
    end: EndRows,
    config: AlternatingConfig,
    *,
    run: Path | None = None,
    progress: Progress | None = None,
    after_round: Callable[[int], None] | None = None,
    identity: str = "",
) -> list[Projection]:
    """Fit both halves of ``chain`` in place.

    Args:
        chain: the bridge.
        start: rows at t = 0.
        end: rows at the horizon.
        config: settings.
        run: folder for checkpoints, one for each projection; an interrupted fit goes on from there.
        progress: what shows the progress.
        after_round: called with the number of each alternation that has ended.
        identity: describes the rows and the bridge; a resume with another one is refused.
    """
    projecting, done = _Projecting(chain, config, run, progress, identity), []
    if config.warm_start is not None:
        held, kept = _coupled(start, end, config)
        for half in (chain.backward_half, chain.forward_half):
            done.append(projecting.match(half, held, kept, 0, config.warm_steps))
    for number in range(1, config.rounds + 1):
        for half, source in ((chain.backward_half, start), (chain.forward_half, end)):
            direction: Direction = "forward" if source is start else "backward"
            generator = torch.Generator().manual_seed(mix(config.seed, number, 1 if direction == "forward" else 2))
            held, kept = _paths(chain.eval(), source, direction, config, generator)
            chain.train()
            if config.loss == "matching":
                done.append(projecting.match(half, held.ends(), kept.ends(), number, config.steps))
            else:
                done.append(projecting.likelihood(half, held, kept, number))
        if after_round is not None:
            after_round(number)
    return done


def _coupled(start: EndRows, end: EndRows, config: AlternatingConfig) -> list[Pairs]:
    """Pairs of held-out rows and of the others, for the warm start."""
    assert config.warm_start is not None
    generator = torch.Generator().manual_seed(mix(config.seed, 0))
    first, second = (_split(rows, config.seed) for rows in (start, end))
    fewer = min(first[0], second[0], key=lambda rows: len(rows.x))
    counts = min(_held_paths(config.paths), len(fewer.x)), config.paths
    return [coupled_rows(a, b, n, config.warm_start, generator) for a, b, n in zip(first, second, counts, strict=True)]


def simulate_rows(
    chain: BridgeChain, rows: EndRows, direction: Direction, generator: torch.Generator, *, ends_only: bool = False
) -> Paths:
    """One path from each row of an end, in chunks; on request its two ends alone."""
    parts = []
    size = rows_at_once(rows.x)
    for begin in range(0, len(rows.x), size):
        given = None if rows.condition is None else rows.condition[begin : begin + size]
        x = rows.x[begin : begin + size]
        states = chain.simulate(x, direction, condition=given, generator=generator)
        parts.append(torch.stack((states[0], states[-1])) if ends_only else states)
    return Paths(torch.cat(parts, 1), rows.condition)


def _paths(
    chain: BridgeChain, rows: EndRows, direction: Direction, config: AlternatingConfig, generator: torch.Generator
) -> tuple[Paths, Paths]:
    """Paths from held-out rows and from the others."""
    found, counts = [], (_held_paths(config.paths), config.paths)
    for part, count in zip(_split(rows, config.seed), counts, strict=True):
        index, ends_only = part.index(count, generator), config.loss == "matching"
        paths = simulate_rows(chain, part[index], direction, generator, ends_only=ends_only)
        found.append(replace(paths, row=index))
    return found[0], found[1]


def _held_paths(paths: int) -> int:
    return max(2, min(MOST_HELD, int(HELD_OUT * paths)))


def _by_row(values: Tensor, row: Tensor | None) -> Tensor:
    """Means of the values of each row: paths from one row are not independent."""
    if row is None:
        return values
    _, number, count = row.unique(return_inverse=True, return_counts=True)
    return torch.zeros(len(count), dtype=values.dtype, device=values.device).index_add(0, number, values) / count


def _split(rows: EndRows, seed: int) -> tuple[EndRows, EndRows]:
    """The same rows are held out in every projection; weights and conditions go with their rows."""
    return rows.split(HELD_OUT, mix(seed, 6))


@dataclass(frozen=True)
class _Projecting:
    """What all projections of a fit share; a method for each loss."""

    chain: BridgeChain
    config: AlternatingConfig
    run: Path | None
    progress: Progress | None
    identity: str

    def match(self, half: Half, held: Pairs, kept: Pairs, number: int, steps: int) -> Projection:
        """Fit a half to the ends of paths."""
        objective, place = MatchingObjective(half), held.start.device
        generator = torch.Generator().manual_seed(mix(self.config.seed, number, 3))
        noise = [
            torch.randn(held.start.shape, generator=generator, dtype=held.start.dtype) for _ in range(VALIDATION_TIMES)
        ]
        offset = torch.rand(len(held), generator=generator, dtype=torch.float64)

        @torch.no_grad()
        def losses(module: nn.Module) -> Tensor:
            assert isinstance(module, Half)
            grid = ((i + offset) / VALIDATION_TIMES for i in range(VALIDATION_TIMES))
            each = [objective.errors(module, held, p, e.to(place)) for p, e in zip(grid, noise, strict=True)]
            return torch.stack(each).mean(0).double()

        return self.train(half, half, objective, kept, losses, held.row, number, steps)

    def likelihood(self, half: Half, held: Paths, kept: Paths, number: int) -> Projection:
        """Fit a half and its step variances to whole paths."""
        chain, objective = self.chain, TrajectoryObjective(half.direction)
        own = {id(p) for p in half.parameters()}
        offset = chain.encoder_log_variance if half.direction == "forward" else chain.decoder_log_variance
        trained = {name: p.requires_grad for name, p in chain.named_parameters()}
        for parameter in chain.parameters():
            parameter.requires_grad_(id(parameter) in own or parameter is offset)

        @torch.no_grad()
        def losses(module: nn.Module) -> Tensor:
            assert isinstance(module, BridgeChain)
            ks = (torch.full((len(held),), k) for k in range(module.length))
            return torch.stack([objective.errors(module, held, k) for k in ks]).mean(0).double()

        try:
            return self.train(chain, half, objective, kept, losses, held.row, number, self.config.steps)
        finally:
            for name, parameter in chain.named_parameters():
                parameter.requires_grad_(trained[name])

    def train(
        self, module: nn.Module, half: Half, objective: Any, kept: Any, losses: Callable[[nn.Module], Tensor],
        row: Tensor | None, number: int, steps: int,
    ) -> Projection:  # fmt: skip
        """One training run; its weights are kept where held-out losses fall clearly."""
        config, size = self.config, min(self.config.batch_size, len(kept))
        order = ShuffledBatches(len(kept), size, mix(config.seed, number, 4))
        training = TrainingConfig(
            steps=steps, batch_size=size, learning_rate=config.learning_rate, ema_decay=config.ema_decay,
            patience=config.patience, validate_every=max(1, steps // 10), time_budget=config.time_budget,
            seed=mix(config.seed, number, 5) % 2**31,
        )  # fmt: skip
        earlier = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        before, progress = losses(module.eval()), self.progress or SilentProgress()
        part = f"round {number} of {config.rounds}" if number else "pairs of rows"
        progress.stage(f"{part}, {half.direction}")
        result = train(
            module,
            objective,
            lambda step: kept[order(step)],
            config=training,
            validate=lambda averaged, step: -float(losses(averaged).mean()),
            run=None if self.run is None else self.run / f"round-{number}-{half.direction}",
            progress=progress,
            identity=f"{number} {half.direction} {len(kept)} {self.identity}",
        )
        after = losses(result.module)
        fall = _by_row(before - after, row)
        accepted = len(fall) > 1 and bool(fall.mean() > 2.0 * fall.std() / len(fall) ** 0.5)
        module.load_state_dict(result.module.state_dict() if accepted else earlier)
        values = float(before.mean()), float((after if accepted else before).mean())
        return Projection(number, half.direction, *values, accepted, result.step, round(result.seconds, 2))
