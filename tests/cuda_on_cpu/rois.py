"""Inputs that the tests of both RoI operators share."""

import torch

# RoIs and channels for which a forward block has slices of 32, 16 and 8 packs, and for fewer packs.
FORWARD_BLOCKS = [(520, 140), (300, 200), (9, 140), (5, 12)]


def random_rois(count: int, batch: int, dtype: torch.dtype) -> torch.Tensor:
    """RoIs of all sizes on maps of 16 x 20 cells at scale 1/4, some partly or wholly outside."""
    generator = torch.Generator().manual_seed(count)
    image = torch.randint(0, batch, (count, 1), generator=generator)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([90.0, 70.0]) - 10
    sides = torch.rand(count, 2, generator=generator) ** 2 * 80
    return torch.cat([image, corners, corners + sides], dim=1).to(dtype)


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of an NCHW-contiguous or channels-last tensor in memory order."""
    if tensor.is_contiguous():
        return tensor.flatten()
    return tensor.permute(0, 2, 3, 1).flatten()
