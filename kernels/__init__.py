"""The compiled layer."""

announces_compilation = (
    True  # whether a line on standard error says that kernels are compiled; commands have their own
)
