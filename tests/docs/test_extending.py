"""docs/extending.md: its files, written into a folder outside the package, run as the commands below them say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SMALL = ["--set=network.hidden=[12,10]", "--set=training.batch_size=128"]


def examples():
    """(file name, its text, the commands below it) of each example."""
    found = []
    for language, text in BLOCK.findall(PATH.read_text(encoding="utf-8")):
        if language == "python":
            found.append((re.match(r"# (\w+\.py)\n", text)[1], text, []))
        elif language == "sh":
            found[-1][2].extend(shlex.split(line) for line in text.splitlines())
    return found


@pytest.mark.parametrize("name, text, commands", examples(), ids=[name for name, *_ in examples()])
def test_an_example_runs_as_the_page_says(tmp_path, name, text, commands):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert commands
    for command in commands:
        assert command[0] == "dfc" and name in command
        small = SMALL if command[1] == "train" else []
        line = [sys.executable, "-m", "dfc_numba", *command[1:], *small]
        result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        if command[1] == "train":
            run = tmp_path / command[command.index("--out") + 1]
            assert name in (run / "run.json").read_text()
        if command[1] == "list":
            assert name in result.stdout or "spirals" in result.stdout
    if name == "sparsity.py":
        assert "sparsity" in (run / "metrics.csv").read_text().splitlines()[0] and "sparsity" in result.stdout
