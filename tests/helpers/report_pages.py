"""Runs that a page is written of, and the page as its parts."""

import json
import re
import shutil
from html.parser import HTMLParser

from dfc_numba.report.page import write_report

SMALL = {
    "network.hidden": [8, 6], "controller.steps": 12, "feedback_controller.steps": 6, "feedback.pretraining_epochs": 0,
    "training.epochs": 2, "data.options": {"train_size": 160, "validation_size": 40, "test_size": 40},
}  # fmt: skip
ATTACK = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"


class PageParts(HTMLParser):
    """Elements, their attributes and texts.

    Attributes:
        tags: names of all elements, in their order. attributes: names of all their attributes.
        scripts: pairs (attributes, content). text: all that is shown. policy: the content security policy.
    """

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text, self.policy, self._open = (
            [],
            set(),
            [],
            "",
            "",
            None,
        )
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open == "script":
            attributes, content = self.scripts[-1]
            self.scripts[-1] = attributes, content + data
        elif self._open != "style":
            self.text += data

    @property
    def data(self):
        """What the script of the page draws."""
        return json.loads(
            next(content for attributes, content in self.scripts if attributes.get("id") == "data")
        )

    @property
    def headings(self):
        """The headings of the sections."""
        return re.findall(r"^[A-Z][\w ]+$", self.text, flags=re.MULTILINE)


def page_of(path, out=None):
    """The `PageParts` of the report of a folder."""
    return PageParts(write_report(path, out).read_text(encoding="utf-8"))


def copy_of(run, path, record=None, seed=None):
    """A copy of a run, with other entries of run.json, and another seed; like one of an earlier version it has no seals."""
    shutil.copytree(run, path)
    unsealed = {
        **json.loads((path / "run.json").read_text()),
        **(record or {}),
        "schema_version": "1.0",
        "files": {},
    }
    unsealed.pop("sha256")
    (path / "run.json").write_text(json.dumps(unsealed))
    if seed is not None:
        file = path / "config.toml"
        file.write_text(re.sub(r"^seed = \d+", f"seed = {seed}", file.read_text(), flags=re.MULTILINE))
    return path
