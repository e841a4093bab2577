"""Configuration of the documentation site; `scripts/docs.sh` builds it."""

import inspect
import os
import re

os.environ.setdefault("MPLBACKEND", "Agg")

import dfc_numba as dfc

project, author = "dfc-numba", "The dfc-numba contributors"
copyright = author
version = release = dfc.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "gallery",
    "auto_gallery/**/*.ipynb",
    "auto_gallery/**/*.py",
    "auto_gallery/**/*.md5",
    "auto_gallery/**/*.json",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
highlight_language = "none"  # of formulas in docstrings; blocks of code name theirs

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"dfc-numba {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"}
}
html_copy_source = False
html_show_sourcelink = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"plot_\d+",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "show_memory": False,
    "capture_repr": (),
    "remove_config_comments": True,
    "plot_gallery": "True",
}

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note|Notes):$")
ENTRY = 4  # indentation of the entries of a section
QUOTED = re.compile(r"(`[^`]+`)")


def _literal(text):
    """Return a line of a docstring, whose `names` become literals, and in which nothing else is markup."""
    found = ""
    for part in QUOTED.split(text):
        if part.startswith("`"):
            found += f"`{part}`"
        else:
            joined = "\\ " if found.endswith("``") and part[:1].isalnum() else ""
            found += joined + re.sub(r"([*|\\])|(?<=\w)_(?=\W|$)", r"\\\g<0>", part)
    return found


def _names(obj):
    """Return names that the sections of a docstring may describe."""
    names = {*getattr(obj, "__dataclass_fields__", ()), *getattr(obj, "__pydantic_fields__", ())}
    try:
        return names | {*inspect.signature(obj).parameters}
    except (TypeError, ValueError):
        return names


def _entries(line, names):
    """Cut a line of a section where it begins to describe something else: "x: inputs. target: ..." has two entries."""
    parts = re.split(r"(?<=[.;]) (?=\w+(?:, \w+)*: )", line)
    found = parts[:1]
    for part in parts[1:]:
        name = re.match(r"\w+", part)[0]
        if name in names or name.endswith("Error"):
            found.append(part)
        else:
            found[-1] += f" {part}"
    return found


def _entry(text, section):
    """Return a line with its markup; the name that an entry of a section describes stays as it is."""
    entry = re.match(r"(\w+(?:, \w+)*)(: .*)", text) if section else None
    return entry[1] + _literal(entry[2]) if entry else _literal(text)


def plain_docstrings(app, what, name, obj, options, lines):
    """Take the docstrings as plain text: what is indented after an empty line becomes a block of code, `names` literals."""
    found, section, outer, blank, block = [], False, 0, False, None
    names = _names(obj)
    for line in lines:
        stripped = line.lstrip()
        indent = len(line) - len(stripped)
        if block is not None and stripped and indent <= block:
            block = None
        if block is None and blank and stripped and indent > outer:
            block = outer
            found += [" " * outer + "::", ""]
        if block is not None or SECTION.match(line):
            found.append(line)
        else:
            first, *others = _entries(stripped, names) if section and indent else [stripped]
            found.append(" " * indent + _entry(first, section and indent))
            found += [" " * ENTRY + _entry(other, True) for other in others]
        section = section or bool(SECTION.match(line))
        blank = not stripped
        outer = outer if block is not None or blank else indent
    lines[:] = found


def short_signature(app, what, name, obj, options, signature, annotation):
    """Show options that are checked by a model with their own defaults, not the objects that describe them."""
    if what == "class" and hasattr(obj, "__pydantic_fields__"):
        fields = obj.__pydantic_fields__.items()
        shown = [key if field.is_required() else f"{key}={field.default!r}" for key, field in fields]
        return f"(*, {', '.join(shown)})", annotation
    return None


def skip_described(app, what, name, obj, skip, options):
    """Leave out properties that the docstring of the class describes."""
    document = (getattr(obj, "__doc__", None) or "").strip() if isinstance(obj, property) else None
    return (
        True
        if document is not None and (document == "See the class." or document.startswith("attrgetter"))
        else None
    )


def setup(app):
    """Connect what prepares docstrings, before napoleon reads them."""
    app.connect("autodoc-process-docstring", plain_docstrings, priority=100)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skip_described)
