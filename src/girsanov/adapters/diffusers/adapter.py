r"""``from_diffusers``: a pretrained diffusers model as a score, in one call.

What can go wrong in between, and where it is taken care of (note of paper 2, section 5.2):

====  ============================================  ==============================================================
item  trap                                          here
====  ============================================  ==============================================================
1     what the network predicts                     ``readings``: every prediction type, EDM's both; ``prediction=``
2     single-precision alpha-bar, zero-SNR          ``schedule``: float64; the step without signal is left out
3     timesteps between the training steps          interpolated in log-SNR; rounded where the embedding is a table;
                                                    NCSN++ is read as a score
4     ``scale_model_input``, ``scale_noise``        never called: the input's scale is part of the schedule
5     learned variances                             the second half of the channels is dropped
6     clipping and thresholding                     belong to sampling: never applied
7     class labels, text, added conditions          ``condition=``, ``null_class=``, ``call=``, or an error
8     families with their own signs and times       an error that says what their pipeline does, for ``call=``
9     latents                                       ``latents``: whose density it is, and the log-determinant
10    train mode, half precision, guidance          eval mode; float32 around the network; guided ones refused
====  ============================================  ==============================================================

Everything is read in variance-preserving coordinates, where only the log-SNR matters: the likelihood of a model does
not depend on whether its scheduler preserves or explodes the variance.
"""

__all__ = ["from_diffusers"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.adapters.diffusers.loading import find_parts
from girsanov.adapters.diffusers.network import Call, DiffusersNetwork, PretrainedHead, bare, setting
from girsanov.adapters.diffusers.readings import convention_of
from girsanov.adapters.diffusers.selftest import check_noise_end, check_rows
from girsanov.densities import Gaussian
from girsanov.pairs.score_model import ScoreModel
from girsanov.processes import Cosine
from girsanov.types import InputError, State


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    unet: nn.Module | None = None,
    prediction: str | None = None,
    call: Call | None = None,
    null_class: int | None = None,
    fractional: bool | None = None,
    reference: Gaussian | None = None,
    log_snr_range: tuple[float, float] | None = None,
    check: State | None = None,
    condition: Tensor | None = None,
) -> ScoreModel:
    """Turn a diffusers model into a score model, and test that it is one.

    Args:
        source: a network (``UNet2DModel``, ``UNet2DConditionModel``, a DiT, ...), a pipeline, a folder that
            ``save_pretrained`` wrote, or a Hugging Face id.
        scheduler: the scheduler of its training, or the folder of one; default the pipeline's own.
        unet: the network, where its class is not one of diffusers: no code is loaded from disk.
        prediction: what the network predicts (``epsilon``, ``sample``, ``v_prediction``, ``flow_prediction``), where
            the scheduler's setting is wrong.
        call: ``(network, input, timestep, condition) -> output`` for networks that take more than one condition. It
            gets the input and the timestep as the scheduler would give them to its pipeline's loop, and does what
            that loop does between them and the scheduler, guidance left out.
        null_class: the label that stands for "no label"; labels below 0 become it.
        fractional: whether timesteps may lie between the training steps; see :class:`DiffusersNetwork`.
        reference: a Gaussian in the network's coordinates to compare with, for :func:`girsanov.density`.
        log_snr_range: where the model is used; default, and at most, where the scheduler trains.
        check: rows of data in the network's own scale, ``n c *s``, for the self-test: strongly recommended.
        condition: of the rows to check, leading dimension ``n`` or 1.

    Returns:
        The score, whose ``process`` is variance preserving; ``model.network.notes`` says what is approximate. Rows are
        in the network's own scale, such as [-1, 1]. The network is put into evaluation mode.

    Raises:
        InputError: if diffusers is missing, if the model is no score, or if the self-test fails.

    Example:
        >>> import girsanov as gv
        >>> model = gv.from_diffusers("google/ddpm-cifar10-32", check=images)  # doctest: +SKIP
        >>> gv.elbo(gv.ScorePair(model), images, samples=256).mean()  # doctest: +SKIP
    """
    parts = find_parts(source, scheduler, unet)
    convention = convention_of(parts.scheduler, prediction)
    _refuse_mixed_clock(parts.network, convention.reading)
    network = DiffusersNetwork(
        parts.network, convention, call=call, fractional=fractional, null_class=null_class
    ).eval()
    network.scheduler = parts.scheduler  # for the way back
    low, high = convention.schedule.log_snr_range
    if log_snr_range is not None:
        low, high = max(low, log_snr_range[0]), min(high, log_snr_range[1])
    process = Cosine(log_snr_range=(low, high))  # refuses an empty range
    head = None if reference is None else PretrainedHead(reference)
    model = ScoreModel(network, process, "noise", reference=reference, head=head, log_snr_range=(low, high))
    _self_test(model.eval(), check, condition)
    return model


def event_shape_of(network: nn.Module) -> tuple[int, ...] | None:
    """Shape of one row by a network's settings, ``None`` where they do not say."""
    channels, size = setting(network, "in_channels"), setting(network, "sample_size")
    if not isinstance(channels, int) or size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (channels, *sides) if isinstance(sides, Sequence) else None


def _self_test(model: ScoreModel, rows: State | None, condition: Tensor | None) -> None:
    network = model.network
    assert isinstance(network, DiffusersNetwork)
    if rows is not None:
        rows = rows.to(dtype=_dtype(model), device=_device(model, rows))
        check_rows(network, rows, condition)
        return
    shape = event_shape_of(network.network)
    unconditional = not network.required or network.null_class is not None
    if shape is None or (condition is None and not unconditional) or network.call is not None:
        network.untested = "The self-test did not run: pass rows as check=."
        return
    blank = torch.zeros(1, *shape, device=_device(model, None))
    check_noise_end(network, blank.to(_dtype(model)), None if condition is None else condition[:1])
    network.untested = "The self-test saw no data: pass rows as check=."


def _dtype(model: ScoreModel) -> torch.dtype:
    return torch.promote_types(next(model.network.parameters(), torch.empty(0)).dtype, torch.float32)


def _device(model: ScoreModel, rows: State | None) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu") if rows is None else rows.device


def _refuse_mixed_clock(network: nn.Module, reading: str) -> None:
    """NCSN++ divides its output by the timestep, which is the noise scale only for its own scheduler."""
    fourier = setting(network, "time_embedding_type") == "fourier" and type(bare(network)).__name__ == "UNet2DModel"
    if fourier and reading != "score":
        raise InputError("This UNet2DModel divides its output by the timestep: pass its own ScoreSdeVeScheduler")
