"""The gallery and the site: every example runs and draws, every public name has its entry in the reference."""

import re
import runpy
from pathlib import Path

import pytest

import dfc_numba as dfc

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "gallery").glob("plot_*.py"))
TOPICS = (
    "first_network", "control_dynamics", "stability", "alignment", "own_data", "own_rule", "sweep_and_comparison",
    "replay_and_what_if",
    "dynamic_inversion", "waveform", "relatives", "evaluate_and_scikit_learn", "published_tables",
)  # fmt: skip


def entries():
    """The names that the reference documents."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    return re.findall(r"^\.\. auto\w+:: dfc_numba\.(\S+)$", text, flags=re.MULTILINE)


def test_the_reference_has_every_public_name_once():
    names = [name for name in entries() if "." not in name]
    assert sorted(names) == sorted(set(dfc.__all__) - {"__version__"})


def test_every_topic_has_its_example():
    assert [re.sub(r"plot_\d+_", "", path.stem) for path in EXAMPLES] == list(TOPICS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_figure_is_drawn_in_one_block(path):
    """The pages show figures as they are at the end of a block."""
    blocks = path.read_text(encoding="utf-8").split("# %%")
    drawing = [block for block in blocks if re.search(r"\b(axes|left|right|panels|figure)\b[.,\[]", block)]
    assert drawing and all("subplots(" in block for block in drawing)


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {
        line
        for block in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
        for line in block.splitlines()
    }
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} == {
        line for line in listed if line and not line.startswith((":", "auto_gallery"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_draws(path, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    if "sklearn" in path.read_text(encoding="utf-8"):
        pytest.importorskip("sklearn")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        runpy.run_path(str(path), run_name="example")
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        assert figures and all(axes.has_data() for figure in figures for axes in figure.axes)
    finally:
        pyplot.close("all")
