r"""Finding network and scheduler in a pipeline, a folder or pieces; no code is ever loaded from disk.

Classes are looked up by name in the installed diffusers alone, and weights are read from safetensors, or from pickled
files that hold tensors and nothing else. A network of a class that diffusers does not have is passed by the caller.
"""

__all__ = ["Parts", "find_parts", "import_diffusers", "is_diffusers_folder", "quiet"]

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from girsanov.types import InputError

NETWORKS = ("unet", "transformer", "prior")
KINDS = ("json", "safetensors")
STEM = "diffusion_pytorch_model"
#: weights as diffusers writes them: in one file or several, of a variant such as fp16
WEIGHTS = re.compile(rf"{STEM}(-\d+-of-\d+)?(\.(?P<variant>[a-z]\w*?))?(-\d+-of-\d+)?\.(?P<kind>safetensors|bin)")
MODEL_INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"


@dataclass(frozen=True)
class Parts:
    """What a pretrained model is made of.

    Attributes:
        network: predicts.
        scheduler: says what the prediction means.
    """

    network: nn.Module
    scheduler: Any


def import_diffusers() -> Any:
    """The diffusers package.

    Raises:
        InputError: if it is not installed.
    """
    try:
        with quiet():
            return import_module("diffusers")
    except ImportError as error:
        raise InputError('This needs diffusers: pip install "girsanov[diffusers]"') from error


def is_diffusers_folder(folder: str | Path) -> bool:
    """Whether a folder holds a diffusers pipeline or network, by its files alone.

    Example:
        >>> is_diffusers_folder("no/such/folder")
        False
    """
    folder = Path(folder)
    if (folder / MODEL_INDEX).is_file():
        return True
    path = folder / CONFIG
    try:
        return path.is_file() and "_class_name" in _json(path)
    except InputError:
        return False


def find_parts(source: Any, scheduler: Any = None, unet: nn.Module | None = None, variant: str | None = None) -> Parts:
    """Network and scheduler of whatever the caller has.

    Args:
        source: a network, a pipeline, a folder or a Hugging Face id of either.
        scheduler: a scheduler or the folder of one; default the pipeline's own.
        unet: the network, where the folder's is of a class that diffusers does not have.
        variant: of the weights, such as ``fp16``, where a folder has several.

    Raises:
        InputError: if one of the two is missing or cannot be read.
    """
    diffusers = import_diffusers()
    if isinstance(source, str | Path):
        network, found = _from_folder(
            _folder(source), variant if unet is None else unet, diffusers, wanted=scheduler is None
        )
    elif isinstance(source, nn.Module):
        network, found = source, None
    elif hasattr(source, "components"):
        network, found = unet or _component(source), getattr(source, "scheduler", None)
    else:
        raise InputError(f"Expected a network, a pipeline or a folder; got {type(source).__name__}")
    scheduler = found if scheduler is None else scheduler
    if isinstance(scheduler, str | Path):
        scheduler = _load_scheduler(Path(scheduler), diffusers)
    if not isinstance(network, nn.Module):
        raise InputError(f"The network must be a torch.nn.Module; got {type(network).__name__}: wrap it in one")
    if scheduler is None:
        raise InputError("A network alone does not say what it predicts: pass the scheduler that it was trained with")
    if not hasattr(scheduler, "config"):
        raise InputError(f"Expected a diffusers scheduler; got {type(scheduler).__name__}")
    return Parts(network, scheduler)


def _component(pipeline: Any) -> nn.Module:
    _refuse_experts(pipeline.components)
    for name in NETWORKS:
        if isinstance(getattr(pipeline, name, None), nn.Module):
            return getattr(pipeline, name)
    raise InputError(f"{type(pipeline).__name__} has none of {', '.join(NETWORKS)}: pass the network and its scheduler")


def _refuse_experts(components: Any) -> None:
    if components.get("transformer_2") or components.get("unet_2"):
        raise InputError(
            "This pipeline switches between two networks: pass one of them and limit log_snr_range to its part"
        )


def _from_folder(folder: Path, given: Any, diffusers: Any, *, wanted: bool) -> tuple[nn.Module, Any]:
    """Network and scheduler; ``given`` is the network itself, or the variant of its weights."""
    if (folder / MODEL_INDEX).is_file():
        index = {name: entry for name, entry in _json(folder / MODEL_INDEX).items() if isinstance(entry, list)}
        _refuse_experts({name: entry[0] for name, entry in index.items()})
        name = next((name for name in NETWORKS if index.get(name, [None])[0]), None)
        if not isinstance(given, nn.Module) and name is None:
            raise InputError(f"{folder} has none of {', '.join(NETWORKS)}: pass the network and its scheduler")
        network = _load_network(folder / str(name), given, diffusers)
        return network, _load_scheduler(folder / "scheduler", diffusers) if wanted else None
    places = [folder / "scheduler", folder, *([folder.parent / "scheduler"] if folder.name in NETWORKS else [])]
    beside = next((path for path in places if (path / SCHEDULER_CONFIG).is_file()), None)
    network = _load_network(folder, given, diffusers)
    return network, _load_scheduler(beside, diffusers) if wanted and beside is not None else None


def _load_network(folder: Path, given: Any, diffusers: Any) -> Any:
    """The network of a folder, unless it was given itself."""
    if given is not None and not isinstance(given, str):
        return given
    cls = _class(_json(folder / CONFIG).get("_class_name"), "ModelMixin", folder, diffusers)
    kind, variant = _weights(folder, given)
    try:
        with quiet():
            thrifty = find_spec("accelerate") is not None  # without it diffusers would only complain
            options = {"local_files_only": True, "low_cpu_mem_usage": thrifty, "variant": variant}
            return cls.from_pretrained(str(folder), use_safetensors=kind == "safetensors", **options)
    except Exception as error:  # whatever the loader meets in a damaged folder
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"{folder}: cannot be loaded ({reason}): check that config and weights are complete"
        ) from error


def _weights(folder: Path, variant: str | None) -> tuple[str, str | None]:
    """Which files to read: safetensors before pickled ones, the plain ones before the only variant."""
    matches = [match for path in sorted(folder.iterdir()) if (match := WEIGHTS.fullmatch(path.name))]
    found = {(match["kind"], match["variant"]) for match in matches}
    variants = sorted({name for _, name in found if name is not None})
    for kind in ("safetensors", "bin"):
        of_kind = {name for own, name in found if own == kind}
        chosen = variant if variant is not None or None in of_kind else next(iter(of_kind), None)
        if chosen in of_kind:
            if variant is None and None not in of_kind and len(of_kind) > 1:
                raise InputError(f"{folder} has weights of several variants: pass variant= of {', '.join(variants)}")
            if kind == "bin":
                _require_tensors([folder / match.string for match in matches if match["kind"] == kind])
            return kind, chosen
    there = f"the variants {', '.join(variants)}" if variants else "none"
    wanted = STEM if variant is None else f"{STEM} of the variant {variant!r}"
    raise InputError(f"{folder}: cannot be loaded (no weights called {wanted}.safetensors or .bin; there are {there})")


def _require_tensors(paths: list[Path]) -> None:
    """Refuse pickled files that hold anything but tensors, before anything else reads them."""
    for path in paths:
        try:
            torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # whatever a file may be
            raise InputError(
                f"{path} holds more than tensors, or is damaged: load it yourself, if you trust it, and pass unet="
            ) from error


def _load_scheduler(folder: Path, diffusers: Any) -> Any:
    if not (folder / SCHEDULER_CONFIG).is_file() and (folder / "scheduler" / SCHEDULER_CONFIG).is_file():
        folder = folder / "scheduler"
    name = _json(folder / SCHEDULER_CONFIG).get("_class_name")
    cls = _class(name, "SchedulerMixin", folder, diffusers)
    with quiet():
        return cls.from_pretrained(str(folder), local_files_only=True)


def _class(name: Any, kind: str, folder: Path, diffusers: Any) -> Any:
    """A class of the installed diffusers, by name."""
    with quiet():
        cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(cls, type) or not issubclass(cls, getattr(diffusers, kind)):
        what = "the network as unet=" if kind == "ModelMixin" else "the scheduler"
        raise InputError(f"{folder} holds a {name}, which diffusers does not have: build it yourself and pass {what}")
    return cls


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): check the folder") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: check the folder")
    return content


def _folder(source: str | Path) -> Path:
    """A local folder; an id of Hugging Face is downloaded, pickled weights only where there are no others."""
    folder, name = Path(source), str(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(
            f"{folder} is one file of weights, which does not say what network it is of: build the network, load the "
            "weights into it, and pass it with its scheduler"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{folder}: no such folder; give a pipeline's or network's folder, or a Hugging Face id")
    from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]  # comes with diffusers

    wanted = [f"{part}*.{kind}" for part in ("", "scheduler/", *(f"{n}/" for n in NETWORKS)) for kind in KINDS]
    try:
        found = Path(snapshot_download(name, allow_patterns=wanted))
        if not any(found.rglob("*.safetensors")):
            pickled = [f"{part}{STEM}*.bin" for part in ("", *(f"{n}/" for n in NETWORKS))]
            found = Path(snapshot_download(name, allow_patterns=[*wanted, *pickled]))
        return found
    except Exception as error:
        raise InputError(f"{name}: cannot be downloaded ({error}); check the name and the network") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Deprecations inside diffusers and what it imports are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
