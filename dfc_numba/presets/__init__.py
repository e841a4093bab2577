"""The presets: one TOML file each, complete and commented."""
