"""Detection in files: what is written, what is refused, and the same from two processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from fastrpn.data import BadDataError
from fastrpn.errors import BadDataPolicy
from fastrpn.images import read_image, write_image
from fastrpn.inference import Predictor
from fastrpn.inference.detect import detect_files
from fastrpn.inference.media import Frame, count_frames, list_media, read_media
from fastrpn.inference.writers import CSV_COLUMNS, VideoWriter
from fastrpn.models import faster_rcnn
from fastrpn.models.checkpoint import describe_model, load_checkpoint, save_checkpoint

CLASSES = ["__background__", "cat", "dog"]
SMALL = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 20, "box_score_threshold": 0.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = faster_rcnn("tiny", len(CLASSES), **SMALL)
    content = {"model": describe_model("tiny", model, CLASSES), "weights": model.state_dict()}
    return save_checkpoint(tmp_path_factory.mktemp("model") / "last.pt", content)


@pytest.fixture
def predictor(checkpoint):
    return Predictor(checkpoint, batch_size=2)


def picture(number):
    """A bright square that moves to the right with the number."""
    image = np.full((48, 80, 3), 40, np.uint8)
    image[10:30, 4 * number : 4 * number + 20] = (230, 60, 20)
    return image


@pytest.fixture
def folder(tmp_path):
    """Three images, a video of seven frames and a file that is neither."""
    root = tmp_path / "in"
    for number in range(3):
        write_image(root / f"{number}.png", picture(number))
    with VideoWriter(root / "clip.avi", 12.5) as video:
        for number in range(7):
            video.write(picture(number))
    (root / "notes.txt").write_text("not media")
    return root


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while (frame := video.read()[1]) is not None:
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_media_come_in_order_with_their_names(folder):
    files = list_media([folder])
    assert [file.name for file in files] == ["0.png", "1.png", "2.png", "clip.avi"]
    frames = list(read_media(files, BadDataPolicy("stop")))
    assert count_frames(files) == len(frames) == 10
    assert [frame.number for frame in frames] == [None] * 3 + list(range(7))
    assert frames[0].name == str(folder / "0.png")
    assert frames[5].name == f"{folder / 'clip.avi'}#2" and frames[5].rate == 12.5
    np.testing.assert_array_equal(frames[1].image, picture(1))
    assert np.abs(frames[5].image.astype(int) - picture(2)).mean() < 5  # the codec is lossy


def test_reading_runs_only_a_little_ahead(tmp_path, monkeypatch):
    from fastrpn.inference import media

    read = []
    monkeypatch.setattr(media, "read_image", lambda path, exif: read.append(path) or picture(0))
    frames = read_media([tmp_path / f"{i}.png" for i in range(100)], BadDataPolicy("stop"))
    for _ in range(3):
        next(frames)
    frames.close()
    assert 3 <= len(read) <= 3 + 2 * media._AHEAD


def test_pictures_videos_json_and_csv(predictor, folder, tmp_path):
    out = tmp_path / "out"
    done = detect_files(
        predictor, [folder], out, progress=False, formats=["pictures", "json", "csv"]
    )
    assert sorted(path.name for path in out.iterdir()) == [
        *("0.jpg", "1.jpg", "2.jpg", "clip.mp4", "detections.csv", "detections.json")
    ]
    frames, rate = frames_of(out / "clip.mp4")
    assert len(frames) == 7 and rate == 12.5 and frames[0].shape == (48, 80, 3)
    plain = frames_of(folder / "clip.avi")[0]
    assert np.abs(frames[0].astype(int) - plain[0]).max() > 60  # boxes were drawn

    results = json.loads((out / "detections.json").read_text())
    assert done.num_images == 10 and done.num_detections == len(results) > 0
    ids = list(dict.fromkeys(result["image_id"] for result in results))
    videos = [f"{folder / 'clip.avi'}#{number}" for number in range(7)]
    assert ids == [str(folder / f"{number}.png") for number in range(3)] + videos
    found = predictor(folder / "0.png")
    first = [result for result in results if result["image_id"] == ids[0]]
    scores = [result["score"] for result in first]
    np.testing.assert_allclose(scores, found["scores"], atol=1e-5)

    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results) and tuple(rows[0]) == CSV_COLUMNS
    assert {row["class"] for row in rows} <= {"cat", "dog"}
    x, y, width, height = results[0]["bbox"]
    box = [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=0.006)


def test_no_detection_still_gives_valid_files(predictor, folder, tmp_path):
    predictor.score_threshold = 2.0
    detect_files(predictor, [folder / "0.png"], tmp_path, progress=False, formats=["json", "csv"])
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "detections.csv").read_text().splitlines() == [",".join(CSV_COLUMNS)]
    assert not list(tmp_path.glob("*.jpg"))


def test_bad_files_stop_or_are_skipped_by_name(predictor, folder, tmp_path):
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BadDataError, match=r"1\.png"):
        detect_files(predictor, [folder], tmp_path / "a", progress=False)
    assert not list((tmp_path / "a").glob("*detections*"))
    done = detect_files(predictor, [folder], tmp_path / "b", "skip", progress=False)
    assert done.num_images == 9
    assert [Path(text.partition(":")[0]).name for text in done.skipped] == ["1.png", "broken.mp4"]


def test_an_unfinished_video_does_not_appear(predictor, folder, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        detect_files(predictor, [folder / "clip.avi"], tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_refusals(predictor, folder, tmp_path):
    write_image(folder / "3.jpg", picture(3))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"3\.jpg would replace an input"):
        detect_files(predictor, [folder], folder, progress=False)
    with pytest.raises(ValueError, match="formats must be some of .* got 'xml'"):
        detect_files(predictor, [folder], tmp_path, progress=False, formats=["xml"])
    with pytest.raises(FileNotFoundError, match="no image or video in"):
        list_media([empty])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        next(predictor.stream("nowhere"))
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        Predictor("last.pt", precision="fp8")


def test_folders_below_folders_keep_their_places(predictor, tmp_path):
    root = tmp_path / "in"
    places = [
        "x.png",
        "day/x.png",
        "day/x.jpg",
        "night/deep/x.png",
        "night/.hidden/x.png",
        ".x.png",
    ]
    for place in places:
        write_image(root / place, picture(0))
    for _ in range(2):  # what the first run wrote is no input of the second
        done = detect_files(predictor, [root, root / "x.png"], root / "out", progress=False)
        assert done.num_images == 4
    found = sorted(str(path.relative_to(root / "out")) for path in (root / "out").rglob("*.jpg"))
    assert found == ["day/x-2.jpg", "day/x.jpg", "night/deep/x.jpg", "x.jpg"]
    results = json.loads((root / "out/detections.json").read_text())
    assert {result["image_id"] for result in results} <= {str(root / place) for place in places}


def test_pictures_of_one_name_do_not_replace_each_other(predictor, tmp_path):
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "x.png", picture(0))
    detect_files(predictor, [tmp_path / "a", tmp_path / "b"], tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["x-2.jpg", "x.jpg"]


def test_stream_equals_single_calls(predictor, folder):
    for frame, found in predictor.stream([folder / "2.png", folder / "0.png"]):
        assert isinstance(frame, Frame)
        alone = predictor(read_image(frame.path))
        torch.testing.assert_close(found["boxes"], alone["boxes"], atol=1e-3, rtol=0)
        assert torch.equal(found["labels"], alone["labels"])


def test_a_model_in_memory_will_do(checkpoint, folder):
    model = faster_rcnn("tiny", 3, **SMALL)
    model.load_state_dict(load_checkpoint(checkpoint)["weights"])
    detect = Predictor(model, classes=["cat", "dog"])
    assert detect.classes == CLASSES and not model.training
    expected = Predictor(checkpoint)(folder / "0.png")
    assert torch.equal(detect(folder / "0.png")["scores"], expected["scores"])
    assert Predictor(model).classes == ["__background__", "1", "2"]
    with pytest.raises(ValueError, match="classes has 2 names with the background, the model 3"):
        Predictor(model, classes=["cat"])


def test_bf16_finds_nearly_the_same(checkpoint, folder):
    single = Predictor(checkpoint)(folder / "0.png")
    half = Predictor(checkpoint, precision="bf16")(folder / "0.png")
    assert half["boxes"].dtype == half["scores"].dtype == torch.float32
    assert not torch.equal(half["scores"], single["scores"])
    torch.testing.assert_close(
        half["scores"].topk(5).values, single["scores"].topk(5).values, atol=0.02, rtol=0
    )


def test_processes_share_the_files(checkpoint, folder, tmp_path):
    (folder / "1.png").write_bytes(b"no picture")
    command = ["detect", "--checkpoint", str(checkpoint), "--score-threshold", "0"]
    command += ["--formats", "pictures", "json", "csv", "--on-bad-data", "skip", str(folder)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shared = subprocess.run(
        [sys.executable, *launch, "fastrpn", *command, "--output", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("objects in 9 images") == 1
    assert shared.stderr.count("skipped: ") == 1 and "1.png" in shared.stderr
    detect_files(
        Predictor(checkpoint),
        [folder],
        tmp_path / "one",
        "skip",
        progress=False,
        formats=["pictures", "json", "csv"],
    )
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    alone, together = (
        json.loads((tmp_path / name / "detections.json").read_text()) for name in ("one", "two")
    )
    assert [r["image_id"] for r in together] == [r["image_id"] for r in alone]
    for key in ("bbox", "score"):
        np.testing.assert_allclose(
            [r[key] for r in together], [r[key] for r in alone], rtol=0, atol=1e-3
        )


def test_a_model_in_memory_stays_where_it_is(monkeypatch):
    model = faster_rcnn("tiny", 3, **SMALL)
    monkeypatch.setattr(model, "to", lambda *_: pytest.fail("the model was moved"))
    detect = Predictor(model, device="cuda:7")  # the device of checkpoints
    assert detect.device == torch.device("cpu")
    assert set(detect(torch.rand(3, 64, 64))) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize(
    ("gpu", "compiled", "device"), [(0, 1, "cpu"), (1, 0, "cpu"), (0, 0, "cpu")]
)
def test_auto_takes_a_gpu_only_where_torch_and_our_kernels_can(gpu, compiled, device, monkeypatch):
    from fastrpn import distributed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    built = SimpleNamespace(build_info=lambda: {"cuda_version": "13.0" if compiled else ""})
    monkeypatch.setattr(distributed, "core", lambda: built)
    assert distributed.local_device("auto") == torch.device(device)


def test_auto_asks_for_the_gpu_that_is_there(monkeypatch):
    from fastrpn import distributed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    built = SimpleNamespace(build_info=lambda: {"cuda_version": "13.0"})
    monkeypatch.setattr(distributed, "core", lambda: built)
    monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(device))
    asked = []
    assert distributed.local_device("auto") == torch.device("cuda:0") == asked[0]
