"""The cache of CUDA graphs, with a recorder that needs no GPU (tests/cuda runs the real one)."""

import pytest
import torch

from fastrpn.inference import Predictor
from fastrpn.inference.cuda_graph import GraphCache, detect_lists, graphed, pad_to_multiple
from fastrpn.models import faster_rcnn
from fastrpn.models.structures import ImageBatch


class Recorder:
    """Stands for the recording of graphs: remembers for which shapes it was asked."""

    def __init__(self):
        self.shapes = []

    def __call__(self, batch):
        recorded = tuple(batch.images.shape)
        self.shapes.append(recorded)

        def replay(other):
            assert tuple(other.images.shape) == recorded
            return other.images.sum(), other.sizes

        return replay


def batch_of(count, height, width):
    sizes = torch.tensor([[height, width]] * count)
    return ImageBatch(torch.ones(count, 3, height, width), sizes)


def test_one_graph_for_each_bucket_of_shapes():
    record = Recorder()
    detect = GraphCache(record, step=64)
    for shape in [(1, 50, 60), (1, 64, 64), (2, 50, 60), (1, 65, 64), (1, 33, 1)]:
        total, sizes = detect(batch_of(*shape))
        assert total == 3 * shape[0] * shape[1] * shape[2]  # padding is zero
        assert sizes.tolist() == [[shape[1], shape[2]]] * shape[0]
    assert record.shapes == [(1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 128, 64)]


def test_the_shape_not_used_for_longest_is_forgotten():
    record = Recorder()
    detect = GraphCache(record, step=1, max_graphs=2)
    for width in [1, 2, 1, 3, 1, 2]:  # 3 replaces 2, then 2 replaces 3
        detect(batch_of(1, 1, width))
    assert [shape[3] for shape in record.shapes] == [1, 2, 3, 2]


def test_padding_keeps_what_needs_none():
    images = torch.ones(1, 3, 64, 96)
    assert pad_to_multiple(images, 32) is images
    assert pad_to_multiple(images, 64).shape == (1, 3, 64, 128)


@pytest.mark.parametrize("option", ["step", "max_graphs"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        GraphCache(Recorder(), **{option: 0})


def test_a_cpu_is_refused(tmp_path, monkeypatch):
    model = faster_rcnn("tiny", num_classes=3).eval()
    with pytest.raises(ValueError, match="cuda_graph: the model must be on a CUDA device.*cpu"):
        graphed(model)
    monkeypatch.setattr(
        "fastrpn.inference.predictor.load_model", lambda *_: (model, ["a", "b", "c"])
    )
    with pytest.raises(ValueError, match="cuda_graph"):
        Predictor(tmp_path / "any.pt", cuda_graph=True)


def test_the_model_detects_through_the_cache():
    """With a recorder that does not record, the lists are the model's own."""
    model = faster_rcnn("tiny", num_classes=3, box_score_threshold=0.0).eval()
    images = [torch.rand(3, 70, 90), torch.rand(3, 90, 70)]
    with torch.no_grad():
        expected = model(images)
        actual = detect_lists(model, GraphCache(lambda batch: model.detect), images)
    assert len(expected[0]["boxes"]) > 0
    for a, e in zip(actual, expected, strict=True):
        for name in e:
            assert torch.equal(a[name], e[name])
