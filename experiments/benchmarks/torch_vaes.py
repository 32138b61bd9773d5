"""The same models in PyTorch, eager and by hand, as one writes them for speed.

The examples are one tensor of bytes on the device, batches are rows of it by a permutation, Adam is the fused one, and
gradients are set to None. No DataLoader: with it PyTorch is slower.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .timing import Advance

# JAX takes the fast float32 products of an accelerator unless told otherwise; here they have to be asked for.
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True


def device() -> torch.device:
    """The first GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training(
    loss: Callable[[Tensor], Tensor],
    modules: Iterable[nn.Module],
    images: Tensor,
    batch: int,
    *,
    compiled: bool = False,
) -> Advance:
    """Steps of Adam on a loss of stored images `[B, ...]`."""
    mode = "reduce-overhead" if compiled and device().type == "cuda" else None
    of_batch = torch.compile(loss, mode=mode) if compiled else loss
    optimizer = torch.optim.Adam([each for module in modules for each in module.parameters()], lr=1e-3, fused=True)
    stored = images.to(device())
    per_epoch = len(images) // batch

    def advance(steps: int) -> None:
        order = torch.randperm(len(stored), device=stored.device)
        for step in range(steps):
            start = step % per_epoch * batch
            of_batch(stored.index_select(0, order[start : start + batch])).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize()

    return advance


def synchronize() -> None:
    """Wait for the device."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def perceptron(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Dense layers with an activation between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).to(device())


def binarized(images: Tensor) -> Tensor:
    """Each pixel as 0 or 1, with its intensity as the probability."""
    return torch.bernoulli(images.float().div_(255))


def kl_to_standard(mean: Tensor, log_scale: Tensor) -> Tensor:
    """`KL(N(mean, scale) || N(0, I))`, summed over the batch."""
    return 0.5 * (mean.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()


def mlp(images: np.ndarray, batch: int, hidden: int, latents: int, *, compiled: bool = False) -> Advance:
    """The VAE of dense layers."""
    pixels = images[0].size
    encoder, decoder = perceptron(pixels, hidden, 2 * latents), perceptron(latents, hidden, pixels)

    def loss(stored: Tensor) -> Tensor:
        x = binarized(stored)
        mean, log_scale = encoder(x).chunk(2, dim=1)
        logits = decoder(mean + log_scale.exp() * torch.randn_like(mean))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (reconstruction + kl_to_standard(mean, log_scale)) / len(x)

    flat = torch.from_numpy(images.reshape(len(images), -1))
    return training(loss, (encoder, decoder), flat, batch, compiled=compiled)


def iwae(images: np.ndarray, batch: int, hidden: tuple[int, ...], latents: int, samples: int) -> Advance:
    """The importance-weighted bound of `samples` draws."""
    pixels = images[0].size
    encoder = perceptron(pixels, *hidden, 2 * latents, activation=nn.Tanh)
    decoder = perceptron(latents, *reversed(hidden), pixels, activation=nn.Tanh)

    def loss(stored: Tensor) -> Tensor:
        x = binarized(stored)
        mean, log_scale = encoder(x).chunk(2, dim=1)
        noise = torch.randn(samples, *mean.shape, device=x.device)
        z = mean + log_scale.exp() * noise
        log_weights = log_likelihood(decoder(z), x) + (0.5 * (noise.square() - z.square()) + log_scale).sum(-1)
        return -log_weights.logsumexp(0).mean()

    return training(loss, (encoder, decoder), torch.from_numpy(images.reshape(len(images), -1)), batch)


def log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """`ln p(x)` of Bernoulli pixels, summed over the last axis."""
    targets = x.expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)


def conv(images: np.ndarray, batch: int, channels: tuple[int, ...], latents: int, *, is_binary: bool) -> Advance:
    """The convolutional VAE with channels last in memory, which is the faster order of the two."""
    height, _, colours = images.shape[1:]
    inner, sizes = height // 2 ** len(channels), (colours, *channels)
    down = [layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())]
    up = [layer for a, b in pairwise(sizes[::-1]) for layer in (nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1))]
    features = sizes[-1] * inner**2
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, 2 * latents))
    decoder = nn.Sequential(nn.Linear(latents, features), nn.Unflatten(1, (sizes[-1], inner, inner)), *up)
    modules: list[Any] = [each.to(device(), memory_format=torch.channels_last) for each in (encoder, decoder)]

    def loss(stored: Tensor) -> Tensor:
        x = binarized(stored) if is_binary else stored.float().div_(255)
        mean, log_scale = encoder(x).chunk(2, dim=1)
        made = decoder(mean + log_scale.exp() * torch.randn_like(mean))
        return (cost(made, x) + kl_to_standard(mean, log_scale)) / len(x)

    def cost(made: Tensor, x: Tensor) -> Tensor:
        if is_binary:
            return F.binary_cross_entropy_with_logits(made, x, reduction="sum")
        return 0.5 * F.mse_loss(made, x, reduction="sum")

    stored = torch.from_numpy(images).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
    return training(loss, modules, stored, batch)


# Rows that the decoder computes at once: of 1,000 to 50,000, the fastest here.
ROWS_AT_ONCE = 2000


def likelihood(images: np.ndarray, hidden: int, latents: int, samples: int, together: int) -> Advance:
    """The importance-weighted likelihood of examples, `together` of them in a step, a chunk of samples at a time."""
    pixels = images[0].size
    encoder, decoder = perceptron(pixels, hidden, 2 * latents), perceptron(latents, hidden, pixels)
    stored = torch.from_numpy(images.reshape(len(images), -1)).to(device())
    chunk = min(samples, ROWS_AT_ONCE // together)

    def estimate(x: Tensor) -> Tensor:
        mean, log_scale = encoder(x).chunk(2, dim=1)
        parts = []
        for start in range(0, samples, chunk):
            noise = torch.randn(min(chunk, samples - start), *mean.shape, device=x.device)
            z = mean + log_scale.exp() * noise
            parts.append(log_likelihood(decoder(z), x) + (0.5 * (noise.square() - z.square()) + log_scale).sum(-1))
        return torch.cat(parts).logsumexp(0) - math.log(samples)

    def advance(steps: int) -> None:
        with torch.inference_mode():
            for step in range(steps):
                start = step * together % len(stored)
                estimate(stored[start : start + together]).cpu()

    return advance
