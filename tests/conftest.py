"""What every test has around it: a core for each worker, an accelerate that remembers nothing."""

import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported


LONG = ("test_runs_page", "test_vote_page", "test_sharded", "test_resume", "test_zero")
"""Files that take minutes: begun first, so that both workers have work to the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, then those that drive a browser; the order within a file stays."""
    pages = {item.path for item in items if item.get_closest_marker("browser")}
    items.sort(key=lambda item: (item.path.stem not in LONG, item.path not in pages))


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps the number format of a process's first training for ever."""
    yield
    state = sys.modules.get("accelerate.state")  # not imported for tests that do without torch
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def browser():
    from tests.browsing import chromium

    with chromium() as running:
        yield running
