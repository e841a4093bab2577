"""`write_report`: what a folder holds, as one HTML file with its script and plotly.js in it."""

import base64
import gzip
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path

from dfc_numba._version import __version__
from dfc_numba.errors import MissingExtra, UnusableFileError
from dfc_numba.report.group_page import group_page, runs_in
from dfc_numba.report.run_page import run_page
from dfc_numba.runs.run_directory import holds_run
from dfc_numba.support.files import write_text
from dfc_numba.support.output import printable
from dfc_numba.sweep.sweep_folder import TABLE_NAME

REPORT_NAME = "report.html"


def write_report(path, out=None):
    """Write the page of a run, a comparison or a sweep.

    The page needs no network and runs no script but its own, whose hashes it states: texts of a run are shown, never run.
    Whatever of a run is missing, unfinished or damaged is left out, with a note at the top.

    Args:
        path: a run directory, or a folder of run directories. out: the file; None for report.html in the folder. An older one
            is replaced.

    Returns:
        the path of the page.

    Raises:
        UnusableFileError: the folder holds no run, or a run a symbolic link. OSError: it cannot be read or written to.
        MissingExtra: plotly or jinja2 is not installed.
    """
    library, environment = _libraries()
    path = Path(path)
    page = _page(path)
    out = Path(out) if out else path / REPORT_NAME
    write_text(out, _rendered(page, library, environment))
    return out


def _libraries():
    """Return (text of plotly.js, jinja2's environment)."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtra(
            f"reports need plotly and jinja2, which the extra report installs: pip install 'dfc-numba[report]' ({error})"
        ) from None
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["shown"] = printable
    return get_plotlyjs(), environment


def _page(path):
    """Return the `Page` of a folder."""
    if not path.is_dir():
        hint = "; dfc plot draws a trajectory file" if path.is_file() else ""
        raise UnusableFileError(
            f"{path} is not a folder; name a run directory, or the folder of a comparison or sweep{hint}"
        )
    if holds_run(path) and not (path / TABLE_NAME).exists():
        return run_page(path)
    if (path / TABLE_NAME).exists() or runs_in(path):
        return group_page(path)
    raise UnusableFileError(
        f"{path} holds no run, comparison or sweep; name a folder that dfc train, dfc compare or dfc sweep has written"
    )


def _rendered(page, library, environment):
    """Return the page as HTML."""
    style, script, template = (_own(name) for name in ("page.css", "page.js", "page.html.jinja"))
    data = {
        "sections": [{"charts": section.charts, "browser": section.browser} for section in page.sections],
        "library": _packed(library),
    }
    return environment.from_string(template).render(
        page=page, version=__version__, style=style, script=script, data=_json(data),
        hashes=" ".join(f"'sha256-{_digest(text)}'" for text in (script, library)),
    )  # fmt: skip


@cache
def _packed(library):
    """Return plotly.js as gzip in base64."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()


def _own(name):
    return (resources.files("dfc_numba.report") / name).read_text(encoding="utf-8")


def _json(value):
    """Return JSON that cannot end the element that it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text):
    """Return the hash of a script as a content security policy states it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
