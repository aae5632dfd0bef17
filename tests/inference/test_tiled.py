"""Large images in tiles: where they lie, and that objects on their borders come out once."""

import json

import pytest
import torch

from fastrpn import ops
from fastrpn.cli import main
from fastrpn.data import Tiles, generate_synthetic, open_dataset
from fastrpn.images import read_image
from fastrpn.inference import Predictor
from fastrpn.inference.tiled import TiledDetector
from fastrpn.models import faster_rcnn
from fastrpn.tiling import boxes_in_tile, tile_grid
from fastrpn.training import TrainConfig, train


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("tile", [1, 7, 64, 100, 101, 250])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (100, 100), (101, 64), (333, 250)])
def test_tiles_cover_the_image_with_the_overlap(size, tile, overlap):
    height, width = size
    tiles = tile_grid(height, width, tile, overlap)
    covered = torch.zeros(height, width, dtype=torch.int64)
    for x1, y1, x2, y2 in tiles.tolist():
        assert (x2 - x1, y2 - y1) == (min(tile, width), min(tile, height))
        assert x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1 and len(tiles.unique(dim=0)) == len(tiles)
    for low, high, side in ((0, 2, width), (1, 3, height)):
        starts = tiles[:, low].unique()
        step = starts.diff().max() if len(starts) > 1 else 0
        assert step <= max(1, tile * (1 - overlap)) + 1 and tiles[:, high].max() == side
    if tile >= max(size):
        assert tiles.tolist() == [[0, 0, width, height]]


def test_as_few_tiles_as_cover_the_image():
    assert len(tile_grid(400, 400, 400)) == 1
    assert tile_grid(1, 500, 300, 0.2).tolist() == [[0, 0, 300, 1], [200, 0, 500, 1]]
    for bad in ({"tile": 0}, {"tile": 9, "overlap": 1.0}, {"tile": 9, "overlap": -0.1}):
        with pytest.raises(ValueError, match="must"):
            tile_grid(10, 10, **bad)


def test_an_object_belongs_to_a_tile_that_has_half_of_it():
    boxes = torch.tensor([[90.0, 0, 110, 10], [91, 0, 111, 10], [89, 0, 109, 10], [120, 0, 130, 9]])
    found, kept = boxes_in_tile(boxes, torch.tensor([0, 0, 100, 100]))
    assert kept.tolist() == [True, False, True, False]
    assert found.tolist() == [[90, 0, 100, 10], [89, 0, 100, 10]]
    found, kept = boxes_in_tile(boxes, torch.tensor([100, 5, 200, 50]))
    assert kept.tolist() == [False, False, False, False] and found.shape == (0, 4)


class Painted(torch.nn.Module):
    """Detects rectangles painted in (label, score) as far as the image shows them."""

    def forward(self, images, **_):
        return [self.detect(image) for image in images]

    def detect(self, image):
        boxes, labels, scores = [], [], []
        for number in image[0].unique().tolist():
            if number == 0:
                continue
            rows, columns = torch.where(image[0] == number)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(int(number) % 3 + 1)
            # The less of it is seen the surer: the worst case for joining.
            scores.append(1 - len(rows) / 1e5)
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return {"boxes": found, "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def painted(boxes, size):
    image = torch.zeros(3, *size)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        image[:, y1:y2, x1:x2] = number
    return image


def test_objects_on_borders_come_out_once_and_whole():
    # Tiles of 100 start at 0, 75, 150, 225 and 300: overlaps at 75..100 and so on.
    boxes = [
        [80, 10, 99, 29],  # inside an overlap: in both tiles whole
        [70, 40, 90, 60],  # cut by the second tile
        [95, 80, 110, 95],  # cut by the first, in two directions
        [160, 160, 174, 174],  # in four tiles
        [0, 390, 20, 400],  # at the image's corner
        [390, 0, 400, 20],
        [225, 225, 245, 245],  # begins where a tile does
        [310, 310, 311, 311],
    ]
    image = painted(boxes, (400, 400))
    expected = Painted().detect(image)
    found = TiledDetector(Painted(), tile=100, overlap=0.25)([image])[0]
    order = expected["scores"].argsort(descending=True)
    assert {tuple(box) for box in found["boxes"].tolist()} == {tuple(b) for b in boxes}
    assert len(found["boxes"]) == len(boxes)
    of_box = dict(zip(map(tuple, expected["boxes"].tolist()), expected["labels"], strict=True))
    for box, label in zip(found["boxes"].tolist(), found["labels"], strict=True):
        assert of_box[tuple(box)] == label
    assert (found["scores"].diff() <= 0).all() and len(order) == len(boxes)


def test_random_objects_smaller_than_the_overlap_come_out_as_without_tiles():
    rng = torch.Generator().manual_seed(0)
    for size in ((350, 500), (100, 777), (640, 99)):
        boxes, taken = [], torch.zeros(size, dtype=torch.bool)
        while len(boxes) < 40:
            height, width = (int(v) for v in torch.randint(3, 20, (2,), generator=rng))
            y = int(torch.randint(size[0] - height, (1,), generator=rng))
            x = int(torch.randint(size[1] - width, (1,), generator=rng))
            if not taken[y : y + height, x : x + width].any():
                taken[y : y + height, x : x + width] = True
                boxes.append([x, y, x + width, y + height])
        image = painted(boxes, size)
        found = TiledDetector(Painted(), tile=90, overlap=0.25, batch_size=3)([image])[0]
        assert sorted(found["boxes"].tolist()) == sorted([float(v) for v in box] for box in boxes)


def test_the_parts_of_an_object_that_is_whole_nowhere_stay():
    image = painted([[10, 10, 190, 30]], (200, 200))
    found = TiledDetector(Painted(), tile=100, overlap=0.2)([image])[0]
    assert len(found["boxes"]) >= 2
    assert found["boxes"][:, 0].min() == 10 and found["boxes"][:, 2].max() == 190


def test_no_object_and_a_small_image():
    detector = TiledDetector(Painted(), tile=100)
    assert detector([torch.zeros(3, 300, 300)])[0]["boxes"].shape == (0, 4)
    image = painted([[1, 2, 30, 40]], (60, 99))
    whole, found = Painted().detect(image), detector([image])[0]
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    data = generate_synthetic(root / "data", 4, 2, seed=3, image_size=(160, 200), progress=False)
    config = TrainConfig(
        data=str(data),
        output=str(root / "run"),
        model_options={"min_size": 96, "max_size": 96, "box_batch_size": 16},
        **{"batch_size": 2, "steps": 3, "warmup_steps": 1, "pictures": 1, "progress": False},
        **{"tile": 100, "overlap": 0.25, "crop": 80, "quarter_turns": True, "eval_every": 1},
    )
    return data, train(config)


def test_training_and_evaluation_on_tiles(trained):
    data, result = trained
    dataset = open_dataset(data, "val")
    tiles = Tiles(dataset, 100, 0.25)
    assert result.metrics["num_images"] == len(tiles) == 2 * 2 * 3
    for index, (image, target) in enumerate(tiles[i] for i in range(len(tiles))):
        number, x1, y1, x2, y2 = tiles.tiles[index].tolist()
        assert torch.equal(image, dataset[number][0][:, y1:y2, x1:x2])
        assert tiles.sizes[index] == tuple(image.shape[1:]) == (100, 100)
        where = target["boxes"] + torch.tensor([x1, y1, x1, y1])
        whole = dataset.target(number)
        if len(where):
            best, which = ops.box_iou(where, whole["boxes"]).max(1)
            assert (best >= 0.5 - 1e-6).all()
            assert torch.equal(whole["labels"][which], target["labels"])


def test_predictor_and_commands_take_tiles(trained, tmp_path, capsys):
    data, result = trained
    file = next((data / "JPEGImages").iterdir())
    tiled = Predictor(
        result.checkpoint, tile=100, overlap=0.25, score_threshold=0.01, backend="eager"
    )
    found = tiled(file)
    model = tiled.model
    expected = TiledDetector(model, 100, 0.25, model.config.box_nms_threshold)
    with torch.inference_mode():
        image = torch.from_numpy(read_image(file)).permute(2, 0, 1).float() / 255
        direct = expected([image], score_threshold=tiled._floor(0.01))[0]
    keep = direct["scores"] >= 0.01
    assert torch.equal(found["boxes"], direct["boxes"][keep]) and len(found["boxes"]) > 0
    common = ["--checkpoint", str(result.checkpoint), "--tile", "100", "--overlap", "0.25"]
    output = tmp_path / "found"
    main(["detect", str(file), *common, "--output", str(output), "--score-threshold", "0.01"])
    entries = json.loads((output / "detections.json").read_text())
    assert len(entries) == len(found["boxes"])
    main(["eval", "--data", str(data), *common])
    capsys.readouterr()
    for wrong in (["--tile", "0"], ["--overlap", "1"]):
        with pytest.raises(SystemExit) as end:
            main(["detect", str(file), *common, *wrong, "--output", str(output)])
        assert end.value.code == 2


def soft_reference(boxes, scores, labels, method, sigma, iou_threshold, score_threshold, limit):
    """Algorithm 1 of the soft-NMS paper, class by class, in plain torch."""
    found = []
    for label in labels.unique():
        b, s = boxes[labels == label].double(), scores[labels == label].double()
        while len(s) and s.max() > score_threshold:
            best = s.argmax()
            found.append((float(s[best]), b[best].tolist(), int(label)))
            iou = ops.box_iou(b[best : best + 1], b)[0]
            if method == "linear":
                weight = torch.where(iou > iou_threshold, 1 - iou, 1.0)
            else:
                weight = torch.exp(-(iou**2) / sigma)
            rest = torch.arange(len(s)) != best
            b, s = b[rest], (s * weight)[rest]
    return sorted(found, key=lambda entry: -entry[0])[:limit]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_of_the_detections(method):
    torch.manual_seed(0)
    options = {"min_size": 64, "max_size": 64, "box_score_threshold": 0.1, "box_nms": method}
    model = faster_rcnn("tiny", 4, **options, detections_per_image=30).eval()
    seen = []
    head = model.roi_head

    def nothing(logits, deltas, proposals, sizes, score_threshold=None):
        scores = logits.softmax(-1)[:, :, 1:]
        boxes = head._decode(deltas[:, :, 1:], proposals.boxes, sizes)
        seen.append((boxes, scores))
        return type(head).detect(head, logits, deltas, proposals, sizes, score_threshold)

    head.detect = nothing
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        found = model([image, torch.rand(3, 50, 64)])
    for image_number, result in enumerate(found):
        boxes, scores = seen[0][0][image_number], seen[0][1][image_number]
        labels = torch.arange(1, 4).expand(len(boxes), 3)
        size = boxes[..., 2:] - boxes[..., :2]
        ok = (size >= 1e-2).all(-1)
        expected = soft_reference(
            *(boxes[ok], scores[ok], labels[ok], method, 0.5, model.config.box_nms_threshold),
            *(0.1, 30),
        )
        assert len(result["scores"]) == len(expected) > 5
        assert result["scores"].tolist() == pytest.approx([e[0] for e in expected], abs=1e-5)
    hard = Predictor(model, nms="hard")
    assert model.config.box_nms == "hard" and len(hard(image)["boxes"]) > 0
    with pytest.raises(ValueError, match="box_nms must be one of hard, linear, gaussian"):
        Predictor(model, nms="medium")
