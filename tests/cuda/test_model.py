"""The detector on a GPU: no synchronisation, whole steps in CUDA graphs, compiled in one piece."""

import pytest
import torch
from gpu_cases import needs_gpu

from fastrpn.inference import Predictor
from fastrpn.inference.cuda_graph import graphed
from fastrpn.models import faster_rcnn

pytestmark = needs_gpu


@pytest.fixture(autouse=True)
def exact_matrix_products():
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def model_of(name: str = "tiny", **options):
    torch.manual_seed(0)
    return faster_rcnn(name, num_classes=4, box_score_threshold=0.0, **options)


def images_of(*sizes: tuple[int, int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets_of(images: list[torch.Tensor], device: str) -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor([[5.0, 8, 60, 70], [30, 10, 80, 50]], device=device)
    return [{"boxes": boxes, "labels": torch.tensor([1, 2], device=device)} for _ in images]


def check_lists(actual, expected, atol=1e-3):
    for a, e in zip(actual, expected, strict=True):
        for name in e:
            torch.testing.assert_close(a[name].cpu(), e[name].cpu(), rtol=1e-3, atol=atol)


@pytest.mark.parametrize("name", ["tiny", "resnet18_fpn"])
def test_detects_what_the_cpu_detects(name):
    model, images = model_of(name, min_size=128, max_size=160).eval(), images_of((128, 160))
    with torch.no_grad():
        expected = model(images)[0]["scores"]
        actual = model.cuda()([image.cuda() for image in images])[0]["scores"].cpu()
    assert len(actual) > 0
    torch.testing.assert_close(actual[:20], expected[:20], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("target_device", ["cpu", "cuda"])
def test_a_training_step_waits_for_nothing(target_device):
    model = model_of().cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    images = [image.cuda() for image in images_of((96, 128), (128, 96))]
    targets = targets_of(images, target_device)

    def step():
        optimizer.zero_grad()
        loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
        return loss

    step()  # what happens once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_detection_waits_for_nothing(no_sync):
    torch.cuda.set_sync_debug_mode("default")
    model = model_of().cuda().eval()
    images = [image.cuda() for image in images_of((96, 128), (128, 96))]
    with torch.no_grad():
        model(images)
        torch.cuda.set_sync_debug_mode("error")
        detections = model.detect(model.transform(images))
        torch.cuda.set_sync_debug_mode("default")
    assert (detections.counts > 0).all()


def test_a_training_step_in_a_graph():
    model = model_of().cuda().train()
    images = [image.cuda() for image in images_of((96, 128), (96, 128))]
    batch = model.transform(images)
    ground_truth = model.transform.ground_truth(targets_of(images, "cuda"), images, batch)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step():
        loss = sum(model.losses(batch, ground_truth).values())
        return loss, torch.autograd.grad(loss, parameters)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradients = step()
    seen = set()
    for seed in range(3):
        batch.images.copy_(torch.randn(batch.images.shape, device="cuda") * (1 + seed))
        graph.replay()
        assert loss.isfinite() and all(g.isfinite().all() for g in gradients)
        seen.add(loss.item())
    assert len(seen) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_detect_what_the_model_detects(dtype):
    model = model_of().cuda().eval()
    run = graphed(model, max_graphs=2)
    with torch.no_grad(), torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        for seed, size in enumerate([(96, 128), (128, 96), (96, 128), (160, 160), (96, 128)]):
            images = [image.cuda() for image in images_of(size, seed=seed)]
            check_lists(run(images), model(images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_predictor_replays_graphs(precision, monkeypatch):
    model = model_of().cuda().eval()
    monkeypatch.setattr("fastrpn.inference.predictor.load_model", lambda *_: (model, ["none"] * 4))
    images = [torch.randint(256, size, dtype=torch.uint8).numpy() for size in [(96, 128, 3)] * 3]
    options = {"device": "cuda", "batch_size": 2, "precision": precision}
    graphs = Predictor("any.pt", cuda_graph=True, **options)
    for _ in range(2):
        check_lists(graphs(images), Predictor("any.pt", **options)(images))


@pytest.mark.parametrize("half", ["detect", "losses"])
def test_compiles_in_one_piece(half):
    torch.compiler.reset()
    model = model_of().cuda().train(half == "losses")
    images = [image.cuda() for image in images_of((96, 128))]
    batch = model.transform(images)
    if half == "detect":
        with torch.no_grad():
            expected = model.detect(batch)
            actual = torch.compile(model.detect, fullgraph=True)(batch)
        torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-3, atol=1e-3)
    else:
        ground_truth = model.transform.ground_truth(targets_of(images, "cuda"), images, batch)
        losses = torch.compile(model.losses, fullgraph=True)(batch, ground_truth)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
