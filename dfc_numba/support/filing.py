"""Binding of file formats to kinds of objects: packages that know a format register it, lower ones use it unimported."""

_FORMATS = {}


def bind(kind, save, load, export=None):
    """Bind a file format to a kind of object.

    Args:
        kind: name of the kind, such as "network".
        save: function of (object, path, **options) that writes a file.
        load: function of (path, **options) that reads one.
        export: function of an object that returns it as another library's.
    """
    _FORMATS[kind] = save, load, export


def save(kind, item, path, /, **options):
    """Write an object of a kind to a file, as the bound format does."""
    return _FORMATS[kind][0](item, path, **options)


def load(kind, path, /, **options):
    """Return what the bound format reads from a file."""
    return _FORMATS[kind][1](path, **options)


def export(kind, item):
    """Return an object of a kind as that of another library."""
    return _FORMATS[kind][2](item)
