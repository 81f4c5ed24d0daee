"""Image augmentation for training the image tower: crops, flips, colours, and camera artefacts."""

import io
import math

import numpy
import torch
import torch.nn.functional as F
from PIL import Image


def plain(pictures, side, device):
    """Converts bytes [n, height, width, 3] to pixels [n, 3, side, side] in -1..1, like the bundle's image processor."""
    pixels = torch.as_tensor(numpy.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def uniform(n, low, high, device):
    return torch.empty(n, 1, 1, 1, device=device).uniform_(low, high)


def jpeg(pictures, random, share):
    """Compresses some of the images as JPEG, like a camera."""
    pictures = pictures.copy()
    for at in numpy.flatnonzero(random.random(len(pictures)) < share):
        encoded = io.BytesIO()
        Image.fromarray(pictures[at]).save(encoded, "JPEG", quality=int(random.integers(25, 85)))
        pictures[at] = numpy.asarray(Image.open(encoded))
    return pictures


def crops(pixels, side, scale, flips=True):
    """A random crop of each image with `scale` (min, max) of its area and an aspect ratio up to 3:4, resized to `side`."""
    n, device = len(pixels), pixels.device
    area = torch.empty(n, device=device).uniform_(*scale)
    aspect = torch.exp(torch.empty(n, device=device).uniform_(math.log(0.75), -math.log(0.75)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    transform = torch.zeros(n, 2, 3, device=device)
    mirror = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0) if flips else 1.0
    transform[:, 0, 0], transform[:, 1, 1] = width * mirror, height
    transform[:, 0, 2] = (1 - width) * torch.empty(n, device=device).uniform_(-1, 1)
    transform[:, 1, 2] = (1 - height) * torch.empty(n, device=device).uniform_(-1, 1)
    if pixels.shape[-1] > 1.5 * side:
        # Sampling a much larger image directly would cause aliasing.
        pixels = F.avg_pool2d(pixels, 2)
    grid = F.affine_grid(transform, (n, 3, side, side), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colours(pixels, strength):
    """Changes brightness, contrast, saturation and colour balance."""
    n, device = len(pixels), pixels.device
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * uniform(n, 1 - strength, 1 + strength, device) + mean
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * uniform(n, 1 - strength, 1 + strength, device)
    balance = torch.empty(n, 3, 1, 1, device=device).uniform_(-strength / 6, strength / 6)
    return (pixels + uniform(n, -strength / 2, strength / 2, device) + balance).clamp(-1, 1)


def faults(pixels, share):
    """Adds blur and noise to some of the images."""
    n, device = len(pixels), pixels.device
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = uniform(n, 0.2, 1, device) * (torch.rand(n, 1, 1, 1, device=device) < share)
    noise = torch.randn_like(pixels) * uniform(n, 0, 0.12, device) * (torch.rand(n, 1, 1, 1, device=device) < share)
    return torch.lerp(pixels, blurred, mix) + noise


def coarse(pixels, share):
    """Downsamples some of the images to a half to a third of their resolution."""
    n, side, device = len(pixels), pixels.shape[-1], pixels.device
    few = int(torch.randint(side // 3, side // 2 + 1, ()))
    lost = F.interpolate(pixels, size=(few, few), mode="bilinear", antialias=True, align_corners=False)
    lost = F.interpolate(lost, size=(side, side), mode="bilinear", align_corners=False)
    return torch.where(torch.rand(n, 1, 1, 1, device=device) < share, lost, pixels)


def erase(pixels, share):
    """Puts a grey rectangle over some of the images."""
    n, side, device = len(pixels), pixels.shape[-1], pixels.device
    extent = torch.empty(2, n, 1, 1, device=device).uniform_(0.2, 0.5) * side
    at = torch.rand(2, n, 1, 1, device=device) * (side - extent)
    line = torch.arange(side, device=device)
    rows = (line[:, None] >= at[0]) & (line[:, None] < at[0] + extent[0])
    columns = (line >= at[1]) & (line < at[1] + extent[1])
    hit = (rows & columns)[:, None] & (torch.rand(n, 1, 1, 1, device=device) < share)
    return pixels.masked_fill(hit, 0.0)


def mixed(pixels, random):
    """Mixes the batch with its reverse, by mixup or cutmix with equal probability. Returns the pixels and each image's own
    share."""
    share = float(random.beta(0.8, 0.8))
    other = pixels.flip(0)
    if random.random() < 0.5:
        return torch.lerp(other, pixels, share), share
    side = pixels.shape[-1]
    extent = int(round(side * math.sqrt(1 - share)))
    top, left = (int(random.integers(0, side - extent + 1)) for _ in range(2))
    pixels = pixels.clone()
    pixels[..., top:top + extent, left:left + extent] = other[..., top:top + extent, left:left + extent]
    return pixels, 1 - (extent / side) ** 2
