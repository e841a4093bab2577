"""Words for error messages: the nearest valid name, and what pydantic allows in plain terms."""

import difflib
import re

PLAIN_WORDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid tuple": "a list",
    "a valid dictionary": "a table of keys",
    "a valid string": "a string",
    "a valid boolean": "true or false",
    "must have at least 1 item": "must have at least one entry",
}


def encodable(text):
    """Return a text that UTF-8 can encode: bytes of file names that are not UTF-8 get backslashes."""
    return text.encode(errors="backslashreplace").decode()


def nearest(name, names):
    """Return '; did you mean ...?' with the nearest of the valid names, or nothing where none is near."""
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def allowed(entry):
    """Return what is allowed where a value was refused; `entry` is one of pydantic's `ValidationError.errors()`."""
    if entry["type"] == "value_error":
        return str(entry["ctx"]["error"])
    message = re.sub(r"(, unable to parse|, got| after validation).*", "", entry["msg"])
    message = re.sub(r"^\w+ should ", "must ", message)
    for theirs, ours in PLAIN_WORDS.items():
        message = message.replace(theirs, ours)
    choices = re.findall(r"'([^']*)'", entry.get("ctx", {}).get("expected", ""))
    return message + nearest(entry["input"], choices)
