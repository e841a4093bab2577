"""The documentation runs: the blocks of a file as one session, `dfc` commands among them as far as they cost little."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.cli import app
from dfc_numba.configuration.config_file import load_config
from dfc_numba.runs import comparison

ROOT = Path(__file__).parents[2]
# tests/docs/test_extending.py runs extending.md, each example in separate processes
FILES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "extending.md"})]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SHORTHANDS = {"epochs": "training.epochs", "seed": "training.seed", "dtype": "training.dtype"}
QUICK = {"presets", "info", "list"}
ON_FILES = {"simulate", "replay", "inspect", "plot", "report", "analyze"}
LIBRARIES = {"plot": "matplotlib", "report": "plotly"}  # that a command needs
SMALL = [
    "--epochs=1",
    "--set=network.hidden=[20,18]",
    "--set=controller.steps=9",
    "--set=feedback.pretraining_epochs=0",
]
EXTRAS = ["xarray", "h5netcdf", "hdf5plugin", "matplotlib", "sklearn"]  # a block that imports one needs it


def blocks(path, *languages):
    """(language, code) of the blocks in some languages, with empty lines before that make line numbers those of the file."""
    text = path.read_text(encoding="utf-8")
    found = (match for match in BLOCK.finditer(text) if match[1] in languages)
    return [(match[1], "\n" * text.count("\n", 0, match.start(2)) + match[2]) for match in found]


def has_its_extras(block):
    """Whether the extras that a block imports are installed."""
    wanted = [
        name
        for name in EXTRAS
        if re.search(rf"^(?:import|from) (?:dfc_numba\.)?{name}", block, flags=re.MULTILINE)
    ]
    return all(find_spec(name) for name in wanted)


def commands(block):
    """The `dfc` commands of a shell block, as lists of arguments; what a shell does with their output is left out."""
    words = [shlex.split(re.split(r" [>|&]", line)[0], comments=True) for line in block.splitlines()]
    return [line[1:] for line in words if line[:1] == ["dfc"]]


def all_commands(path):
    """The `dfc` commands of a file."""
    return [line for _, block in blocks(path, "sh") for line in commands(block)]


def name(path):
    return path.name


def is_session(path):
    """Whether a file says that its shell blocks, too, can be run in their order."""
    return "form one session" in path.read_text(encoding="utf-8")


def affordable(path):
    """The `dfc` commands of a file that a session runs: those on files, and trainings, made small, that these read."""
    lines = all_commands(path)
    read = {word for command, *arguments in lines if command in ON_FILES for word in arguments}
    made = [line for line in lines if line[0] == "train" and "--resume" not in line and read & output(line)]
    return made + [
        line for line in lines if line[0] in ON_FILES and find_spec(LIBRARIES.get(line[0], "numpy"))
    ]


def output(line):
    """What a command says that it writes: a set of one name, or of none."""
    return {line[line.index("--out") + 1]} if "--out" in line else set()


def run_here(command, *arguments):
    """Run a command in this process and expect success."""
    done = CliRunner().invoke(app, [command, *arguments, *(SMALL if command == "train" else [])])
    assert done.exit_code == 0, (command, arguments, done.output)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_blocks_run_in_their_order(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session, lines = {"__name__": "session"}, affordable(path) if is_session(path) else []
    for language, block in blocks(path, "python", "sh"):
        if language == "sh":
            for line in commands(block):
                if line in lines:
                    run_here(*line)
        elif has_its_extras(block):
            exec(compile(block, path, "exec"), session)


def anchors(path):
    """What a link to a heading of a file may end with."""
    headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_links_to_headings_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]*)\)", path.read_text(encoding="utf-8"))
    assert [
        (file, heading)
        for file, heading in links
        if heading not in anchors(path.parent / file if file else path)
    ] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#)([^)#]*)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def check_train(arguments):
    """Resolve the configuration that a `dfc train` command names; one that is resumed has its own."""
    options = parsed("train", arguments)
    overrides = [f"{key}={options[name]}" for name, key in SHORTHANDS.items() if options[name] is not None]
    if not options["resume"] and not (options["source"] or "").endswith(".toml"):
        load_config(options["source"] or "digits", [*(options["settings"] or []), *overrides])


def check_compare(arguments):
    """Plan what a `dfc compare` command would run."""
    options = parsed("compare", arguments)
    if any("/" in source for source in options["sources"]):
        return  # directories of runs
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
    for command, *arguments in all_commands(path):
        if command in QUICK:
            run(command, arguments)
        elif command in ("train", "compare"):
            {"train": check_train, "compare": check_compare}[command](arguments)
        else:
            parsed(command, arguments)


def test_the_guide_names_the_options_of_every_data_set():
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = guide.partition("## Data sets and their options")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, flags=re.MULTILINE)[1:]
    ticked = [[set(re.findall(r"`(\w+)`", cell)) for cell in row] for row in rows]
    assert set.union(*(names for names, _ in ticked)) == {*data.names()}
    assert set.union(*(options for _, options in ticked)) == {
        option for one in data.names() for option in data.options(one)
    }


def test_the_citation_names_this_version_and_the_papers():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, flags=re.MULTILINE)[1] == dfc.__version__
    assert set(re.findall(r"arXiv:(\S+)", text)) == {"2106.07887", "2204.07249", "2007.05112"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_row_of_a_table_belongs_to_a_heading(path):
    blocks = re.split(
        r"\n\s*\n", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    )
    tables = [block.strip().splitlines() for block in blocks if block.strip().startswith("|")]
    for lines in tables:
        assert len(lines) > 2 and re.fullmatch(r"[|:\- ]+", lines[1]), lines[0]
