"""Saving and loading learned bridges: ``config.json``, ``model.safetensors`` and a manifest, never pickle."""

__all__ = ["BRIDGE", "blank_reference", "blank_sections", "bridge_card", "bridge_facts", "bridge_tensors", "describe"]

from collections.abc import Callable, Mapping
from typing import Any

import torch

from girsanov import processes
from girsanov.bridges.chain import BridgeChain
from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.halves import EndMoments
from girsanov.bridges.potentials import FlatPotentials, MixturePotentials, Potentials, QuadraticPotentials
from girsanov.bridges.sections import Sections, section_reference
from girsanov.densities import Density, Gaussian, GaussianMixture
from girsanov.display import counted, parameter_count
from girsanov.hub import Card
from girsanov.processes import LinearProcess
from girsanov.saved import ModelFolder
from girsanov.types import InputError

BRIDGE = ModelFolder("bridge")
UNITS = "Rows are in the units and the order of columns that the bridge was fitted to, which are not saved with it."
SETTINGS = {  # what each reference is made of
    "BrownianMotion": ("sigma",),
    "OrnsteinUhlenbeck": ("beta",),
    "VariancePreserving": ("beta_min", "beta_max"),
    "SubVariancePreserving": ("beta_min", "beta_max"),
    "VarianceExploding": ("sigma_min", "sigma_max"),
}


def bridge_facts(
    reference: LinearProcess, event_shape: torch.Size, steps: int, fitted: Sections | None
) -> dict[str, str]:
    """What a bridge is made of, and what it joins once it is fitted."""
    found = {"reference": type(reference).__name__, "rows": f"of {' × '.join(map(str, event_shape))} numbers"}
    found |= {"steps": f"{steps} between two times"}
    if fitted is None:
        return found
    end = "rows of the last time" if fitted.prior is None else f"{type(fitted.prior).__name__}, a known law"
    return found | {
        "times": ", ".join(f"{t:g}" for t in fitted.times),
        "joins": f"rows of the first time and {end}",
        "networks": counted(parameter_count(fitted), "parameter"),
    }


def bridge_card(facts: Mapping[str, str], event_shape: torch.Size, bounded: bool) -> Card:
    """The card of a saved bridge.

    Args:
        facts: of the bridge, by name.
        event_shape: of a row.
        bounded: whether its end is a law whose density is known.
    """
    usage = (
        "import torch\nimport girsanov as gv\n\nbridge = gv.SchrodingerBridge.from_pretrained({source!r})\n"
        f"rows = torch.zeros(8, {', '.join(map(str, event_shape))})\n"
        "print(bridge.sample(rows, direction='forward').shape)"
    )
    bound = {"bridge.elbo(x)": "lower bounds on the log-density of the chain that draws rows of the first time"}
    none = "It joins rows to rows: the density of neither end is known, so that it has no likelihood."
    return Card(
        "A Schroedinger bridge",
        "It moves rows of one law to another and back, by the paths that stray least from its reference.",
        usage,
        facts=facts,
        likelihoods=bound if bounded else {},
        notes=[UNITS] if bounded else [none, UNITS],
        tags=["schrodinger-bridge", "optimal-transport"],
    )


def bridge_tensors(bridge: Sections) -> dict[str, torch.Tensor]:
    """All tensors by name: networks and scales once, potentials of each section, the prior."""
    found: dict[str, torch.Tensor] = {}
    for i in range(len(bridge)):
        state = bridge[i].state_dict(keep_vars=False)
        found |= {f"chain{i}.{name}": tensor for name, tensor in state.items() if not name.startswith("prior.")}
        found |= {f"potentials{i}.{k}": v for k, v in bridge[i].forward_half.potentials.state_dict().items()}
    if bridge.prior is not None:
        found |= {f"prior.{name}": tensor for name, tensor in bridge.prior.state_dict().items()}
    return found


def describe(bridge: Sections) -> dict[str, Any]:
    """Everything but the tensors, as JSON.

    Raises:
        InputError: if the reference or the prior cannot be described.
    """
    name = type(bridge.reference).__name__
    if name not in SETTINGS:
        raise InputError(f"A bridge over {name} cannot be saved: use one of {', '.join(SETTINGS)}")
    return {
        "reference": {"name": name, "config": {key: getattr(bridge.reference, key) for key in SETTINGS[name]}},
        "event_shape": list(bridge.event_shape),
        "times": bridge.times,
        "prior": None if bridge.prior is None else _describe_density(bridge.prior),
        "potentials": [_describe_potentials(bridge[i]) for i in range(len(bridge))],
    }


def _describe_potentials(chain: BridgeChain) -> dict[str, Any]:
    potentials = chain.forward_half.potentials
    if isinstance(potentials, MixturePotentials):
        laws = {"start": _describe_density(potentials.start), "end": _describe_density(potentials.end)}
        return {"name": "mixture", **laws}
    return {"name": "quadratic" if isinstance(potentials, QuadraticPotentials) else "flat"}


def _describe_density(law: Density) -> dict[str, Any]:
    if isinstance(law, Gaussian):
        rank = -1 if law.basis is None else len(law.eigenvalues)
        return {"name": "gaussian", "rank": rank}
    if isinstance(law, GaussianMixture):
        return {"name": "mixture", "components": len(law.weights), "full": law.bases is not None}
    raise InputError(f"A prior of type {type(law).__name__} cannot be saved: use a Gaussian or a GaussianMixture")


def blank_reference(description: dict[str, Any]) -> LinearProcess:
    """The reference."""
    spec = description["reference"]
    if spec["name"] not in SETTINGS:
        raise KeyError(spec["name"])
    return getattr(processes, spec["name"])(**spec["config"])


def blank_sections(
    description: dict[str, Any],
    reference: LinearProcess,
    chain: Callable[[LinearProcess, Potentials, EndMoments, Density | None], BridgeChain],
) -> Sections:
    """A fitted bridge before its tensors are filled in.

    Args:
        description: as :func:`describe` makes it.
        reference: of the bridge.
        chain: makes a section's chain of its reference, potentials, scales and prior.
    """
    shape, times = torch.Size(description["event_shape"]), list(description["times"])
    prior = None if description["prior"] is None else _blank_density(description["prior"], shape)
    zeros, ones = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    chains = []
    for i, entry in enumerate(description["potentials"]):
        process = section_reference(reference, times, i)
        potentials = _blank_potentials(entry, process, shape)
        chains.append(chain(process, potentials, EndMoments(zeros, ones, zeros, ones), prior))
    return Sections(reference, times, chains, prior)


def _blank_potentials(entry: dict[str, Any], process: LinearProcess, shape: torch.Size) -> Potentials:
    if entry["name"] == "flat":
        return FlatPotentials()
    if entry["name"] == "quadratic":
        standard = Gaussian(torch.zeros(shape, dtype=torch.float64), torch.eye(shape.numel(), dtype=torch.float64))
        return QuadraticPotentials(GaussianBridge(process, standard, standard))
    start, end = (_blank_density(entry[name], shape) for name in ("start", "end"))
    assert isinstance(start, GaussianMixture)
    assert isinstance(end, GaussianMixture)
    return MixturePotentials(process, start, end)


def _blank_density(entry: dict[str, Any], shape: torch.Size) -> Density:
    d = shape.numel()
    if entry["name"] == "gaussian":
        rank = entry["rank"]
        basis = None if rank < 0 else torch.zeros(d, rank)
        return Gaussian.from_spectrum(torch.zeros(shape), basis, torch.ones(d if rank < 0 else rank))
    count = entry["components"]
    covariances = torch.eye(d).expand(count, d, d) if entry["full"] else torch.ones(count, *shape)
    return GaussianMixture(torch.ones(count), torch.zeros(count, *shape), covariances)
