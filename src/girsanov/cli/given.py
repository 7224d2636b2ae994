"""What rows are conditioned on, as options of the commands that evaluate them."""

__all__ = ["Given", "conditioned"]

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from girsanov.cli.options import Common
from girsanov.cli.output import UsageError


@dataclass(frozen=True)
class Given:
    """What likelihoods are conditioned on."""

    panel: ClassVar[str] = "Evaluation"
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Given this class; a number for diffusers.")
    ] = None
    own_class: Annotated[bool, typer.Option("--own-class", help="Every row given its own class.")] = False
    condition: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Given numbers, one condition for every row or one for all.")
    ] = None

    def described(self) -> str | None:
        """For results; ``None`` without a condition."""
        if self.label is not None:
            return f"class {self.label}"
        return "its own class" if self.own_class else None if self.condition is None else str(self.condition)


def conditioned(model: Any, rows: Any, given: Given, common: Common) -> tuple[Any, Any]:
    """The rows asked for and their condition, on the model's device."""
    from girsanov.adapters.diffusers import DiffusersNetwork
    from girsanov.runs import condition_of

    network = model.score.network
    needs = isinstance(network, DiffusersNetwork) and network.required and network.null_class is None
    if needs and given.described() is None:
        raise UsageError("this network is conditional: give --class, --own-class or --condition")
    condition = condition_of(model, rows, label=given.label, own_class=given.own_class, file=given.condition)
    few = rows.first(common.limit)
    if condition is not None:
        condition = condition[: max(1, len(few))]
    return few, condition
