"""The version, in one place: read by the packaging and by `dfc --version` without importing anything heavy."""

__version__ = "0.1.0"
