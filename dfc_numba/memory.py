"""How much memory there is, so that what cannot fit is refused before it starts."""

import os


def available_bytes():
    """Bytes that can be had without swapping, or None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def require(count, purpose, remedy):
    """Raise a MemoryError that names the size, if `count` bytes for `purpose` do not fit."""
    there = available_bytes()
    if there is not None and count > there:
        raise MemoryError(f"{purpose} needs {readable(count)}, but only {readable(there)} are free; {remedy}")


def readable(count):
    """A number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
