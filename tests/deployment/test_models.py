"""Every model in every format and runtime; `python -m benchmarks.deployment` tabulates it."""

import pytest

from benchmarks.deployment import RUNTIMES, compare, run_exported
from fastrpn.data import generate_synthetic
from fastrpn.demo import demo_config
from fastrpn.training import train
from tests.deployment.detectors import MODELS, images_of_mixed_sizes

pytest.importorskip("onnxscript")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_exports_and_finds_the_same(name, tmp_path):
    for library in ("timm", "torchvision"):
        if name.startswith(library):
            pytest.importorskip(library)
    model = MODELS[name]()
    images = images_of_mixed_sizes(8)
    for runtime in RUNTIMES:
        run, _ = run_exported(model, runtime, tmp_path)
        difference = compare(model, runtime, run, images)
        assert difference.detections > 50 and difference.pixel_off < 4, runtime
        assert difference.unmatched <= 0.01 * difference.detections, runtime


@pytest.mark.slow
def test_a_trained_model_finds_the_same_everywhere(tmp_path):
    data = generate_synthetic(tmp_path / "data", num_train=200, num_val=20, progress=False)
    config = demo_config(data, tmp_path / "run", seed=0)
    config.steps, config.progress = 400, False
    model = train(config).model.eval()
    images = images_of_mixed_sizes(20, data / "JPEGImages")
    for runtime in RUNTIMES:
        run, _ = run_exported(model, runtime, tmp_path)
        difference = compare(model, runtime, run, images)
        assert difference.detections > 50, runtime
        assert difference.unmatched <= 0.01 * difference.detections, runtime
