"""Modules of other packages' calling conventions, for packages that cannot be installed beside this one's PyTorch.

Each is written after its package's source, as far as an adapter looks at it, and says that package's name.
"""

import math

import torch
from torch import Tensor, nn

__all__ = [
    "CFGDenoiser",
    "ContinuousTimeGaussianDiffusion",
    "DiscreteEpsDDPMDenoiser",
    "ElucidatedDiffusion",
    "GaussianDiffusion",
    "KDenoiser",
    "NanoFlow",
    "RectifiedFlow",
    "VDenoiser",
]


def of(package: str):
    def claimed(cls):
        cls.__module__ = package
        return cls

    return claimed


def wide(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.ndim - 1))


# --- k-diffusion: D(input, sigma)


class Wrapper(nn.Module):
    def __init__(self, inner_model: nn.Module, sigma_data: float = 1.0):
        super().__init__()
        self.inner_model, self.sigma_data = inner_model, sigma_data

    def preconditioned(self, x: Tensor, sigma: Tensor, told: Tensor, sign: float) -> Tensor:
        s, d = wide(sigma, x), self.sigma_data
        total = (s**2 + d**2).sqrt()
        return self.inner_model(x / total, told) * (sign * s * d / total) + x * d**2 / total**2


@of("k_diffusion.external")
class VDenoiser(Wrapper):
    def forward(self, input, sigma, **kwargs):
        return self.preconditioned(input, sigma, sigma.atan() / math.pi * 2, -1.0)


@of("k_diffusion.layers")
class KDenoiser(Wrapper):
    def forward(self, input, sigma, **kwargs):
        return self.preconditioned(input, sigma, sigma, 1.0)


@of("k_diffusion.external")
class DiscreteSchedule(nn.Module):
    def __init__(self, sigmas: Tensor, quantize: bool):
        super().__init__()
        self.register_buffer("sigmas", sigmas)
        self.quantize = quantize

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        own, level = self.sigmas.log(), sigma.log()
        if self.quantize:
            return (level - own[:, None]).abs().argmin(0)
        left = (level[:, None] >= own).sum(1).clamp(1, len(own) - 1) - 1
        return left + ((level - own[left]) / (own[left + 1] - own[left])).clamp(0.0, 1.0)


@of("k_diffusion.external")
class DiscreteEpsDDPMDenoiser(DiscreteSchedule):
    def __init__(self, model: nn.Module, alphas_cumprod: Tensor, quantize: bool):
        super().__init__(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, quantize)
        self.inner_model = model

    def forward(self, input, sigma, **kwargs):
        s = wide(sigma, input)
        return input - s * self.inner_model(input / (s**2 + 1).sqrt(), self.sigma_to_t(sigma))


@of("k_diffusion.sampling")
class CFGDenoiser(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner_model = model

    def forward(self, x, sigma, uncond, cond, cond_scale):
        without, given = self.inner_model(x, sigma, uncond), self.inner_model(x, sigma, cond)
        return without + (given - without) * cond_scale


# --- lucidrains


@of("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
class GaussianDiffusion(nn.Module):
    def __init__(self, model: nn.Module, betas: Tensor, objective: str, **options):
        super().__init__()
        self.model, self.objective = model, objective
        self.self_condition = options.get("self_condition", False)
        self.immiscible = options.get("immiscible", False)
        self.offset_noise_strength = options.get("offset_noise_strength", 0.0)
        self.register_buffer("betas", betas.to(torch.float32))
        self.register_buffer("alphas_cumprod", torch.cumprod(1.0 - betas, 0).to(torch.float32))

    def forward(self, img, *args, **kwargs):
        raise AssertionError("this is its loss")


@of("denoising_diffusion_pytorch.elucidated_diffusion")
class ElucidatedDiffusion(nn.Module):
    self_condition = False

    def __init__(self, net: nn.Module, sigma_data: float = 0.5):
        super().__init__()
        self.net, self.sigma_data, self.sigma_min, self.sigma_max = net, sigma_data, 0.002, 80

    def preconditioned_network_forward(self, noised_images, sigma, self_cond=None, clamp=False):
        s, d = wide(sigma, noised_images), self.sigma_data
        total = (s**2 + d**2).sqrt()
        return noised_images * (d / total) ** 2 + self.net(noised_images / total, sigma.log() * 0.25) * s * d / total


@of("denoising_diffusion_pytorch.continuous_time_gaussian_diffusion")
class ContinuousTimeGaussianDiffusion(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.log_snr = lambda t: -torch.log(torch.expm1(1e-4 + 10 * t**2).clamp(min=1e-20))


@of("rectified_flow_pytorch.rectified_flow")
class RectifiedFlow(nn.Module):
    mean_variance_net = False

    def __init__(self, model: nn.Module, predict: str = "flow", **options):
        super().__init__()
        self.model, self.predict, self.max_timesteps = model, predict, 100
        self.time_cond_kwarg = options.get("time_cond_kwarg", "times")
        self.immiscible, self.use_consistency = options.get("immiscible", False), options.get("use_consistency", False)


@of("rectified_flow_pytorch.nano_flow")
class NanoFlow(nn.Module):
    def __init__(self, model: nn.Module, times_cond_kwarg=None, predict_clean: bool = False, max_timesteps: int = 100):
        super().__init__()
        self.model, self.times_cond_kwarg = model, times_cond_kwarg
        self.predict_clean, self.max_timesteps = predict_clean, max_timesteps
