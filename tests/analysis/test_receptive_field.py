import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrpn.analysis import anchor_coverage, gradient_field, receptive_field
from fastrpn.analysis.anchor_coverage import RPNMaps, measured_fields, report_receptive_field
from fastrpn.models import faster_rcnn
from fastrpn.models.backbones import VGG16


def test_vgg16_by_arithmetic():
    with torch.device("meta"):
        (field,) = receptive_field(VGG16())
    assert field.size == (196, 196)
    assert field.stride == (16, 16)
    assert field.box() == (-90, -90, 106, 106)  # centred in the first 16 x 16 pixels
    assert field.box(row=2, column=3) == (-42, -58, 154, 138)


def test_vgg16_with_the_rpn_by_arithmetic_and_by_gradient():
    head = nn.Conv2d(512, 16, 3, padding=1)
    (field,) = receptive_field(VGG16(), head)
    assert field.size == (228, 228)
    assert field == gradient_field(VGG16(), head, strip=16)


def test_zf_by_arithmetic_and_by_gradient():
    """conv1 to conv5 alone give the 171 of the paper's section 3.1; the two normalisations over 3x3
    positions, behind strides 2 and 8, add 2 * 2 and 2 * 8."""
    report = report_receptive_field("zf")
    assert [field.size for field in (*report.backbone, *report.rpn)] == [(159, 159), (191, 191)]
    assert measured_fields("zf") == report.rpn
    zf = faster_rcnn("zf", 2).backbone
    zf.norm = nn.Identity()
    assert receptive_field(zf, nn.Conv2d(256, 8, 3, padding=1))[0].size == (171, 171)


class TinyPyramid(nn.Module):
    """A residual network with a wide shortcut, a dilated block and a top-down path."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.shortcut = nn.Conv2d(4, 4, (1, 9), padding=(0, 4))  # wider than high
        self.down = nn.Conv2d(4, 4, 2, 2)

    def forward(self, image):
        fine = self.pool(self.stem(image))
        fine = F.relu_(self.block(fine) + self.shortcut(fine))
        coarse = F.avg_pool2d(self.down(fine), 2)
        return {"fine": fine + F.interpolate(coarse, scale_factor=4.0), "coarse": coarse}


@pytest.mark.parametrize(("level", "period"), [(0, 4), (1, 1)])
@pytest.mark.parametrize("head", [None, nn.Conv2d(4, 1, 3, padding=1)])
def test_arithmetic_and_gradient_agree(level, period, head):
    field = receptive_field(TinyPyramid(), head)[level]
    assert field == gradient_field(TinyPyramid(), head, level=level, period=period)
    assert field.size[1] > field.size[0]


def test_upsampled_positions_see_the_same_pixels():
    """One position sees a coarse field; the hull over the copies is longer by their distance."""
    field = receptive_field(TinyPyramid())[0]
    single = gradient_field(TinyPyramid(), level=0)
    assert single.stride == field.stride
    assert single.size[0] < field.size[0] <= single.size[0] + 3 * field.stride[0]


def test_tiny_agrees_too():
    model = faster_rcnn("tiny", 2)
    (field,) = receptive_field(RPNMaps(model), model.rpn.head.conv)
    assert field == gradient_field(RPNMaps(model), model.rpn.head.conv)


def test_resnet50_of_torchvision():
    resnet = pytest.importorskip("torchvision").models.resnet50
    with torch.device("meta"):
        layers = list(resnet(weights=None).children())
    (c4,) = receptive_field(nn.Sequential(*layers[:7]))
    (c5,) = receptive_field(nn.Sequential(*layers[:8]))
    assert (c4.size[0], c5.size[0]) == (267, 427)


def test_a_dead_path_is_seen_nevertheless():
    """Weights that are 0, negative or cancel out do not shrink the measured field."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.constant_(network[0].weight, -1.0)
    nn.init.constant_(network[1].weight, 0.0)
    assert gradient_field(network).size == (3, 3)
    assert network[0].weight.unique().tolist() == [-1.0]  # the network itself is not touched


class Mixer(nn.Module):
    def forward(self, image):
        return image * image.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    "network",
    [Mixer(), nn.Flatten(), nn.ConvTranspose2d(3, 4, 2, 2), nn.Upsample(scale_factor=1.5)],
)
def test_what_cannot_be_followed_is_refused(network):
    with pytest.raises(ValueError, match="cannot follow aten"):
        receptive_field(network)


def test_a_map_without_the_image_is_refused():
    class Constant(nn.Module):
        def forward(self, image):
            return torch.ones(1, 1, 4, 4, device=image.device)

    with pytest.raises(ValueError, match="does not depend on the image"):
        receptive_field(Constant())


def test_a_field_without_end_is_refused():
    with pytest.raises(ValueError, match="does not end"):
        gradient_field(Mixer())


def test_vgg16_does_not_cover_256_and_512():
    report = report_receptive_field("vgg16")
    assert {(row["size"], row["covered"]) for row in report.rows} == {
        (128, "yes"),
        (256, "no"),
        (512, "no"),
    }
    assert report.summary[0]["backbone"] == "196×196"
    square = next(a for a in report.anchors if a.row["anchor"] == "256×256")
    assert square.share == pytest.approx((228 / 256) ** 2)


def test_a_shifted_anchor_is_not_covered():
    (field,) = receptive_field(nn.Conv2d(3, 1, 3, padding=1))  # sees -1 to 2
    cells = torch.tensor([[[-1.0, -1, 2, 2], [-1, -1, 2, 2.5], [-1.5, -1, 1.5, 2]]])
    rows = anchor_coverage(cells, [field])
    assert [row.covered for row in rows] == [True, False, False]
    assert [row.share for row in rows] == pytest.approx([1, 3 / 3.5, 2.5 / 3])
    with pytest.raises(ValueError, match="levels"):
        anchor_coverage(cells, [])


def test_report_follows_options():
    report = report_receptive_field("vgg16", preset="py-faster-rcnn")
    assert report.anchors[0].box == (-84, -40, 99, 55)
