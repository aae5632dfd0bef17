"""Detectors whose detections can be compared: random weights alone give equal scores everywhere."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from fastrpn.images import image_to_tensor, read_image
from fastrpn.models import PRESETS, BackboneWithFPN, BoxHead, FasterRCNN, faster_rcnn
from fastrpn.models.zoo import _NETWORKS
from fastrpn.ops import box_iou

SMALL = {"min_size": 160, "max_size": 260, "size_divisible": 32}
SMALL |= {"rpn_post_nms_top_n_test": 200}  # a thousand RoIs through stage 5 take a minute an image


def distinct(model):
    """Scales the last layers until scores and boxes are as spread as a trained model's."""
    model.eval()
    torch.manual_seed(1)
    batch = model.prepare([torch.rand(3, 160, 200)])
    with torch.no_grad():
        for layer in (model.roi_head.box_predictor.cls_score, model.rpn.head.cls_logits):
            nn.init.normal_(layer.weight, std=0.1)
        rpn = model.predict_rpn(batch)
        model.rpn.head.cls_logits.weight *= 2 / rpn.objectness.std()
        model.rpn.head.bbox_pred.weight *= 0.2 / rpn.deltas.std()
        logits, deltas = model.roi_head.predict(
            model.features(batch.images), model.propose(batch).boxes
        )
        model.roi_head.box_predictor.cls_score.weight *= 2 / logits.std()
        model.roi_head.box_predictor.bbox_pred.weight *= 0.5 / deltas.std()
    return model


def detector(name, num_classes=4, **overrides):
    """The network of that name with distinct scores, for small images."""
    torch.manual_seed(0)
    options = {} if name == "tiny" else SMALL
    return distinct(faster_rcnn(name, num_classes, **options, **overrides))


def images_of_mixed_sizes(number, folder=None):
    """Pictures of a folder, or blurred noise, as 3 x 60..300 x 60..300."""
    generator = torch.Generator().manual_seed(0)
    pictures = sorted(Path(folder).iterdir()) if folder else [None] * number
    images = []
    for picture in pictures[:number]:
        size = torch.randint(60, 300, (2,), generator=generator).tolist()
        small = [side // 8 for side in size]
        image = torch.rand(3, *small, generator=generator)
        if picture is not None:
            image = image_to_tensor(read_image(picture))
        images.append(nn.functional.interpolate(image[None], size=size, mode="bilinear")[0])
    return images


def trimmed(boxes, scores, labels):
    """An exported model's outputs for one image without their padding."""
    count = int((labels > 0).sum())
    assert not boxes[count:].any() and not scores[count:].any() and not labels[count:].any()
    assert (scores[:-1] >= scores[1:]).all()
    return {"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}


def unmatched(found, expected):
    """Detections of either list without an equal in the other: IoU 0.99, score 1e-3, same label."""
    if not len(found["scores"]) or not len(expected["scores"]):
        return len(found["scores"]) + len(expected["scores"])
    equal = box_iou(found["boxes"], expected["boxes"]) >= 0.99
    equal &= (found["scores"][:, None] - expected["scores"]).abs() <= 1e-3
    equal &= found["labels"][:, None] == expected["labels"]
    return int((~equal.any(0)).sum() + (~equal.any(1)).sum())


def timm_detector():
    """A pyramid on a network of timm."""
    import timm

    body = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3, 4))
    info = body.feature_info
    backbone = BackboneWithFPN(body, info.channels(), info.reduction(), out_channels=32)
    config = PRESETS["torchvision"].override(**SMALL)
    head = BoxHead(32 * config.roi_size**2, 32)
    torch.manual_seed(0)
    return distinct(FasterRCNN(backbone, head, num_classes=4, config=config))


MODELS = {name: partial(detector, name) for name in _NETWORKS} | {
    "timm resnet10t": timm_detector,
    "timm:convnext_atto": partial(detector, "timm:convnext_atto"),
    "torchvision:mobilenet_v3_large": partial(detector, "torchvision:mobilenet_v3_large"),
    "torchvision:regnet_y_400mf": partial(detector, "torchvision:regnet_y_400mf"),
}
