r"""``from_diffusers``: a pretrained diffusers model as a pair, in one call.

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
from torch import nn

from girsanov.adapters.assembly import UNTESTED, Facts, pair_of
from girsanov.adapters.diffusers.loading import find_parts
from girsanov.adapters.diffusers.network import Call, DiffusersNetwork, bare, setting
from girsanov.adapters.diffusers.readings import convention_of
from girsanov.adapters.diffusers.selftest import check_noise_end, conventions_beside
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import Cosine
from girsanov.types import InputError

UNSEEN = "The self-test saw no data: pass rows as check=."


@checked
def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    unet: Any = None,
    variant: str | None = None,
    prediction: str | None = None,
    call: Call | None = None,
    null_class: int | None = None,
    fractional: bool | None = None,
    log_snr_range: tuple[float, float] | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    """A diffusers model as a pair, tested to be one.

    Args:
        source: a network (``UNet2DModel``, ``UNet2DConditionModel``, a DiT, ...), a pipeline, a folder that
            ``save_pretrained`` wrote, or a Hugging Face id.
        scheduler: the scheduler of its training, or the folder of one; default the pipeline's own.
        unet: the network, where its class is not one of diffusers: no code is loaded from disk.
        variant: of the weights in a folder, such as ``fp16``, where it has several; the only one is found. Pickled
            weights are read where they hold tensors alone.
        prediction: what the network predicts (``epsilon``, ``sample``, ``v_prediction``, ``flow_prediction``), where
            the scheduler's setting is wrong.
        call: ``(network, input, timestep, condition) -> output`` for networks that take more than one condition. It
            gets the input and the timestep as the scheduler would give them to its pipeline's loop, and does what
            that loop does between them and the scheduler, guidance left out.
        null_class: the label that stands for "no label"; labels below 0 become it.
        fractional: whether timesteps may lie between the training steps; see :class:`DiffusersNetwork`.
        log_snr_range: where the model is used; default, and at most, where the scheduler trains.
        prior: law at the noise end of the range, in variance-preserving coordinates; default N(0, I), where the data
            are forgotten there.
        reference: Gaussian of the data in the network's scale; default fitted to the rows of ``check``.
        check: 64 rows of data or more in the network's own scale, ``n c *s``, for the self-test: strongly recommended.
            It calls the network some ten thousand times.
        condition: of the rows to check, leading dimension ``n`` or 1.

    Returns:
        The pair, whose process is variance preserving; ``pair.score.network.notes`` says what is approximate or
        undecided. Rows are in the network's own scale, such as [-1, 1]. The network is put into evaluation mode.

    Raises:
        InputError: if diffusers is missing, if the model is no score, for data that are not forgotten at the end of
            the range without rows or a law, or a self-test that another convention or scale of rows wins: the
            sentence names it.

    Example:
        >>> import girsanov as gv
        >>> pair = gv.from_diffusers("google/ddpm-cifar10-32", check=images)  # doctest: +SKIP
        >>> gv.elbo(pair, images, samples=256).mean()  # doctest: +SKIP
    """
    parts = find_parts(source, scheduler, unet, variant)
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
    facts = Facts(prior, reference, check, condition)
    shape = event_shape_of(parts.network)
    pair = pair_of(network, process, (convention, *conventions_beside(convention)), facts, event_shape=shape)
    if check is None:
        _look_at_noise(pair, network, shape, condition)
    return pair


def event_shape_of(network: nn.Module) -> tuple[int, ...] | None:
    """Shape of one row by a network's settings, ``None`` where they do not say."""
    channels, size = setting(network, "in_channels"), setting(network, "sample_size")
    if not isinstance(channels, int) or size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (channels, *sides) if isinstance(sides, Sequence) else None


def _look_at_noise(pair: ScorePair, network: DiffusersNetwork, shape: tuple[int, ...] | None, condition: Any) -> None:
    """What can be tested without rows, where their shape is known and the network can be called."""
    unconditional = not network.required or network.null_class is not None
    if shape is None or (condition is None and not unconditional) or network.call is not None:
        return
    blank = torch.zeros(1, *shape, device=next(network.parameters(), torch.empty(0)).device)
    check_noise_end(network, blank.to(pair.dtype(blank)), None if condition is None else condition[:1])
    network.notes = tuple(UNSEEN if note == UNTESTED else note for note in network.notes)


def _refuse_mixed_clock(network: nn.Module, reading: str) -> None:
    """NCSN++ divides its output by the timestep, which is the noise scale only for its own scheduler."""
    fourier = setting(network, "time_embedding_type") == "fourier" and type(bare(network)).__name__ == "UNet2DModel"
    if fourier and reading != "score":
        raise InputError("This UNet2DModel divides its output by the timestep: pass its own ScoreSdeVeScheduler")
