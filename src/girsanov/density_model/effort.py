r"""What a time budget buys: seconds for the network, and for images a width that they can train.

Both are decided once and kept in the folder of the fit, so that a resumed run is the same, whatever the clock says
then. A width is chosen by measuring: some steps of every candidate on noise, where the fit will run. A wider network is
better after many images and worse after few, :data:`IMAGES` of which it has to see.
"""

__all__ = ["Effort", "allowance", "batch_size", "within_budget"]

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from girsanov.density_model.config import FitConfig
from girsanov.density_model.networks import habits, suited
from girsanov.files import read_json, write_json
from girsanov.networks import ImageConfig, Signature
from girsanov.types import InputError

#: width of an image network -> images that it must be able to see in the time
IMAGES: Mapping[int, int] = {32: 0, 64: 20_000, 96: 1_200_000}
MAPS = Signature(inputs=4, outputs=17)  # those of the head of levels
TIMED_ROWS, TIMED_STEPS = 16, 3
BESIDE = 1.3  # a whole step in those of the network alone: head, optimiser, averages, validations
KEPT = "allowance.json"


@dataclass(frozen=True)
class Effort:
    """What was chosen for a budget.

    Attributes:
        width: of the network.
        batch: rows per step.
        images: that the training is expected to see.
        rows: of the training.
    """

    width: int
    batch: int
    images: int
    rows: int

    def sentence(self, seconds: float, twice: "Effort") -> str:
        """What was chosen, and what twice the time would buy.

        Example:
            >>> Effort(64, 64, 90_000, 60_000).sentence(215.0, Effort(96, 64, 120_000, 60_000))[52:]
            'some 1,400 steps (1.5 epochs). Twice the time would buy width 96 and some 1,900 steps (2 epochs).'
        """
        wider = f"width {twice.width} and " if twice.width != self.width else ""
        return (
            f"In about {seconds:.0f} s: network of width {self.width}, batches of {self.batch}, {self._steps}. "
            f"Twice the time would buy {wider}{twice._steps}."
        )

    @property
    def _steps(self) -> str:
        return f"some {_rounded(self.images / self.batch):,} steps ({self.images / self.rows:.2g} epochs)"


def batch_size(config: FitConfig, event_shape: Any) -> int:
    """Rows per step and member: those of the settings, or what suits the network."""
    return config.batch_size or habits(suited(config, event_shape)).batch_size(event_shape)


def within_budget(
    config: FitConfig, event_shape: Any, rows: int, out: Path | None, device: torch.device
) -> tuple[FitConfig, str]:
    """The settings with a width that the budget can train, and a sentence about it; others stay, with none.

    Args:
        config: of the fit.
        event_shape: of a row.
        rows: number of training rows.
        out: folder of the fit, where what was decided is kept.
        device: where the network will be trained.
    """
    kind, seconds = suited(config, event_shape), config.time_budget
    if seconds is None or not isinstance(kind, ImageConfig) or kind.width is not None:
        return config, ""
    known = _kept(out)
    if "width" in known:
        return dataclasses.replace(config, network=dataclasses.replace(kind, width=known["width"])), ""
    batch = batch_size(config, event_shape)
    costs = {width: _seconds_per_image(width, event_shape, device) for width in IMAGES}
    chosen, twice = (_chosen(costs, share * seconds, batch, rows) for share in (1.0, 2.0))
    _keep(out, {"width": chosen.width})
    network = dataclasses.replace(kind, width=chosen.width)
    return dataclasses.replace(config, network=network), chosen.sentence(seconds, twice)


def _chosen(costs: Mapping[int, float], seconds: float, batch: int, rows: int) -> Effort:
    """The widest network that sees enough images."""
    seen = {width: int(seconds / (BESIDE * cost)) for width, cost in costs.items()}
    width = max(width for width, images in seen.items() if images >= IMAGES[width])
    return Effort(width, batch, seen[width], rows)


def _seconds_per_image(width: int, event_shape: Any, device: torch.device) -> float:
    """Of a forward and a backward pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = ImageConfig(width=width)
        network = kind.network(event_shape, MAPS, **kind.arguments(TIMED_ROWS)).to(device).train()
        features = torch.randn(TIMED_ROWS, MAPS.inputs, *event_shape, device=device)
        levels, spent = torch.zeros(TIMED_ROWS, device=device), []
        for _ in range(TIMED_STEPS):
            begun = time.monotonic()
            network(levels, features, None).square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent.append(time.monotonic() - begun)
    return min(spent) / TIMED_ROWS


def allowance(time_budget: float | None, left: float, out: Path | None) -> float | None:
    """Seconds for the network, decided once: a resumed run loads what the first one had to compute before.

    Args:
        time_budget: of the fit.
        left: of it now.
        out: folder of the fit, where what was decided is kept.
    """
    if time_budget is None:
        return None
    known = _kept(out)
    if known.get("time_budget") == time_budget:
        return float(known["network"])
    left = max(left, 0.1 * time_budget)
    _keep(out, {"time_budget": time_budget, "network": left})
    return left


def _kept(out: Path | None) -> dict[str, Any]:
    path = None if out is None else out / KEPT
    return {} if path is None or not path.exists() else read_json(path)


def _keep(out: Path | None, values: dict[str, Any]) -> None:
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write in {out} ({error.strerror}): choose another folder") from error
    write_json(out / KEPT, _kept(out) | values)


def _rounded(number: float) -> int:
    """To two digits."""
    return int(float(f"{number:.2g}"))
