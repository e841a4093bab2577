"""Loading extensions: files and modules outside the package, what runs and files store of them, and what is refused."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import extensions
from dfc_numba.cli import app
from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.registry import REGISTRIES, Extension, Registry

FILE = """
from dfc_numba import register
from test_extensions import Thing

register(Thing("{name}", {value}))
"""


class Thing(Extension):
    """A kind of extension for these tests."""

    registry = Registry("thing")

    def __init__(self, name, value=1):
        self.name, self.value = name, value


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    """Registries and loaded extensions are as before afterwards."""
    monkeypatch.setattr(extensions, "REGISTRIES", (*REGISTRIES, Thing.registry))
    monkeypatch.setattr("dfc_numba.registry.REGISTRIES", (*REGISTRIES, Thing.registry))
    loaded = dict(extensions._loaded)
    yield
    for name in Thing.registry.names():
        Thing.registry.remove(name)
    extensions._loaded.clear()
    extensions._loaded.update(loaded)


def write(path, name="mine", value=1):
    path.write_text(FILE.format(name=name, value=value))
    return path


def test_a_file_is_imported_by_its_path_and_registers_under_its_name(tmp_path):
    loaded = dfc.load_extension(write(tmp_path / "lab.py"))
    assert Thing.registry["mine"].origin == str(tmp_path / "lab.py") == loaded.path
    assert loaded.registered == [("thing", "mine")] and len(loaded.sha256) == 64
    assert extensions.command_line() == ["--extension", loaded.path]
    assert sys.modules[loaded.module.__name__] is loaded.module


def test_the_same_file_is_not_run_again_and_a_changed_one_replaces_what_it_registered(tmp_path):
    first = dfc.load_extension(write(tmp_path / "lab.py", value=1))
    assert dfc.load_extension(tmp_path / "lab.py") is first
    write(tmp_path / "lab.py", value=2)
    second = dfc.load_extension(tmp_path / "lab.py")
    assert Thing.registry["mine"].value == 2 and second.sha256 != first.sha256
    assert len([one for one in extensions.loaded_extensions() if one.path == first.path]) == 1


def test_a_module_is_imported_by_its_name(tmp_path, monkeypatch):
    write(tmp_path / "my_lab_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = dfc.load_extension("my_lab_module")
    assert loaded.name == "my_lab_module" and Thing.registry["mine"].origin == "my_lab_module"
    assert extensions.command_line() == ["--extension", "my_lab_module"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*lab.py, line 6\)"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def broken(:", "SyntaxError"),
        ("register(Thing('two words'))", "the name of a thing is 'two words'"),
    ],
)
def test_a_file_that_fails_is_refused_and_leaves_nothing_registered(tmp_path, text, message):
    path = write(tmp_path / "lab.py")
    path.write_text(path.read_text() + text)
    with pytest.raises(ConfigurationError, match=f"lab.py cannot be loaded: {message}"):
        dfc.load_extension(path)
    assert not Thing.registry and not extensions.loaded_extensions()


@pytest.mark.parametrize("name", ["/no/such/file.py", "no_such_module"])
def test_what_does_not_exist_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"the extension {name} cannot be"):
        dfc.load_extension(name)


def test_a_file_that_registers_nothing_brings_a_warning(tmp_path):
    (tmp_path / "lab.py").write_text("x = 1")
    with pytest.warns(UserWarning, match="lab.py registers nothing; call dfc.register"):
        dfc.load_extension(tmp_path / "lab.py")


def test_a_taken_name_of_another_extension_is_refused_with_where_it_is_from(tmp_path):
    dfc.load_extension(write(tmp_path / "lab.py"))
    with pytest.raises(
        ConfigurationError, match=r"another thing is called 'mine' \(of the extension .*lab.py\)"
    ):
        dfc.load_extension(write(tmp_path / "other.py", value=3))


def test_a_toml_file_loads_what_it_lists_relative_to_itself(tmp_path):
    write(tmp_path / "lab.py")
    (tmp_path / "run.toml").write_text('[extensions]\nmodules = ["lab.py"]\n[training]\nepochs = 2\n')
    config, _ = load_config(str(tmp_path / "run.toml"))
    assert config.training.epochs == 2 and "mine" in Thing.registry


@pytest.mark.parametrize("section", ["modules = 'lab.py'", "files = ['lab.py']", "modules = [1]"])
def test_another_section_of_extensions_is_refused(tmp_path, section):
    (tmp_path / "run.toml").write_text(f"[extensions]\n{section}\n")
    with pytest.raises(ConfigurationError, match="must have the key modules alone"):
        load_config(str(tmp_path / "run.toml"))


def test_the_config_of_a_run_loads_nothing(tmp_path):
    write(tmp_path / "lab.py")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.toml").write_text('[extensions]\nmodules = ["lab.py"]\n')
    with pytest.raises(ConfigurationError, match="the files of a run load no extensions.*--extension lab.py"):
        load_config(str(tmp_path / "config.toml"))
    assert not Thing.registry


def test_an_entry_point_that_fails_is_a_warning(tmp_path, monkeypatch):
    good, bad = (
        metadata.EntryPoint(name, module, extensions.GROUP)
        for name, module in (("good", "my_good_module"), ("bad", "no_such_module"))
    )
    write(tmp_path / "my_good_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [bad, good])
    with pytest.warns(
        UserWarning, match="the extension bad cannot be loaded: ModuleNotFoundError.*entry point"
    ):
        extensions.load_entry_points()
    assert Thing.registry["mine"].origin == "good"
    assert extensions.used_extensions({"section": {"key": "mine"}}) and not extensions.used_extensions({})


TRAIN = ["train", "digits", "--epochs=1", "--set", "network.hidden=[4]", "--set", "training.method=bp"]


def dfc_command(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_run_stores_its_extensions_and_resuming_with_others_is_refused(tmp_path):
    lab, run = write(tmp_path / "lab.py"), tmp_path / "run"
    assert dfc_command(*TRAIN, "--out", run, "--extension", lab).exit_code == 0
    (stored,) = json.loads((run / "run.json").read_text())["extensions"]
    assert stored["path"] == str(lab) and f"--extension {lab}" in (run / "config.toml").read_text()
    resume = ["train", "--resume", "--out", run, "--epochs=2"]
    extensions._loaded.clear()
    refused = dfc_command(*resume)
    assert refused.exit_code == 2 and f"which is not loaded; add --extension {lab}" in refused.stderr
    write(lab, value=5)
    refused = dfc_command(*resume, "--extension", lab)
    assert refused.exit_code == 2 and "has changed: its SHA-256 was" in refused.stderr
    write(lab, value=1)
    other = write(tmp_path / "other.py", name="other")
    refused = dfc_command(*resume, "--extension", lab, "--extension", other)
    assert (
        refused.exit_code == 2 and "other.py is loaded now, which the run started without" in refused.stderr
    )
    extensions._loaded.clear()
    assert dfc_command(*resume, "--extension", lab).exit_code == 0


def test_an_extension_that_cannot_be_loaded_ends_the_command_with_a_sentence(tmp_path):
    result = dfc_command("presets", "--extension", tmp_path / "none.py")
    assert result.exit_code == 2 and "none.py cannot be read" in result.stderr


def test_the_command_line_loads_the_same_extensions_in_another_process(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text("import dfc_numba\nprint('loaded')\n")
    with pytest.warns(UserWarning, match="registers nothing"):
        dfc.load_extension(path)
    command = [sys.executable, "-m", "dfc_numba", "presets", *extensions.command_line()]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("loaded\n")
