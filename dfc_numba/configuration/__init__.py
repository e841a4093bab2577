"""The configuration of a run: what it says, what contradicts, and its TOML files.

config.py           the sections and their keys
config_rules.py     what contradicts; config_usage.py: what is used by which method
config_file.py      files, presets, overrides
"""
