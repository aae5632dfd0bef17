"""Skips this folder where the harness cannot run, and says why."""

import pytest

from . import harness


def pytest_collection_modifyitems(items):
    here = [item for item in items if harness.HERE in item.path.parents]
    reason = harness.why_unavailable() if here else None
    if reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))
