"""The values of the presets, as resolved, stay what they were: each has a stored hash of all of them."""

import hashlib
import json
from pathlib import Path

import pytest

from dfc_numba.configuration.config_file import load_config, preset_names

STORED = json.loads((Path(__file__).parents[1] / "resources" / "preset_values.json").read_text())


@pytest.mark.parametrize("name", STORED["sha256"])
def test_a_preset_has_the_values_that_it_had(name):
    config, _ = load_config(name)
    table, unused = config.model_dump(mode="json"), config.unused_keys()
    paths = (path.split(".") for path in STORED["keys"])
    values = [[table[section][key], f"{section}.{key}" not in unused] for section, key in paths]
    assert hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest() == STORED["sha256"][name]


def test_every_preset_has_stored_values():
    assert set(STORED["sha256"]) <= set(preset_names())
