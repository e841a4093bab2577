"""Packaging: the sdist is complete, the wheel holds what a user needs, and works away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
OLDEST_SETUPTOOLS = 68


def ignored(folder, names):
    """What is not copied: among others, in the root, the folder of runs."""
    return IGNORED(folder, names) | ({"runs"} & {*names} if Path(folder) == ROOT else set())


def run(*command, cwd, **variables):
    """Standard output of a command, which must end well."""
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A folder for PYTHONPATH with a setuptools that can build this project."""
    folder = tmp_path_factory.mktemp("tools")
    version = subprocess.run(
        [sys.executable, "-c", "import setuptools; print(setuptools.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if version.returncode or int(version.stdout.split(".")[0]) < OLDEST_SETUPTOOLS:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        installed = subprocess.run(
            [*pip, f"setuptools>={OLDEST_SETUPTOOLS}"], capture_output=True, text=True, check=False
        )
        if installed.returncode:
            pytest.skip(
                f"no setuptools >= {OLDEST_SETUPTOOLS} here, and none could be installed: "
                f"{installed.stderr[-300:]}"
            )
    return folder


def built(kind, source, out, tools):
    """The file that setuptools builds from a source tree: kind "sdist" or "wheel"."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    run(sys.executable, "-c", code, cwd=source, PYTHONPATH=tools)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, tools):
    source = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, source, ignore=ignored)
    return built("sdist", source, tmp_path_factory.mktemp("sdist"), tools)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sdist, tools):
    """The wheel, built from the sdist alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (tree,) = folder.iterdir()
    return built("wheel", tree, tmp_path_factory.mktemp("wheel"), tools)


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    """A folder with the unpacked wheel, and one elsewhere to work in."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder, tmp_path_factory.mktemp("elsewhere")


def sources(folder):
    return {path.name for path in (ROOT / folder).glob("*.py")}


def test_the_wheel_holds_every_module_and_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (
        ("dfc_numba", "dfc_numba"),
        ("kernels", "dfc_numba/kernels"),
        ("data", "dfc_numba/data"),
        ("dfc_numba/storage", "dfc_numba/storage"),
    ):
        assert {f"{package}/{name}" for name in sources(folder)} <= names
    assert {
        f"dfc_numba/presets/{path.name}" for path in (ROOT / "dfc_numba" / "presets").glob("*.toml")
    } <= names
    assert {f"dfc_numba/report/page.{ending}" for ending in ("py", "css", "js", "html.jinja")} <= names
    assert {"dfc_numba/py.typed", "dfc_numba/data/digits.csv.gz", "dfc_numba/data/digits.md"} <= names


def test_the_wheel_holds_the_package_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert all(re.match(r"dfc_numba(/|-[\d.]+\.dist-info/)", name) for name in names)
    assert not [name for name in names if "test" in name or name.endswith((".nbi", ".nbc", ".pyc"))]


def test_the_licence_and_the_command_are_in_the_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "dfc = dfc_numba.cli:main" in archive.read(entry_points).decode()
    assert any("LICENSE" in name for name in archive.namelist())


def test_an_installed_wheel_works_elsewhere(installed):
    folder, elsewhere = installed
    code = "import dfc_numba, dfc_numba.kernels, dfc_numba.data as d; d.load('digits'); "
    code += "print(dfc_numba.__file__, dfc_numba.kernels.__file__, d.__file__)"
    files = run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=folder).split()
    assert all(Path(file).is_relative_to(folder) for file in files)
    assert "digits" in run(sys.executable, "-m", "dfc_numba", "presets", cwd=elsewhere, PYTHONPATH=folder)


def test_an_installed_wheel_trains_elsewhere(installed):
    folder, elsewhere = installed
    small = [
        "--set=network.hidden=[4]",
        "--set=controller.steps=2",
        "--set=feedback_controller.steps=2",
        "--epochs=1",
    ]
    run(sys.executable, "-m", "dfc_numba", "train", *small, cwd=elsewhere, PYTHONPATH=folder)
    assert (elsewhere / "runs" / "digits-001" / "metrics.csv").is_file()


def test_the_checkout_runs_from_its_own_root():
    """The bare folders there must not hide the installed sub-packages."""
    code = "import dfc_numba.kernels, dfc_numba.data; print(dfc_numba.data.load('digits').n_inputs)"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "64\n"
