"""Every hostile file ends in a named error or in a counted skip, in bounded memory."""

import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hostile_files import corpus, make_set

from fastrpn.data import BadDataError, open_dataset
from fastrpn.errors import POLICIES

MOST_MEMORY = 2**30  # bytes beyond what the imports take


def outcome(data: Path, image_set: str, policy: str) -> str:
    """ "opened", "left out" or "refused"; anything else raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            dataset = open_dataset(data, image_set, on_bad_data=policy).checked(progress=False)
            image, target = dataset[0]
        except BadDataError as error:
            folder = data if data.is_dir() else data.parent
            assert str(folder) in str(error), f"the message names no file: {error}"
            assert len(str(error)) < 5000
            return "refused"
    boxes = target["boxes"]
    assert image.isfinite().all() and boxes.isfinite().all()
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes <= max(image.shape)).all()
    if dataset.bad.faults:
        assert any("left out" in str(warning.message) for warning in caught)
        return "left out"
    return "opened"


def main(folder: Path) -> None:
    """Prints the outcome of every case with every policy, and by how much memory has grown."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sets: dict[str, tuple[Path, Path, str]] = {}
    outcomes = {}
    for name, kind, content in corpus():
        if kind not in sets:
            sets[kind] = make_set(folder / kind, kind)
        place, data, image_set = sets[kind]
        good = place.read_bytes() if place.exists() else b""
        place.write_bytes(content)
        for policy in POLICIES:
            try:
                outcomes[f"{name} / {policy}"] = outcome(data, image_set, policy)
            except Exception as error:
                outcomes[f"{name} / {policy}"] = f"{type(error).__name__}: {error}"
        place.write_bytes(good)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps({"outcomes": outcomes, "grown": grown}))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path_factory.mktemp("hostile")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_each_ends_in_a_named_error_or_a_counted_skip(result):
    outcomes = result["outcomes"]
    assert len(outcomes) >= 3 * 200
    known = {"opened", "left out", "refused"}
    assert {name: text for name, text in outcomes.items() if text not in known} == {}
    assert set(outcomes.values()) == known
    # Whoever stops at the first fault never opens more than who leaves faults out.
    for name, text in outcomes.items():
        if text == "refused" and name.endswith("skip"):
            assert outcomes[name.replace("skip", "stop")] == "refused", name


def test_memory_stays_bounded(result):
    assert result["grown"] < MOST_MEMORY


if __name__ == "__main__":
    main(Path(sys.argv[1]))
