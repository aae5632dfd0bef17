import numpy as np
import pytest
import torch

from fastrpn.data import (
    BadDataError,
    ProposalSet,
    RandomHorizontalFlip,
    VOCDataset,
    WithProposals,
    generate_synthetic,
)

BOXES = torch.tensor([[0.0, 0, 4, 4], [1, 2, 3, 9], [5, 5, 6, 7.5]])


@pytest.fixture
def proposals():
    return ProposalSet.collect(
        "rpn",
        {
            7: (BOXES, torch.tensor([0.2, 0.9, 0.9])),
            -2: (torch.zeros(0, 4), torch.zeros(0)),
            3: (BOXES[:1], torch.tensor([0.5])),
        },
    )


def test_collect_sorts_best_first_and_keeps_ties_in_order(proposals):
    boxes, scores = proposals[7]
    assert boxes.tolist() == BOXES[[1, 2, 0]].tolist()
    assert scores.tolist() == pytest.approx([0.9, 0.9, 0.2])
    assert list(proposals) == [7, -2, 3] and len(proposals) == 3 and 4 not in proposals
    assert proposals[-2][0].shape == (0, 4)


def test_save_and_load(proposals, tmp_path):
    path = proposals.save(tmp_path / "new" / "train.npz")
    loaded = ProposalSet.load(path)
    assert loaded.method == "rpn" and list(loaded) == list(proposals)
    for image_id in proposals:
        for ours, theirs in zip(proposals[image_id], loaded[image_id], strict=True):
            assert torch.equal(ours, theirs)
    assert [entry.name for entry in path.parent.iterdir()] == ["train.npz"]  # no temporary file


def test_a_set_without_images_survives(tmp_path):
    path = ProposalSet.collect("rpn", {}).save(tmp_path / "empty.npz")
    assert len(ProposalSet.load(path)) == 0


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        (BOXES, torch.ones(2)),
        (BOXES[:, :3], torch.ones(3)),
        (BOXES * float("nan"), torch.ones(3)),
        (BOXES, torch.tensor([1, 2, float("inf")])),
    ],
)
def test_collect_refuses(boxes, scores):
    with pytest.raises(ValueError, match="image 5"):
        ProposalSet.collect("rpn", {5: (boxes, scores)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other 3"}, "format is other 3"),
        ({"offsets": np.array([0, 3, 2, 4])}, "offsets"),
        ({"offsets": np.array([0, 3, 3, 5])}, "offsets"),
        ({"offsets": np.array([0, 4])}, "offsets"),
        ({"image_ids": np.array([7, 7, 3])}, "twice"),
        ({"scores": np.zeros(3)}, "scores"),
        ({"boxes": np.full((4, 4), np.inf)}, "finite"),
        ({"boxes": None}, "cannot read"),
    ],
)
def test_load_refuses_contradictions(proposals, tmp_path, change, message):
    path = tmp_path / "bad.npz"
    proposals.save(path)
    arrays = dict(np.load(path)) | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(BadDataError, match=f"bad.npz.*{message}"):
        ProposalSet.load(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_load_refuses_other_files(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="other.npz"):
        ProposalSet.load(path)
    with pytest.raises(BadDataError, match="missing.npz"):
        ProposalSet.load(tmp_path / "missing.npz")


def test_no_code_is_loaded_from_a_file(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, format=np.array([print], dtype=object))
    with pytest.raises(BadDataError, match="pickled.npz"):
        ProposalSet.load(path)


def test_targets_with_proposals(tmp_path):
    data = VOCDataset(
        generate_synthetic(tmp_path, 3, 1, image_size=(64, 96), progress=False), "train"
    )
    boxes = torch.tensor([[0.0, 1, 10, 20], [30, 2, 90, 60]])
    images = {n: (boxes[:n], torch.linspace(1, 0, n)) for n in range(3)}
    joined = WithProposals(data, ProposalSet.collect("rpn", images))
    assert len(joined) == 3 and joined.classes == data.classes
    for i in range(3):
        image, target = joined[i]
        assert torch.equal(image, data[i][0]) and torch.equal(target["boxes"], data[i][1]["boxes"])
        assert torch.equal(target["proposals"], boxes[: target["image_id"]])
    _, mirrored = RandomHorizontalFlip(1.0)(*joined[2], np.random.default_rng(0))
    assert mirrored["proposals"].tolist() == [[86, 1, 96, 20], [6, 2, 66, 60]]
    with pytest.raises(ValueError, match="lack 2 of the data set's images, for example image_id 1"):
        WithProposals(data, ProposalSet.collect("rpn", {0: images[0]}))
