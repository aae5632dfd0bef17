"""roi_pool, roi_align and their pyramids, forward and backward, against torchvision's kernels.

torchvision's take neither boxes that are not finite (they crash) nor half types on the CPU, and
overflow for boxes beyond its integers. Boxes that are not finite must give zeros; half types are
compared with its float32; the others with the oracle.
"""

import math

import torch
import torchvision
from torch import Tensor

from fastrpn import ops
from fastrpn.ops import reference

from .trial import Trial, compare, difference, equal_bits

torchvision_ops = torch.ops.torchvision
SCALES = (1.0, 1 / 16, 0.5, 1 / 3, 2.0)


def random_features(trial: Trial, batch: int, channels: int, odd: bool) -> Tensor:
    """`[batch, channels, H, W]` float64; a few thousand elements, sometimes thin, seldom large."""
    height, width = trial.size(largest=33), trial.size(largest=33)
    if trial.chance(0.05):
        height, width = trial.choose((1, 700), (700, 1))
    if batch * channels in (1, 2) and trial.chance(0.05):  # more than the CPU's kernels pack
        return trial.randn(batch, channels, 260, 520)
    most = max(20_000 // max(batch * channels, 1), 1)
    height = min(height, most)
    width = min(width, max(most // max(height, 1), 1))
    features = trial.randn(batch, channels, height, width)
    if trial.chance(0.4):  # ties, zeros of both signs
        features = features.round()
    if odd and trial.chance(0.25):
        numbers = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-40], dtype=torch.float64)
        chosen = numbers[trial.randint(0, len(numbers), *features.shape)]
        features = torch.where(trial.rand(*features.shape) < trial.choose(0.1, 1), chosen, features)
    return features


def random_rois(trial: Trial, count: int, features: Tensor, scale: float, odd: bool) -> Tensor:
    """`[count, 5]` float64: inside the map and across its borders, on cells' borders, reversed."""
    batch, _, height, width = features.shape
    image = trial.randint(0, max(batch, 1), count, 1)
    extent = torch.tensor([width + 2, height + 2]) / scale
    start = (trial.rand(count, 2) * 1.6 - 0.4) * extent
    corners = torch.cat([start, start + trial.rand(count, 2) ** 2 * extent], dim=1)
    how = trial.random.randrange(6)
    if how == 0:  # rounded halves
        corners = (corners * scale * 2).round() / (2 * scale)
    elif how == 1:
        corners = corners.round()
    elif how == 2:
        corners = torch.where(trial.rand(count, 1) < 0.4, corners[:, [2, 3, 0, 1]], corners)
    elif how == 3 and odd:
        numbers = [math.nan, math.inf, -math.inf, 1e38, -1e38, 1e9, -1e9, 2**31, 1e-40, -0.0]
        numbers = torch.tensor(numbers, dtype=torch.float64)
        chosen = numbers[trial.randint(0, len(numbers), count, 4)]
        corners = torch.where(trial.rand(count, 4) < trial.choose(0.1, 0.4), chosen, corners)
    if trial.chance(0.05) and batch:  # a fraction of an image index is cut off
        image = image + trial.choose(0.25, 0.75)
    return torch.cat([image, corners], dim=1)


def pooling(trial: Trial, odd: bool = True) -> tuple[Tensor, Tensor, tuple[int, int], float]:
    """Features, RoIs, output size and scale."""
    batch, channels = trial.choose(1, 1, 2, 3, 0), trial.size(largest=140)
    dtype, scale = trial.float_dtype(), trial.choose(*SCALES)
    features = random_features(trial, batch, channels, odd).to(dtype)
    count = min(trial.size(largest=20), 20) if batch else 0
    rois = random_rois(trial, count, features, scale, odd)
    rois = rois.to(torch.float32 if dtype.itemsize == 2 and trial.chance(0.5) else dtype)
    if rois.dtype.itemsize == 2:  # an index of 2.99 must not round up to the next image
        rois[:, 0] = rois[:, 0].floor()
    size = trial.choose((1, 1), (2, 2), (3, 2), (1, 5), (7, 7), (2, 9))
    return features, rois, size, scale


def gradient(trial: Trial, like: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = trial.randn(*like)
    return (values.round() if trial.chance(0.5) else values).to(dtype)


def inside(rois: Tensor, scale: float, limit: float) -> Tensor:
    """Which RoIs are finite and closer to 0 than so many cells."""
    return (rois[:, 1:].double().abs() * scale < limit).all(dim=1)


def tame(rois: Tensor, scale: float) -> Tensor:
    """Which RoIs torchvision's integers can hold."""
    return inside(rois, scale, 1e6)


def roi_pool(trial: Trial) -> None:
    features, rois, size, scale = pooling(trial)
    grad = gradient(trial, (len(rois), features.shape[1], *size), features.dtype)
    # Beyond 2^39 cells integers are clamped, and any finite result will do.
    decided = ~rois.isfinite().all(dim=1) | inside(rois, scale, 2.0**39)
    wanted = pooled_by_torchvision(features, rois, size, scale, grad)

    def call(features, rois, grad):
        leaf = features.detach().requires_grad_()
        output = ops.roi_pool(leaf, rois, size, scale)
        (grad_input,) = torch.autograd.grad(output, leaf, grad)
        plain = ops.roi_pool(features, rois, size, scale)
        return output.detach(), plain, grad_input

    def same(got, _) -> str:
        what = equal_bits([part[decided] for part in got[:2]], [wanted[0][decided]] * 2)
        return what or (difference(got[2], wanted[1]) if decided.all() else "")

    trial.expect(wanted, call, features, rois, grad, same=same)


def pooled_by_torchvision(features, rois, size, scale, grad) -> tuple[Tensor, Tensor]:
    """Output and gradient; of the oracle where the integers of torchvision's kernel overflow."""
    wide = torch.promote_types(features.dtype, torch.float32)
    maps, boxes = features.to(wide), rois.to(wide)
    shape = (len(rois), features.shape[1], *size)
    output, argmax = maps.new_zeros(shape), torch.full(shape, -1, dtype=torch.int32)
    rows = tame(boxes, scale) & (features.numel() > 0)
    output[rows], argmax[rows] = torchvision_ops.roi_pool(maps, boxes[rows], scale, *size)
    rest = inside(boxes, scale, 2.0**39) & ~rows
    if rest.any():
        output[rest], argmax[rest] = reference.roi_pool(maps, boxes[rest], size, scale)
    won = argmax.flatten(1).ne(-1).any(dim=1)
    grad_input = torchvision_ops._roi_pool_backward(
        grad[won].to(wide), boxes[won], argmax[won], scale, *size, *features.shape
    )
    # Nothing but NaN in a bin gives the lowest number of the type; there, always float32's.
    lowest = torch.finfo(torch.float32).min
    output = torch.where(output == lowest, torch.finfo(features.dtype).min, output)
    return output.to(features.dtype), grad_input.to(features.dtype)


def sampling(trial: Trial) -> dict:
    return {"sampling_ratio": trial.choose(-1, 0, 1, 2, 3), "aligned": trial.chance(0.5)}


def roi_align(trial: Trial) -> None:
    features, rois, size, scale = pooling(trial)
    # A sample off the map counts as 0 here and as 0 times a feature there: finite ones only.
    features = features.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    options = sampling(trial)
    grad = gradient(trial, (len(rois), features.shape[1], *size), features.dtype)
    rows = tame(rois, scale)

    def call(features, rois, grad):
        leaf = features.detach().requires_grad_()
        output = ops.roi_align(leaf, rois, size, scale, **options)
        return output.detach(), torch.autograd.grad(output, leaf, grad)[0]

    wanted = aligned_by_torchvision(features, rois, size, scale, grad, rows, **options)
    bound = aligned_by_torchvision(features.abs(), rois, size, scale, grad.abs(), rows, **options)
    decided = rows | ~rois.isfinite().all(dim=1)
    same = near(wanted, bound, features.dtype, terms(rois, size, scale, options), decided)
    trial.expect(wanted, call, features, rois, grad, same=same)


def terms(rois: Tensor, size: tuple[int, int], scale: float, options: dict) -> int:
    """How many products the longest sum of a bin has, up to a few."""
    samples = options["sampling_ratio"]
    if samples > 0:
        return 4 * samples**2
    sides = (rois[:, 3:] - rois[:, 1:3]).double().nan_to_num(0, 0, 0).clamp(0, 1e6) * scale
    per_bin = (sides / torch.tensor([size[1], size[0]])).ceil().clamp(min=1).prod(dim=1)
    return int(4 * per_bin.max().item()) if len(per_bin) else 4


def near(wanted, bound, dtype: torch.dtype, count: int, rows: Tensor):
    """Equal up to `count` roundings of the absolute terms, which `bound` has summed.

    A rounding more for the coordinates (weights of a sample err by one place of a coordinate up to
    the size of the map), and one of the result where it is a half type. Rows without an oracle
    (finite, too large for torchvision) need only be finite; they take no part in its gradient.
    """
    wide = torch.promote_types(dtype, torch.float32)
    eps = torch.finfo(wide).eps
    slack = eps * (count + 256)
    half = torch.finfo(dtype).eps if dtype != wide else 0.0

    def same(got, _) -> str:
        everything = bool(rows.all())
        parts = [(got[0][rows], wanted[0][rows], bound[0][rows])]
        if everything:
            parts.append((got[1], wanted[1], bound[1]))
        if got[0].dtype != dtype or got[1].dtype != dtype or got[0].shape != wanted[0].shape:
            return f"dtype {got[0].dtype} or shape {list(got[0].shape)}"
        for name, (mine, theirs, sums) in zip(("output", "gradient"), parts, strict=False):
            off = (mine.to(wide) - theirs).abs()
            allowed = slack * (sums + 1e-3) + half * theirs.abs() + (6e-8 if half else 0)
            what = compare(off <= allowed, torch.ones_like(off, dtype=torch.bool), torch.eq)
            if what:
                return f"{name}: off by {(off - allowed).max().item()} more than rounding: {what}"
        return "" if got[0].isfinite().all() else "not finite"

    return same


def aligned_by_torchvision(features, rois, size, scale, grad, rows, sampling_ratio, aligned):
    """torchvision's output and gradient for `rows`, zeros for the others; at least float32.

    A box inside out has no samples where their number follows its size; torchvision's kernel then
    asks for a negative amount of memory.
    """
    if sampling_ratio <= 0 and aligned:
        rows = rows & (rois[:, 1:3] <= rois[:, 3:]).all(dim=1)
    wide = torch.promote_types(features.dtype, torch.float32)
    maps, boxes = features.to(wide), rois.to(wide)[rows]
    output = maps.new_zeros(len(rois), features.shape[1], *size)
    if features.numel() == 0:
        return output, maps.new_zeros(features.shape)
    options = (scale, *size)
    output[rows] = torchvision_ops.roi_align(maps, boxes, *options, sampling_ratio, aligned)
    grad_input = torchvision_ops._roi_align_backward(
        grad.to(wide)[rows], boxes, *options, *features.shape, sampling_ratio, aligned
    )
    return output, grad_input


def multiscale_roi_align(trial: Trial) -> None:
    """Each RoI as roi_align gives it on its level, bit for bit; without a level, zeros."""
    features, rois, size, scale = pooling(trial)
    levels = [features]
    while trial.chance(0.6) and len(levels) < 8:
        smaller = random_features(trial, *features.shape[:2], odd=True).to(features.dtype)
        levels.append(smaller)
    scales = [scale / 2**level for level in range(len(levels))]
    at = trial.randint(-1, len(levels) + 1, len(rois)).int() if len(levels) > 1 else None
    options = sampling(trial)
    grad = gradient(trial, (len(rois), features.shape[1], *size), features.dtype)
    wanted = grad.new_zeros(grad.shape)
    wanted_grads = []
    for number, (level, level_scale) in enumerate(zip(levels, scales, strict=True)):
        rows = torch.ones(len(rois), dtype=torch.bool) if at is None else at == number
        leaf = level.clone().requires_grad_()
        output = ops.roi_align(leaf, rois[rows], size, level_scale, **options)
        wanted[rows] = output.detach()
        wanted_grads += torch.autograd.grad(output, leaf, grad[rows])

    def call(rois, at, grad, *levels):
        leaves = [level.detach().requires_grad_() for level in levels]
        output = ops.multiscale_roi_align(leaves, rois, at, size, scales, **options)
        return output.detach(), *torch.autograd.grad(output, leaves, grad)

    trial.expect((wanted, *wanted_grads), call, rois, at, grad, *levels)


def multiscale_module(trial: Trial) -> None:
    """The module chooses torchvision's levels; proper boxes on whole multiples of the strides."""
    strides = (4, 8, 16, 32)[: trial.choose(1, 2, 3, 4)]
    rows, columns, batch = trial.choose(1, 2, 5), trial.choose(1, 3, 4), trial.choose(1, 2)
    channels, dtype = trial.size(largest=20), trial.choose(torch.float32, torch.float64)
    maps = {}
    for number, stride in enumerate(strides):
        shape = (batch, channels, rows * 32 // stride, columns * 32 // stride)
        maps[str(number)] = trial.randn(*shape).to(dtype)
    image_shapes = [(rows * 32, columns * 32)] * batch
    boxes = []
    for _ in range(batch):
        count = trial.size(largest=9)
        corner, side = 100 * trial.rand(count, 2), 2 ** (8 * trial.rand(count, 2))
        boxes.append(torch.cat([corner, corner + side], dim=1).to(dtype))
    arguments = (list(maps), trial.choose(1, 3, (2, 3)), trial.choose(-1, 1, 2))
    canonical = {"canonical_scale": trial.choose(30, 224), "canonical_level": trial.choose(3, 4)}
    theirs = torchvision.ops.MultiScaleRoIAlign(*arguments, **canonical)(maps, boxes, image_shapes)

    def call(*levels):
        pool = ops.MultiScaleRoIAlign(*arguments, **canonical)
        return pool(dict(zip(maps, levels, strict=True)), boxes, image_shapes)

    eps = torch.finfo(dtype).eps

    def close(got, wanted):  # up to 256 / 4 cells in a row or column of a bin
        return torch.isclose(got, wanted, rtol=64 * eps, atol=2048 * eps)

    trial.expect(theirs, call, *maps.values(), same=lambda got, want: compare(got, want, close))
