"""Every model in every format and runtime; `python -m benchmarks.deployment` tabulates it."""

import pytest

from benchmarks.deployment import RUNTIMES, compare, run_exported
from fastrpn.models.checkpoint import load_model
from fastrpn.training import TrainConfig, train
from tests.deployment.detectors import MODELS, images_of_mixed_sizes

pytest.importorskip("onnxscript")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_exports_and_finds_the_same(name, runtime, tmp_path):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = MODELS[name]()
    run, _ = run_exported(model, runtime, tmp_path)
    difference = compare(model, runtime, run, images_of_mixed_sizes(8))
    assert difference.detections > 50 and difference.pixel_off < 4
    assert difference.unmatched <= 0.01 * difference.detections


@pytest.mark.slow
def test_a_trained_model_finds_the_same_everywhere(tmp_path):
    from fastrpn.data import generate_synthetic

    generate_synthetic(tmp_path / "data", num_train=60, num_val=2, progress=False)
    config = TrainConfig(
        data=tmp_path / "data", output=tmp_path / "run", model="tiny", steps=300, progress=False
    )
    model, _ = load_model(train(config).checkpoint)
    images = images_of_mixed_sizes(20)
    for runtime in RUNTIMES:
        run, _ = run_exported(model, runtime, tmp_path)
        difference = compare(model, runtime, run, images)
        assert difference.detections > 50, runtime
        assert difference.unmatched <= 0.01 * difference.detections, runtime
