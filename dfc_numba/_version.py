"""The version, in one place: read by the packaging and by `dfc --version` without importing anything heavy."""

__version__ = "0.1.0"
# Counts the versions of the arithmetic: raised when the same simulation gets other bits. Files name the one they were written
# with; those that name none have 1, whose sums over shards were taken in sequence.
ARITHMETIC = 2
