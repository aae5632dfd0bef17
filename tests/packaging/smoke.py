"""Runs each kind of kernel once in whatever environment it is started in; prints what it used."""

import json

import torch

import fastrpn
import fastrpn.ops as ops
from fastrpn.info import collect

boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
scores = torch.tensor([0.9, 0.8, 0.7])
iou = ops.box_iou(boxes, boxes)
assert torch.equal(iou.diagonal(), torch.ones(3)), iou
assert iou[0, 1].item() == torch.tensor(81 / 119).item(), iou
assert ops.nms(boxes, scores, 0.5).tolist() == [0, 2]
assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [0, 1, 2]

features = torch.arange(64.0).reshape(1, 1, 8, 8).requires_grad_()
pooled = ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 7, 7]]), 2)
assert pooled.flatten().tolist() == [27, 31, 59, 63], pooled
pooled.sum().backward()
assert features.grad.nonzero()[:, 2:].tolist() == [[3, 3], [3, 7], [7, 3], [7, 7]]

print(json.dumps({"file": fastrpn.__file__, "info": collect()}))
