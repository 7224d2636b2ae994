r"""A diffusers network behind our calling convention: ``(log_snr, z, condition) -> noise prediction``.

The network is called with its own input scale and timestep and its output is read by the scheduler's convention;
no method of the scheduler is used, since those are stateful or know only the timesteps of a sampling grid. What the
network itself needs to be called is found by its class, settings and signature, or told by ``call``.
"""

__all__ = ["CalledNetwork", "DiffusersNetwork", "PretrainedHead", "told_guidance"]

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.adapters.conventions import Convention
from girsanov.adapters.diffusers.readings import Reading
from girsanov.networks.heads import Head, NetworkCall
from girsanov.types import InputError, State

Call = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Any]  #: ``(network, input, timestep, condition) -> output``

HALF = (torch.float16, torch.bfloat16)
ROUNDED = "Timesteps are rounded to whole ones: the network's time embedding is a table."
CLASSES, STATES = "class_labels", "encoder_hidden_states"
INPUTS = ("sample", "hidden_states")
EXPECTED = (CLASSES, STATES, *INPUTS, "timestep")
OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *args and **kwargs, under any name

#: what the pipelines of some families do around their network, to be repeated in ``call``
FAMILIES = {
    "FluxTransformer2DModel": "its pipeline passes timestep / 1000",
    "QwenImageTransformer2DModel": "its pipeline passes timestep / 1000",
    "ChromaTransformer2DModel": "its pipeline passes timestep / 1000",
    "LuminaNextDiT2DModel": "its pipeline passes 1 - timestep / 1000 and negates the output",
    "Lumina2Transformer2DModel": "its pipeline passes 1 - timestep / 1000 and negates the output",
    "ZImageTransformer2DModel": "its pipeline passes 1 - timestep / 1000 and negates the output",
    "HiDreamImageTransformer2DModel": "its pipeline negates the output",
    "NucleusMoEImageTransformer2DModel": "its pipeline negates the output",
    "MochiTransformer3DModel": "its pipeline passes 1000 - timestep",
}


class CalledNetwork(nn.Module):
    """Calls a diffusers network as its pipeline's loop does.

    Args:
        network: takes an input ``b c *s`` and timesteps ``b``.
        call: how to call it, ``(network, input, timestep, condition) -> output``; default by its signature.
        fractional: whether timesteps may lie between the training steps; else they are rounded. Default: unless its
            embedding is a table of integers.
        null_class: the label that means "no label", for networks that were trained with one.

    Raises:
        InputError: if the network cannot be called like this.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        call: Call | None = None,
        fractional: bool | None = None,
        null_class: int | None = None,
    ) -> None:
        super().__init__()
        self.low_dtype = next((p.dtype for p in network.parameters() if p.dtype in HALF), None)
        if self.low_dtype is not None:
            # comes first, so that likelihoods work in single precision around the network
            self.precision = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.network = network
        self.call = call
        self.slot = None if call else _condition_slot(network)
        self.required = self.slot is not None and _required(network, self.slot)
        self.state_name = None if call else _state_name(network)
        self.fractional = _takes_fractions(network) if fractional is None else fractional
        self.null_class = null_class if null_class is not None else _null_class(network)
        self.labels = _label_count(network, self.null_class) if self.slot == CLASSES else 0

    def answer(self, x: State, timestep: Tensor, condition: Tensor | None = None) -> State:
        """What the network returns for its own input ``b c *s`` and timesteps ``b``, in the precision of ``x``."""
        given = x.to(self.low_dtype or x.dtype)
        if not self.fractional and timestep.is_floating_point():
            timestep = timestep.round().long()
        if self.call is not None:
            return _tensor(self.call(self.network, given, timestep, condition)).to(x.dtype)
        condition = self._given(len(x), condition, x.device)
        options: dict[str, Any] = {} if condition is None else {str(self.slot): condition}
        return _tensor(self.network(**{str(self.state_name): given, "timestep": timestep}, **options)).to(x.dtype)

    def _given(self, n: int, condition: Tensor | None, device: torch.device) -> Tensor | None:
        """The condition as the network takes it, one per row; labels below 0 mean "no label"."""
        if condition is None and not self.required:
            return None
        if self.slot is None:
            raise InputError("This network takes no condition: leave it out, or pass call= to say how it is used")
        if condition is None:
            if self.slot == STATES or self.null_class is None:
                what = "labels" if self.slot == CLASSES else "embeddings (n or 1, tokens, dim)"
                raise InputError(f"This network is conditional: pass condition= with its {what}, or null_class= once")
            condition = torch.full((n,), self.null_class, device=device)
        if self.slot == CLASSES and self.null_class is not None and not condition.is_floating_point():
            condition = torch.where(condition < 0, self.null_class, condition)
        if condition.is_floating_point() and self.low_dtype is not None:
            condition = condition.to(self.low_dtype)
        return condition.expand(n, *condition.shape[1:])


class DiffusersNetwork(CalledNetwork):
    """Calls a diffusers network at a log-SNR and returns a noise prediction.

    Args:
        network: takes an input ``b c *s`` and timesteps ``b``.
        convention: what goes in and what comes out.
        call: how to call it, ``(network, input, timestep, condition) -> output``; default by its signature.
        fractional: whether timesteps may lie between the training steps; else they are rounded, which stays a valid
            model, with a somewhat looser bound. Default: unless its embedding is a table of integers.
        null_class: the label that means "no label", for networks that were trained with one.

    Attributes:
        notes: sentences about what is approximate or untested in how the network is used; ``standing`` of them hold
            whatever is tested.

    Raises:
        InputError: if the network cannot be called like this, or is no score.
    """

    def __init__(
        self,
        network: nn.Module,
        convention: Reading,
        *,
        call: Call | None = None,
        fractional: bool | None = None,
        null_class: int | None = None,
    ) -> None:
        _refuse_guided(network)
        super().__init__(network, call=call, fractional=fractional, null_class=null_class)
        self.convention = convention
        self.arguments: tuple[str, str] = ("x", "timestep")
        self.standing: tuple[str, ...] = () if self.fractional else (ROUNDED,)
        self.notes: tuple[str, ...] = self.standing
        self.scheduler: Any = None

    def forward(self, log_snr: Tensor, z: State, condition: Tensor | None = None) -> State:
        """Noise prediction at variance-preserving ``z`` ``b c *s`` and levels ``b``."""
        return self.convention.noise(log_snr, z, self.output(log_snr, z, condition))

    def output(
        self, log_snr: Tensor, z: State, condition: Tensor | None = None, convention: Convention | None = None
    ) -> State:
        """What the network itself returns there, without variances, by its own convention or another."""
        convention = convention or self.convention
        shown, timestep = convention.inputs(log_snr, z, whole=not self.fractional)
        output = self.answer(shown.to(z.dtype), timestep, condition)
        if output.ndim == z.ndim and output.shape[1] == 2 * z.shape[1]:
            output = output[:, : z.shape[1]]  # the rest are variances, which only a discrete chain uses
        if output.shape != z.shape:
            raise InputError(
                f"The network returns shape {tuple(output.shape)} for an input of shape {tuple(z.shape)}: "
                "give the rows the shape that it was trained on"
            )
        return output


class PretrainedHead(Head):
    """Compares a network that predicts the noise itself with a Gaussian reference."""

    inputs = outputs = 0

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.reference: Any = reference

    def deviation(self, network: NetworkCall, log_snr: Tensor, z: State, noise: State | None = None) -> State:
        return network(z) - (self.reference.noise(log_snr, z) if noise is None else noise)

    def silent(self, log_snr: Tensor, features: Tensor) -> Tensor:
        """The reference's own prediction."""
        return self.reference.noise(log_snr, features)


def setting(network: nn.Module, name: str) -> Any:
    """An entry of a network's configuration, ``None`` where it has none."""
    config: Any = getattr(bare(network), "config", None)
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output.sample if hasattr(output, "sample") else output[0]


def told_guidance(network: nn.Module) -> bool:
    """Whether the network was distilled to take a guidance scale as an input."""
    return bool(setting(network, "guidance_embeds") or setting(network, "time_cond_proj_dim"))


def _refuse_guided(network: nn.Module) -> None:
    """Networks that were told a guidance scale predict no score."""
    if told_guidance(network):
        name = type(bare(network)).__name__
        raise InputError(f"This {name} was distilled with guidance, so it is no score: load the one it came from")


def bare(network: nn.Module) -> nn.Module:
    """The network itself, inside what ``torch.compile`` or data parallelism put around it."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return bare(network.module)
    inner = getattr(network, "_orig_mod", None)
    return bare(inner) if isinstance(inner, nn.Module) else network


def _parameters(network: nn.Module) -> dict[str, inspect.Parameter]:
    """What the network's ``forward`` can be given by name."""
    try:
        found = inspect.signature(bare(network).forward).parameters.values()
    except (TypeError, ValueError):  # compiled code without a signature
        return {}
    return {p.name: p for p in found if p.kind not in (*OPEN, p.POSITIONAL_ONLY)}


def _state_name(network: nn.Module) -> str:
    """How the network calls its input; refuses what it needs beyond input, timestep and one condition."""
    parameters = _parameters(network)
    name = type(bare(network)).__name__
    more = [p.name for p in parameters.values() if p.default is p.empty and p.name not in EXPECTED]
    if setting(network, "addition_embed_type"):
        more.append("added_cond_kwargs")
    if _has_classes(network) and STATES in parameters and parameters[STATES].default is inspect.Parameter.empty:
        more.append(f"{CLASSES} and {STATES}")
    state = next((p for p in parameters if p in INPUTS), None)
    if not more and state is not None and "timestep" in parameters:
        return state
    hint = f" ({FAMILIES[name]})" if name in FAMILIES else ""
    needs = f"also needs {', '.join(more)}{hint}" if more else "does not take sample and timestep by name"
    raise InputError(f"{name} {needs}: pass call=, a function of (network, input, timestep, condition)")


def _condition_slot(network: nn.Module) -> str | None:
    """The argument that takes the condition."""
    parameters = _parameters(network)
    if _has_classes(network):
        return CLASSES
    if STATES in parameters and (
        parameters[STATES].default is inspect.Parameter.empty
        or setting(network, "cross_attention_dim")
        or setting(network, "caption_channels")
    ):
        return STATES
    known = hasattr(bare(network), "class_embedding") or setting(network, "num_embeds_ada_norm") is not None
    return CLASSES if CLASSES in parameters and not known and STATES not in parameters else None


def _has_classes(network: nn.Module) -> bool:
    """Whether the network has an embedding of class labels."""
    if getattr(bare(network), "class_embedding", None) is not None:
        return True
    return CLASSES in _parameters(network) and setting(network, "norm_type") == "ada_norm_zero"


def _required(network: nn.Module, slot: str) -> bool:
    return slot == STATES or _has_classes(network)


def _null_class(network: nn.Module) -> int | None:
    """DiT keeps one more label for "none"; other networks have no convention."""
    return setting(network, "num_embeds_ada_norm") if setting(network, "norm_type") == "ada_norm_zero" else None


def _label_count(network: nn.Module, null_class: int | None) -> int:
    """Number of labels by the network's settings, that for "none" aside; 0 where they are no plain labels."""
    count = setting(network, "num_class_embeds") or setting(network, "num_embeds_ada_norm") or 0
    return count - 1 if null_class is not None and null_class == count - 1 else count


def _takes_fractions(network: nn.Module) -> bool:
    """Whether the time embedding is a function of a real number rather than a table."""
    return setting(network, "time_embedding_type") != "learned" and setting(network, "norm_type") != "ada_norm"
