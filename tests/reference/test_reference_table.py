"""The document on agreement with the published code, and the script that prints and checks it."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from inversion_reference import KINDS
from reference_files import FAMILIES, RESOURCES, more_files, read
from reference_table import TABLE, find_row, markdown

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "check_reference.py"
DOCUMENT = ROOT / "docs" / "reference-agreement.md"
SHIPPED = RESOURCES / "reference"


@pytest.fixture
def check_reference():
    """The script, imported from its file."""
    spec = importlib.util.spec_from_file_location("check_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_has_the_table():
    assert markdown() in DOCUMENT.read_text(encoding="utf-8"), (
        "write the output of `python scripts/check_reference.py --table` into docs/reference-agreement.md"
    )


def test_the_document_explains_every_number_that_the_table_names():
    explained = [
        int(number)
        for number in re.findall(r"^(\d+)\. ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert explained == list(range(1, len(explained) + 1))
    named = {row.slip for row in TABLE if row.slip} | {
        int(n) for row in TABLE for n in re.findall(r"\((\d+)\)", row.remark)
    }
    assert named <= set(explained)


def test_the_document_says_what_every_family_is():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    first_cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == set(FAMILIES)


def test_the_rows_name_families_that_there_are():
    assert {family for row in TABLE for family in row.families.split()} <= {*FAMILIES, "all"}


def test_no_row_is_left_over():
    """Every row is the first to fit some array of the files that there are."""
    if not more_files():
        pytest.skip(
            "the shipped files lack diagnostics; set DFC_REFERENCE_DIR to a folder with all reference files"
        )
    used = set()
    for path in more_files():
        arrays, options = read(path)
        used.update(find_row(path, array, options) for array in arrays)
    assert [row for row in TABLE if row not in used] == []


def test_the_script_prints_the_table(check_reference, capsys):
    assert check_reference.main(["--table"]) == 0
    assert capsys.readouterr().out == markdown()


def test_the_script_accepts_the_shipped_files(check_reference, capsys):
    assert check_reference.main([str(SHIPPED), "--oracle"]) == 0
    table = capsys.readouterr().out
    assert all(family in table for family in FAMILIES)


def test_the_script_compares_files_of_dynamic_inversion(check_reference, capsys):
    assert check_reference.main([str(SHIPPED.parent / "inversion")]) == 0
    table = capsys.readouterr().out
    assert all(f"inversion {kind}" in table for kind in KINDS) and "row in the table" not in table


def test_the_script_refuses_a_deviating_file(check_reference, tmp_path, capsys):
    source = SHIPPED / "opt_onehidden_b1.npz"
    arrays, _ = read(source)
    np.savez(tmp_path / source.name, **{**arrays, "u": arrays["u"] * (1 + 1e-8)})
    assert check_reference.main([str(tmp_path), "--oracle"]) == 1
    assert "opt_onehidden_b1.npz: u" in capsys.readouterr().out


def test_the_script_refuses_an_array_without_a_row(check_reference, tmp_path, capsys):
    source = SHIPPED / "opt_onehidden_b1.npz"
    np.savez(tmp_path / source.name, **read(source)[0], surprise=np.zeros(1))
    assert check_reference.main([str(tmp_path)]) == 1
    assert "surprise" in capsys.readouterr().out


def test_the_script_refuses_a_folder_without_reference_files(check_reference, tmp_path, capsys):
    assert check_reference.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_script_wants_a_folder_or_the_table(check_reference, capsys):
    with pytest.raises(SystemExit) as stop:
        check_reference.main([])
    assert stop.value.code == 2
    assert "DIR" in capsys.readouterr().err
