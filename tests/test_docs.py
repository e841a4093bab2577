"""The documentation runs: Python blocks of a file as one session, `dfc` commands as far as they cost little."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import dfc_numba as dfc
from dfc_numba.cli import app
from dfc_numba.configuration.config_file import load_config
from dfc_numba.runs import comparison

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SHORTHANDS = {"epochs": "training.epochs", "seed": "training.seed", "dtype": "training.dtype"}
QUICK = {"presets", "info"}
EXTRAS = ["xarray", "h5netcdf", "hdf5plugin", "matplotlib"]  # a block that imports one needs it


def blocks(path, language):
    """The code blocks of a language, with as many empty lines before as make line numbers those of the file."""
    text = path.read_text(encoding="utf-8")
    found = (match for match in BLOCK.finditer(text) if match[1] == language)
    return ["\n" * text.count("\n", 0, match.start(2)) + match[2] for match in found]


def has_its_extras(block):
    """Whether the extras that a block imports are installed."""
    wanted = [name for name in EXTRAS if re.search(rf"^import {name}", block, flags=re.MULTILINE)]
    return all(find_spec(name) for name in wanted)


def commands(path):
    """The `dfc` commands of a file, as lists of arguments; what a shell does with their output is left out."""
    lines = "".join(blocks(path, "sh")).splitlines()
    words = [shlex.split(re.split(r" [>|&]", line)[0], comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["dfc"]]


def name(path):
    return path.name


@pytest.mark.parametrize("path", FILES, ids=name)
def test_python_blocks_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "session"}
    for block in filter(has_its_extras, blocks(path, "python")):
        exec(compile(block, path, "exec"), session)  # noqa: S102


@pytest.mark.parametrize("path", FILES, ids=name)
def test_links_within_a_file_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


@pytest.mark.parametrize("path", FILES, ids=name)
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#)([^)#]*)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def check_train(arguments):
    """Resolve the configuration that a `dfc train` command names; one that is resumed has its own."""
    options = parsed("train", arguments)
    overrides = [f"{key}={options[name]}" for name, key in SHORTHANDS.items() if options[name] is not None]
    if not options["resume"] and not (options["source"] or "").endswith(".toml"):
        load_config(options["source"] or "digits", (options["settings"] or []) + overrides)


def check_compare(arguments):
    """Plan what a `dfc compare` command would run."""
    options = parsed("compare", arguments)
    comparison.plan(options["sources"], options["settings"] or [])


def parsed(command, arguments):
    """The options of a `dfc` command, by the names of its parameters."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="dfc")
    return group.get_command(context, command).make_context(command, list(arguments), parent=context).params


def run(command, arguments):
    """Run a command and expect success."""
    line = [sys.executable, "-m", "dfc_numba", command, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=name)
def test_commands_are_valid(path):
    for command, *arguments in commands(path):
        if command in QUICK:
            run(command, arguments)
        elif command in ("train", "compare"):
            {"train": check_train, "compare": check_compare}[command](arguments)
        else:
            parsed(command, arguments)


def test_the_citation_names_this_version_and_the_papers():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, flags=re.MULTILINE)[1] == dfc.__version__
    assert set(re.findall(r"arXiv:(\S+)", text)) == {"2106.07887", "2204.07249", "2007.05112"}
