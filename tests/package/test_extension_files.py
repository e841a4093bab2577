"""Files and runs that need an extension say which one, in processes that have not loaded it; none of them imports anything."""

import json
import os
import subprocess
import sys

import pytest

EXTENSION = """
import pathlib
import dfc_numba as dfc
from dfc_numba.learning.baselines import backpropagation

pathlib.Path(__file__).with_name("imported").write_text("")


def forward(network, minibatch, config):
    return backpropagation(network, minibatch.x, minibatch.y, loss=config.target.loss)


dfc.register(
    dfc.Activation("softsign", phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2),
    dfc.Method("mine", forward=forward),
    dfc.Measure("size", of=lambda probe: float(abs(probe.update.weights[0]).sum()), needs=["update"]),
)
"""
SMALL = [
    "--epochs=1",
    "--set=network.hidden=[6]",
    "--set=data.options.train_size=64",
    "--set=training.batch_size=32",
]
LOGGED = ["--log", "--set=feedback.train=false", "--set=controller.steps=5", "--set=log.samples=2"]


def dfc(*arguments, cwd, **environment):
    line = [sys.executable, "-m", "dfc_numba", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with an extension and two runs that need it: a method and a measure, and an activation with a log."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.py").write_text(EXTENSION)
    runs = {
        "method": ["--set=training.method=mine", "--set=analysis.every=1", "--set=analysis.what=[size]"],
        "activation": ["--set=network.hidden_activation=softsign", *LOGGED],
    }
    for name, settings in runs.items():
        result = dfc("train", "digits", *SMALL, *settings, "--out", name, "--extension", "lab.py", cwd=folder)
        assert result.returncode == 0, result.stderr
    (folder / "imported").unlink()
    return folder


NEEDS = "needs the extension {lab}/lab.py (SHA-256 {digest}...), which is not loaded; add --extension {lab}/lab.py"


@pytest.mark.parametrize(
    "command",
    [
        ["analyze", "method"],
        ["analyze", "method/checkpoint.h5"],
        ["analyze", "activation"],
        ["replay", "activation"],
        ["train", "--resume", "--out", "method", "--epochs=2"],
        ["train", "--resume", "--out", "activation", "--epochs=2"],
    ],
    ids=" ".join,
)
def test_what_needs_an_extension_says_which_and_imports_nothing(lab, command):
    digest = json.loads((lab / "method" / "run.json").read_text())["extensions"][0]["sha256"][:12]
    result = dfc(*command, cwd=lab)
    assert result.returncode == 2 and NEEDS.format(lab=lab, digest=digest) in result.stderr, result.stderr
    assert not (lab / "imported").exists() and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command", [["analyze", "method", "--what=size"], ["replay", "activation"]], ids=" ".join
)
def test_a_file_is_read_once_its_extension_is_loaded(lab, command):
    result = dfc(*command, "--extension", "lab.py", cwd=lab)
    assert result.returncode == 0, result.stderr
    (lab / "imported").unlink()


def test_weights_say_which_extension_they_need(lab):
    code = "import dfc_numba as dfc; dfc.Network.load('activation/weights_last.h5')"
    result = subprocess.run([sys.executable, "-c", code], cwd=lab, capture_output=True, text=True)
    assert "'softsign'" in result.stderr and f"needs the extension {lab}/lab.py" in result.stderr
    assert not (lab / "imported").exists()


def test_an_installed_package_brings_its_extensions_by_an_entry_point(lab, tmp_path):
    (tmp_path / "my_lab.py").write_text(EXTENSION)
    info = tmp_path / "my_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dfc_numba.extensions]\nmy_lab = my_lab\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = dfc("list", "methods", cwd=tmp_path, PYTHONPATH=path)
    assert "mine" in result.stdout and "(my_lab)" in result.stdout, result.stderr
    (tmp_path / "my_lab.py").write_text("1 / 0")
    result = dfc("list", "methods", cwd=tmp_path, PYTHONPATH=path)
    assert result.returncode == 0 and "mine" not in result.stdout
    assert "the extension my_lab cannot be loaded: ZeroDivisionError" in result.stderr
