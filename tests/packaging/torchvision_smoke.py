"""torchvision's operators and one of its detectors, after `import fastrpn.torchvision_ops`.

Prints, as JSON, whether its operators are ours and the versions. Every value that is compared here
is known without a library: RoIs lie on a ramp, whose averages are the values at the centres.
"""

import json

import torch

import fastrpn.torchvision_ops  # before torchvision

import torchvision  # isort: skip
from torchvision import ops  # isort: skip

boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
scores = torch.tensor([0.9, 0.8, 0.7])
assert ops.nms(boxes, scores, 0.5).tolist() == [0, 2]
assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [0, 1, 2]
assert torch.jit.script(ops.nms)(boxes, scores, 0.5).tolist() == [0, 2]

ramp = torch.arange(64.0).reshape(1, 1, 8, 8)  # 8 y + x
roi = torch.tensor([[0.0, 1, 2, 5, 6]])  # bins of 2 x 2 pixels with centres x 2, 4 and y 3, 5
aligned = ops.roi_align(ramp, roi, 2)
torch.testing.assert_close(aligned.flatten(), torch.tensor([26.0, 28, 42, 44]))
pooled = ops.roi_pool(ramp, torch.tensor([[0.0, 0, 0, 7, 7]]), 2)
assert pooled.flatten().tolist() == [27, 31, 59, 63], pooled
levels = {"0": ramp, "1": ramp[..., ::2, ::2]}
whole = ops.MultiScaleRoIAlign(["0", "1"], 2, 2)(levels, [roi[:, 1:]], [(8, 8)])
torch.testing.assert_close(whole, aligned)

features = torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
for pool in (ops.roi_align, ops.roi_pool):
    assert torch.autograd.gradcheck(lambda x, pool=pool: pool(x, roi.double(), 2), features)

torch.manual_seed(0)
model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0,
    min_size=96, max_size=128,
)  # fmt: skip
image = torch.rand(3, 96, 128)
found = model.eval()([image])[0]
assert len(found["boxes"]) > 10 and found["boxes"].isfinite().all()
targets = [{"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([1])}]
sum(model.train()([image], targets).values()).backward()
gradient = model.backbone.fpn.inner_blocks[0][0].weight.grad
assert gradient.isfinite().all() and gradient.abs().sum() > 0

facts = {"ours": fastrpn.torchvision_ops.is_needed(), "file": fastrpn.__file__}
print(json.dumps(facts | {"torch": torch.__version__, "torchvision": torchvision.__version__}))
