"""How many training steps of a bridge fit into a time budget: a few steps are timed before the fit."""

__all__ = ["planned_steps"]

import dataclasses
import time

import torch

from girsanov.bridges import SchrodingerBridge
from girsanov.bridges.ends import Pairs
from girsanov.bridges.joint import JointObjective
from girsanov.bridges.matching import MatchingObjective
from girsanov.bridges.recipe import middle_seconds
from girsanov.densities import StandardNormal
from girsanov.objectives import Batch
from girsanov.runs.bridge_config import BridgeConfig, CommonBridgeConfig
from girsanov.types import State

STEPS, JOINT_STEPS, LEAST = 1500, 2000, 20
VALIDATION = 13  # evaluations of the network per path, of the held-out paths of a projection
ROWS = 256


def planned_steps(blank: SchrodingerBridge, rows: list[State], config: CommonBridgeConfig) -> int:
    """Training steps of a projection, or of the joint fit where there is one end.

    Args:
        blank: a bridge of the same size, which is fitted here.
        rows: of each end, in the bridge's units.
        config: settings.
    """
    if config.time_budget is None:
        return config.steps or (STEPS if isinstance(config, BridgeConfig) else JOINT_STEPS)
    end = time.monotonic() + config.time_budget
    if not isinstance(config, BridgeConfig):
        step = _joint_step(blank, rows[0], config)
        # half of as many steps of the decoder alone come before the joint ones, and cost little beside them
        return max(LEAST, int(0.9 * (end - time.monotonic()) / step))
    step, evaluation = _projection_costs(blank, rows, config)
    assert config.paths is not None
    assert config.rounds is not None
    fixed = config.paths * (config.chain_steps + VALIDATION) * evaluation
    projections = 2 * (config.rounds + (config.warm_start == "minibatch"))
    return max(LEAST, int(((end - time.monotonic()) / projections - fixed) / step))


def _projection_costs(blank: SchrodingerBridge, rows: list[State], config: BridgeConfig) -> tuple[float, float]:
    """Seconds of a training step and of one evaluation of the network."""
    blank.start, blank.alternating = "reference", dataclasses.replace(blank.alternating, rounds=0, warm_start=None)
    blank.fit(*(x[:ROWS] for x in rows))
    chain = blank.sections[0]
    count = min(len(rows[0]), len(rows[1]), config.batch_size)
    pairs, generator = Pairs(rows[0][:count], rows[1][:count]), torch.Generator().manual_seed(0)
    half = chain.forward_half
    objective, x = MatchingObjective(half), rows[0][:ROWS]
    step = middle_seconds(lambda: objective(half, pairs, generator, 0).mean().backward()) * config.batch_size / count
    return step, middle_seconds(lambda: blank.sample(x)) / (len(x) * config.chain_steps)


def _joint_step(blank: SchrodingerBridge, rows: State, config: CommonBridgeConfig) -> float:
    """Seconds of a step of both halves."""
    blank.joint = dataclasses.replace(blank.joint, steps=1, warm_steps=0)
    blank.fit(rows, prior=StandardNormal())
    objective, batch = JointObjective(lambda step: 0.0, path_gradients=True), Batch(rows[: config.batch_size], None)
    chain, generator = blank.sections[0], torch.Generator().manual_seed(0)
    seconds = middle_seconds(lambda: objective(chain, batch, generator, 0).mean().backward())
    return seconds * config.batch_size / len(batch.x)
