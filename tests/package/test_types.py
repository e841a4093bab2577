"""Types of the public interface: complete, and seen by a type checker from a user's folder."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import dfc_numba as dfc

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).parents[1] / "resources" / "types"
NAMES = [name for name in dfc.__all__ if name != "__version__"]


def callables(name):
    """(name, function) of a public function, or of the methods and properties of a public class."""
    item = getattr(dfc, name)
    if not inspect.isclass(item):
        return [(name, item)]
    members = {
        key: value
        for parent in reversed(item.__mro__)
        for key, value in vars(parent).items()
        if _ours(parent)
    }
    fields = getattr(item, "__dataclass_fields__", {})  # typed by their annotation, whatever their default is
    own = {
        key: value
        for key, value in members.items()
        if key == "__init__" or (key[0] != "_" and key not in fields)
    }
    unwrapped = {key: getattr(value, "fget", getattr(value, "__func__", value)) for key, value in own.items()}
    return [
        (f"{name}.{key}", value)
        for key, value in unwrapped.items()
        if inspect.isfunction(value) and _ours(value)
    ]


def _ours(item):
    return item.__module__.startswith("dfc_numba.")


def missing(function):
    """Names of the arguments without a type, and "return" for a result without one."""
    signature = inspect.signature(function)
    arguments = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    names = [one.name for one in arguments if one.annotation is one.empty]
    return names + ["return"] * (signature.return_annotation is signature.empty)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_and_result_of_a_public_name_has_a_type(name):
    untyped = {key: missing(function) for key, function in callables(name)}
    # what `options` wraps around the constructor is typed by `dataclass_transform`
    assert {key: names for key, names in untyped.items() if names and not key.endswith("__init__")} == {}


def test_an_argument_without_a_type_is_noticed():
    def function(self, x: int, y, *, z=1):
        return x

    assert missing(function) == ["y", "z", "return"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DivergenceWarning"])  # built in
def test_signatures_stay_short_enough_to_read(name):
    methods = [(key, function) for key, function in callables(name) if not key.endswith("__init__")]
    for key, function in [*methods, (name, getattr(dfc, name))]:
        longest = max(map(len, map(str, inspect.signature(function).parameters.values())), default=0)
        assert longest <= 120, key


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy says about the examples in a folder of a user's, with the package installed as from a wheel."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    installed = next((folder / "venv").rglob("site-packages"))
    (installed / "dfc_numba").symlink_to(ROOT / "dfc_numba")
    (installed / "libraries.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("-packages"))
    )
    for path in EXAMPLES.glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    command = [sys.executable, "-m", "mypy", "--strict", "--allow-untyped-calls", "--no-error-summary"]
    command += ["--cache-dir", folder / "cache", "--python-executable", folder / "venv" / "bin" / "python"]
    done = subprocess.run([*command, "right.py", "wrong.py"], cwd=folder, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout


def lines(report, file):
    """Numbers of the lines of a file with an error."""
    return {int(number) for number in re.findall(rf"^{file}:(\d+): error", report, re.MULTILINE)}


@pytest.mark.slow
def test_right_calls_have_no_type_errors(checked):
    assert lines(checked, "right.py") == set(), checked


@pytest.mark.slow
def test_wrong_calls_are_type_errors(checked):
    source = (EXAMPLES / "wrong.py").read_text().splitlines()
    expected = {number for number, line in enumerate(source, 1) if line.endswith("# wrong")}
    assert lines(checked, "wrong.py") == expected, checked


@pytest.mark.slow
def test_the_package_itself_has_no_type_errors():
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_types_can_be_looked_up_at_run_time(name):
    for key, function in callables(name):
        assert key.endswith("__init__") or "return" in get_type_hints(function), key
