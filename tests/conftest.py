"""What the tests share: `--all` for the slow ones, and MNIST where it is on this machine."""

import os
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    # those of clusters take longest, and lie on one worker: they begin first, so that the others have work meanwhile
    items.sort(key=lambda item: "sweep" not in item.path.parts)
    if config.getoption("--all"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --all"))


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder with the MNIST files, which DFC_DATA_DIR names; skips where they are missing."""
    from dfc_numba.data.images import FILES, MNIST

    root = Path(os.environ.get("DFC_DATA_DIR") or "nowhere")
    for folder in (root / name for name in MNIST.folders):
        if all(list(folder.glob(f"{name}*")) for name in FILES):
            return root
    pytest.skip("MNIST is not here: set DFC_DATA_DIR to the folder with its four files")


@pytest.fixture(autouse=True)
def registries_as_before():
    """Take out again what a test registered in this process, so that no other test meets it."""
    from dfc_numba.registry import REGISTRIES

    before = [(registry, set(registry)) for registry in REGISTRIES]
    yield
    for registry, names in before:
        for name in set(registry) - names:
            registry.remove(name)
