"""Chains of Gaussian steps that the laws run over: a new one is one line of ``CHAINS``."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch

import girsanov as gv
from girsanov.pairs import AncestralChain, Chain, EulerChain, MidpointChain, ScorePair
from tests import state_noise
from tests.bridges.registry import GAUSSIANS
from tests.bridges.test_bridge_chain import perturbed
from tests.laws import mixture_case
from tests.linear_pairs import random_linear_pair
from tests.seeds import seeded


def stretched(chain: Chain) -> Chain:
    """The chain with offsets of both variances."""
    generator = seeded(1)
    with torch.no_grad():
        for offset in (chain.encoder_log_variance, chain.decoder_log_variance):
            offset += 0.3 * torch.randn(offset.shape, generator=generator)
    return chain


def score_pair(*, reference: bool = True) -> ScorePair:
    """The exact score of a mixture, with its Gaussian or with none."""
    process = gv.VariancePreserving()
    score = mixture_case((2,), seed=1).density.score(process)
    return ScorePair(score if reference else lambda t, x: score(t, x), process, event_shape=(2,))


def euler(kind: str) -> tuple[Chain, tuple[int, ...]]:
    return stretched(random_linear_pair(3, 4, 2, kind=kind)[0]), (3,)


def scheduled(name: str) -> tuple[Chain, tuple[int, ...]]:
    """A diffusers sampler, where diffusers is installed."""
    pytest.importorskip("diffusers")
    return import_module("tests.adapters.diffusers.exact").scheduled(name)


#: name -> constructor of a chain and the shape of its rows (call it inside a test, where float64 is the default)
CHAINS: dict[str, Callable[[], tuple[Chain, tuple[int, ...]]]] = {
    "Euler, isotropic": lambda: euler("isotropic"),
    "Euler, diagonal": lambda: euler("diagonal"),
    "Euler, full": lambda: euler("matrix"),
    "Euler, per dimension": lambda: (
        stretched(EulerChain(random_linear_pair(2, 3, 2)[0].pair, 3, per_dimension=True)),
        (2,),
    ),
    "Euler, image": lambda: (random_linear_pair(2, 3, 7, shape=(1, 2))[0], (1, 2)),
    "Euler, family": lambda: (EulerChain(score_pair().family(0.5), 8), (2,)),
    "midpoint, diagonal": lambda: (stretched(MidpointChain(state_noise.bounded("diagonal"), 3)), (2,)),
    "midpoint, isotropic": lambda: (MidpointChain(state_noise.bounded("isotropic"), 4), (2,)),
    "midpoint, full": lambda: (MidpointChain(state_noise.bounded("full"), 4), (2,)),
    "ancestral": lambda: (stretched(AncestralChain(score_pair(), 6)), (2,)),
    "ancestral, no reference": lambda: (AncestralChain(score_pair(reference=False), 6), (2,)),
    "ancestral, half way to the ODE": lambda: (AncestralChain(score_pair(), 6, lmbd=0.5), (2,)),
    "short": lambda: (stretched(gv.short_chain(score_pair(), 4, mixture_case((2,), seed=1).rows(200, seed=2))), (2,)),
    "bridge, fixed": lambda: (perturbed(gv.BrownianMotion(), "fixed"), (2,)),
    "bridge, diagonal": lambda: (perturbed(gv.OrnsteinUhlenbeck(2.0), "diagonal"), (2,)),
    "bridge, full": lambda: (perturbed(gv.BrownianMotion(), "full"), (2,)),
    "diffusers, DDPM": lambda: scheduled("DDPM"),
    "diffusers, DDPM, clipped": lambda: scheduled("DDPM, clipped"),
    "diffusers, DDPM, learned variances": lambda: scheduled("DDPM, learned variances"),
    "diffusers, DDIM": lambda: scheduled("DDIM"),
    "diffusers, Euler ancestral": lambda: scheduled("Euler ancestral"),
    "diffusers, flow matching": lambda: scheduled("flow matching"),
    "diffusers, LCM": lambda: scheduled("LCM"),
    "diffusers, SDE-DPM-Solver++": lambda: scheduled("SDE-DPM-Solver++"),
    "Gaussian bridge": lambda: (GAUSSIANS["brownian"]().chain(torch.linspace(0.0, 1.0, 5)), (3,)),
}

each_chain = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
