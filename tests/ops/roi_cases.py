"""Inputs shared by the tests of the RoI operators."""

import torch
from hypothesis import strategies as st

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SCALE = 1 / 16

corners = st.floats(-40, 60, width=32) | st.integers(-5, 30).map(float)
any_rois = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), corners, corners, corners, corners),
    min_size=1,
    max_size=6,
)


def random_case(seed, *, batch=2, channels=20, height=19, width=25, rois=40, dtype=torch.float32):
    """Features, and RoIs of all sizes, some of them partly or wholly outside the map."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, generator=generator)
    size = torch.tensor([width, height]) / SCALE
    centre = (torch.rand(rois, 2, generator=generator) * 1.4 - 0.2) * size
    extent = torch.rand(rois, 2, generator=generator) ** 2 * size
    image = torch.randint(0, batch, (rois, 1), generator=generator)
    boxes = torch.cat([image, centre - extent / 2, centre + extent / 2], dim=1)
    return features.to(dtype), boxes.to(dtype)


def output_and_gradient(operator, features, *args):
    """What the operator gives, and the features' gradient for a fixed random one of the output."""
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = operator(leaf, *args)
    generator = torch.Generator().manual_seed(9)
    output.backward(torch.randn(output.shape, generator=generator, dtype=output.dtype))
    return output.detach(), leaf.grad


def equal_bits(a, b):
    """Equal, with -0 unlike 0, and NaN like the same NaN."""
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
