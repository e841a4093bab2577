"""The page of a run, a comparison or a sweep: complete, true, without network, and harmless whoever made the run."""

import base64
import hashlib
import json
import math
import sys

import numpy as np
import pytest
from command_line import invoked
from report_pages import ATTACK, SMALL, copy_of, page_of

import dfc_numba as dfc
from dfc_numba.errors import UnusableFileError
from dfc_numba.report import group_page, page_parts, run_page
from dfc_numba.runs.run_directory import read_metrics
from dfc_numba.support import seals

pytest.importorskip("plotly")
pytest.importorskip("jinja2")


def dfc_report(*arguments):
    """(exit code, standard output, standard error) of `dfc report`."""
    result = invoked("report", *arguments)
    return result.exit_code, result.stdout.strip(), result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with logged minibatches and measures of the theory."""
    path = tmp_path_factory.mktemp("report") / "run"
    changes = {
        "log.on": True,
        "log.samples": 3,
        "analysis.every": 4,
        "analysis.what": ["alignment", "stability"],
    }
    dfc.train(dfc.load_config("digits", SMALL | changes | {"analysis.samples": 4}), out=path)
    return path


@pytest.fixture
def damaged(run, tmp_path):
    """A copy of the run to be damaged."""
    return copy_of(run, tmp_path / "run")


def notes_of(path):
    return run_page.run_page(path).notes


# --- a run --------------------------------------------------------------------------------------------------


def test_a_page_is_written_in_the_run_and_elsewhere(damaged, tmp_path):
    assert dfc_report(damaged) == (0, str(damaged / "report.html"), "")
    assert dfc_report(damaged, "--out", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").read_bytes() == (damaged / "report.html").read_bytes()


def test_a_sound_run_is_shown_in_full(run, tmp_path):
    page = run_page.run_page(run)
    assert (page.status, page.notes) == ("done", [])
    assert [section.title for section in page.sections] == [
        "Configuration", "Learning curves", "Logged minibatches", "Theory over training", "Stability and divergence", "Repeat it",
    ]  # fmt: skip
    shown = page_of(run, tmp_path / "page.html")
    assert "Missing or damaged" not in shown.text
    for text in (
        "finished 2 epochs",
        "preset digits",
        f"dfc train {run.name}/config.toml",
        dfc.__version__,
        "8-6",
    ):
        assert text in shown.text


def test_settings_that_differ_from_the_preset_come_first(run):
    differing, everything = run_page.run_page(run).sections[0].tables
    rows = {row[0]: row[1:3] for row in differing.rows}
    assert rows["network.hidden"] == ["[8, 6]", "[128, 64]"] and rows["training.epochs"] == ["2", "10"]
    assert "target.step" not in rows and "log.dtype" not in rows  # as in the preset; as by default
    assert {"target.step", "log.dtype", *rows} <= {row[0] for row in everything.rows}


def test_the_curves_are_the_numbers_of_the_metrics(run):
    charts = run_page.run_page(run).sections[1].charts
    rows = read_metrics(run)
    for chart, score in zip(charts, ("loss", "accuracy"), strict=True):
        for line, split in zip(chart["lines"], ("train", "val", "test"), strict=True):
            assert np.allclose(line["y"], [float(row[f"{split}_{score}"]) for row in rows], rtol=1e-4)


def test_logged_minibatches_are_the_stored_numbers(run):
    records = run_page.run_page(run).sections[2].browser["records"]
    assert records[0]["name"].startswith("forward, record 1 (epoch 2")
    assert [len(record["samples"]) for record in records] == [3] * len(records)
    with dfc.open_trajectories(run) as file:
        stored = file["forward"][1]
        for place, sample in enumerate(records[0]["samples"]):
            titles = {chart["title"]: chart for chart in sample["charts"]}
            assert list(titles) == [
                "output, and its target (dashed)",
                "control signal",
                "error",
                "what the layers learn from",
            ]
            unit = int(titles["control signal"]["lines"][0]["name"].removeprefix("unit "))
            assert np.allclose(
                titles["control signal"]["lines"][0]["y"], stored["u"][:, place, unit], rtol=1e-4, atol=1e-12
            )
            assert np.allclose(titles["error"]["lines"][-1]["y"], stored["error"][:, place], rtol=1e-4)
            assert len(sample["layers"]) == 3 and all(len(charts) == 2 for charts in sample["layers"])
    assert len(records[0]["time"]) == SMALL["controller.steps"] + 1


def test_verdicts_and_outcomes_are_counted(run):
    section = run_page.run_page(run).sections[4]
    verdicts, logged = section.tables
    assert all(sum(map(int, row[1:5])) == 4 for row in verdicts.rows)
    assert {row[0]: row[1:3] for row in logged.rows}["forward"] == ["2", "6"]


def test_a_dynamic_inversion_is_shown_by_its_populations(tmp_path):
    settings = {
        "data.options": {"train_size": 40, "test_size": 20},
        "log.on": True,
        "log.samples": 2,
        "inversion.steps": 30,
    }
    dfc.train(dfc.load_config("regression-linear-di", settings), out=tmp_path / "run")
    page = run_page.run_page(tmp_path / "run")
    assert page.notes == [] and "Stability and divergence" not in [section.title for section in page.sections]
    (sample,) = page.sections[2].browser["records"][0]["samples"]
    assert [chart["title"] for chart in sample["charts"]] == ["hidden populations", "error populations"]
    assert [chart["title"] for chart in sample["layers"][0]] == ["layer 1"]
    with dfc.open_trajectories(tmp_path / "run") as file:
        states = file["forward"][-1]["r_x_1"][:, 0]
    assert np.allclose(
        sample["charts"][0]["lines"][0]["y"], np.linalg.norm(states, axis=1), rtol=1e-4, atol=1e-12
    )


def test_long_runs_are_thinned_for_the_charts():
    rows = [
        {"epoch": float(n), "train_loss": 1 / n} | dict.fromkeys(["seconds"], 1.0) for n in range(1, 5001)
    ]
    section = run_page.curves_section(rows)
    assert section.charts[0]["shared"][0] == 1 and section.charts[0]["shared"][-1] == 5000
    assert len(section.charts[0]["shared"]) == page_parts.MOST_POINTS
    assert len(section.tables[0].rows) == run_page.MOST_ROWS


# --- unfinished and damaged runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"status": "interrupted", "stop_reason": "stopped by SIGINT"}, "interrupted"),
        ({"status": "running", "stop_reason": ""}, "killed"),
        ({"status": "failed", "stop_reason": "OSError: disk", "traceback": "Traceback: line 1"}, "failed"),
        ({"status": "diverged", "stop_reason": "the loss is nan"}, "diverged"),
    ],
)
def test_an_unfinished_run_is_marked_as_such(run, tmp_path, record, status):
    copy = copy_of(run, tmp_path / "run", record)
    page = run_page.run_page(copy)
    assert page.status == status and page.notes == []
    sessions = next(section for section in page.sections if section.title.startswith("Sessions"))
    assert sessions.tables[0].rows[-1][2] == record["stop_reason"]
    assert [text for _, text in sessions.code] == [record[key] for key in ("traceback",) if key in record]


def damage(file):
    """Overwrite the middle of a file."""
    content = bytearray(file.read_bytes())
    start = len(content) // 4
    content[start : start + len(content) // 2] = b"\xff" * (len(content) // 2)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("run.json", ["Configuration", "Learning curves", "Logged minibatches"]),
        ("metrics.csv", ["Configuration", "Logged minibatches"]),
        ("config.toml", ["Learning curves", "Logged minibatches"]),
        (
            "analysis.h5",
            ["Configuration", "Learning curves", "Logged minibatches", "Stability and divergence"],
        ),
        ("trajectories.h5", ["Configuration", "Learning curves", "Theory over training"]),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(damaged, name, left):
    damage(damaged / name)
    code, _, error = dfc_report(damaged)
    assert (code, error) == (0, "")
    page = run_page.run_page(damaged)
    assert any(name in note for note in page.notes), page.notes
    assert {*left} <= {section.title for section in page.sections}
    assert "Missing or damaged" in page_of(damaged).text


@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "config.toml"])
def test_what_is_missing_is_named(damaged, name):
    (damaged / name).unlink()
    assert dfc_report(damaged)[0] == 0
    assert notes_of(damaged)


def test_a_table_with_another_number_of_columns_is_damaged(damaged):
    text = (damaged / "metrics.csv").read_text().splitlines()
    (damaged / "metrics.csv").write_text("\n".join([text[0], text[1] + ",1,2", "3,4", "x" * 40]))
    assert any("metrics.csv is damaged" in note for note in notes_of(damaged))
    assert dfc_report(damaged)[0] == 0


def test_a_run_that_has_just_begun_has_a_page(damaged):
    for file in damaged.iterdir():
        if file.name not in ("run.json", "config.toml", "metrics.csv"):
            file.unlink()
    (damaged / "metrics.csv").write_text((damaged / "metrics.csv").read_text().splitlines()[0] + "\n")
    record = json.loads((damaged / "run.json").read_text()) | {
        "status": "running",
        "results": {},
        "files": {},
    }
    record = seals.sealed(record)
    (damaged / "run.json").write_text(json.dumps(record))
    assert notes_of(damaged) == ["no epoch is complete: there are no learning curves"]
    assert "killed" in page_of(damaged).text


# --- what is refused ------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_is_refused(tmp_path, run):
    (tmp_path / "empty").mkdir()
    for path, text in [
        (tmp_path / "empty", "holds no run"),
        (tmp_path / "none", "is not a folder"),
        (run / "trajectories.h5", "dfc plot"),
    ]:
        code, _, error = dfc_report(path)
        assert code == 2 and text in error and str(path) in error
    assert list(tmp_path.rglob("*.html")) == []


def test_links_in_a_run_are_refused(damaged, tmp_path):
    (tmp_path / "secret").write_text("[network]\n# not of the run")
    (damaged / "config.toml").unlink()
    (damaged / "config.toml").symlink_to(tmp_path / "secret")
    with pytest.raises(UnusableFileError, match="symbolic link"):
        run_page.run_page(damaged)
    with pytest.raises(UnusableFileError, match="symbolic link"):
        group_page.group_page(tmp_path)
    assert dfc_report(damaged)[0] == 2


@pytest.mark.parametrize("library", ["plotly.offline", "jinja2"])
def test_without_the_libraries_the_extra_is_named(run, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    code, _, error = dfc_report(run)
    assert code == 2 and "dfc-numba[report]" in error


def test_a_page_that_cannot_be_written_is_an_error(run, tmp_path):
    code, _, error = dfc_report(run, "--out", tmp_path / "nowhere" / "page.html")
    assert code == 2 and "nowhere" in error


# --- a run of a stranger --------------------------------------------------------------------------------------


def test_texts_of_a_run_are_shown_and_never_run(run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    harmless = page_of(copy_of(run, tmp_path / "harmless"))
    attack = {
        "name": ATTACK, "status": ATTACK, "stop_reason": ATTACK, "command": ["dfc", "train", ATTACK], "started": ATTACK,
        "data": {"summary": ATTACK}, "environment": {**record["environment"], ATTACK: ATTACK}, "traceback": ATTACK,
    }  # fmt: skip
    copy = copy_of(run, tmp_path / "run-<b>", attack)
    text = (copy / "config.toml").read_text().replace('"digits"', json.dumps(ATTACK), 1)
    (copy / "config.toml").write_text(text)
    shown = page_of(copy)
    assert "img" not in shown.tags and "b" not in shown.tags and "onerror" not in shown.attributes
    assert shown.attributes == harmless.attributes and len(shown.scripts) == len(harmless.scripts) == 2
    assert shown.text.count(ATTACK) >= 8 and shown.policy == harmless.policy


def test_names_of_runs_are_escaped_in_charts(run, tmp_path):
    name = "<a href='javascript:1'>x%{y}"
    copy_of(run, tmp_path / name.replace("/", ""), seed=0)
    lines = [
        line
        for section in page_of(tmp_path).data["sections"]
        for chart in section["charts"]
        for line in chart["lines"]
    ]
    assert any("&lt;a href" in line["name"] for line in lines)
    assert not any("<" in line["name"] or "%{" in line["name"] for line in lines)


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_loaded(run, tmp_path):
    from plotly.offline import get_plotlyjs

    shown = page_of(run, tmp_path / "page.html")
    script = next(content for attributes, content in shown.scripts if "id" not in attributes)
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, get_plotlyjs())
    ]
    assert shown.policy.startswith("default-src 'none'; ")
    rules = dict(rule.split(" ", 1) for rule in shown.policy.split("; "))
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert "src" not in shown.attributes and "link" not in shown.tags


# --- comparisons and sweeps -----------------------------------------------------------------------------------


@pytest.fixture
def comparison(run, tmp_path):
    """A folder with two seeds, and a run of another setting that was killed."""
    folder = tmp_path / "comparison"
    for seed in (0, 1):
        copy_of(run, folder / f"digits-seed{seed}", seed=seed)
    other = copy_of(run, folder / "other-seed0", {"status": "running"}, seed=0)
    text = (other / "config.toml").read_text()
    assert "k_p = 1.0" in text
    (other / "config.toml").write_text(text.replace("k_p = 1.0", "k_p = 0.5"))
    return folder


def test_a_comparison_has_means_curves_and_what_differs(comparison):
    page = group_page.group_page(comparison)
    assert (page.kind, page.status, page.notes) == ("comparison", "2 of 3 done", [])
    sections = {section.title: section for section in page.sections}
    results = {row[0]: row for row in sections["Results"].tables[0].rows}
    assert results["digits"][1] == "2" and "±" in results["digits"][3]
    assert results["other"][1] == "0 of 1, 1 running"
    names = [line["name"] for line in sections["Learning curves"].charts[0]["lines"]]
    assert names == ["", "", "digits", "other, seed 0"]
    assert sections["What differs"].tables[0].rows == [["controller.k_p", "1.0", "0.5"]]
    (against,) = sections["What differs"].charts
    assert against["x"] == "controller.k_p" and len(against["lines"][0]["x"]) == 3
    assert [row[2] for row in sections["All runs"].tables[0].rows] == ["done", "done", "killed"]


def test_settings_of_many_sources_have_a_row_each():
    sources = {f"run-{n}": {"controller.k_p": 0.5 * n} for n in range(8)}
    table = group_page._settings_table(["controller.k_p"], sources)
    assert (
        table.heading == ["setting", "controller.k_p"]
        and table.rows[3] == ["run-3", "1.5"]
        and len(table.rows) == 8
    )


def test_the_mean_is_that_of_the_runs_that_are_done(comparison):
    file = comparison / "digits-seed1" / "metrics.csv"
    lines = file.read_text().splitlines()
    place = lines[0].split(",").index("train_loss")
    changed = [
        ",".join("5.0" if n == place else word for n, word in enumerate(line.split(",")))
        for line in lines[1:]
    ]
    file.write_text("\n".join([lines[0], *changed]))
    charts = {chart["title"]: chart for chart in group_page.group_page(comparison).sections[1].charts}
    first, second, mean, _ = (line["y"] for line in charts["train loss"]["lines"])
    assert second == [5.0, 5.0] and np.allclose(mean, (np.array(first) + 5.0) / 2, rtol=1e-4)


def test_a_damaged_run_does_not_hide_the_others(comparison):
    damage(comparison / "digits-seed1" / "config.toml")
    (comparison / "other-seed0" / "run.json").write_text("{")
    page = group_page.group_page(comparison)
    assert any(note.startswith("digits-seed1: config.toml") for note in page.notes)
    assert [row[2] for row in page.sections[-2].tables[0].rows] == ["done", "done", "damaged"]
    assert dfc_report(comparison)[0] == 0


def test_a_sweep_shows_runs_that_have_not_begun(comparison):
    runs = [
        {
            "index": n,
            "name": name,
            "source": "digits",
            "seed": seed,
            "settings": [],
            "epochs": 2,
            "current": True,
        }
        for n, (name, seed) in enumerate([("digits-seed0", 0), ("digits-seed1", 1), ("digits-seed2", 2)])
    ]
    table = {
        "schema": "dfc-numba/sweep",
        "schema_version": "1.0",
        "name": "s",
        "home": "",
        "extensions": [],
        "sources": {},
        "jobs": [],
    }
    (comparison / "sweep.json").write_text(json.dumps({**table, "runs": runs}))
    page = group_page.group_page(comparison)
    assert (page.kind, page.status, page.facts[0]) == ("sweep", "2 of 3 done", ("runs", "2 done, 1 waiting"))
    rows = {row[0]: row for row in page.sections[-2].tables[0].rows}
    assert rows["digits-seed2"][2] == "waiting"
    (comparison / "sweep.json").write_text("{}")
    assert any("sweep.json" in note for note in group_page.group_page(comparison).notes)
    assert dfc_report(comparison)[0] == 0


# --- the parts ------------------------------------------------------------------------------------------------


def test_numbers_are_those_that_json_can_hold():
    assert page_parts.numbers([1.23456789, math.nan, math.inf, -2]) == [1.2346, None, None, -2.0]
    assert list(page_parts.thinned(3, 10)) == [0, 1, 2] and list(page_parts.thinned(0, 10)) == []
