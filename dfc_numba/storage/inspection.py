"""The content of a trajectory file: a description for people, and a search for damage that reads everything."""

from dfc_numba.errors import DamagedFileError
from dfc_numba.storage import schema
from dfc_numba.storage.table import chunks, read_checked
from dfc_numba.support.foreign import file_name
from dfc_numba.support.memory import readable

COUNTERS = ("epoch", "minibatch", "number")


def description(file):
    """Yield lines of text about opened `Trajectories`: where they come from, the phases, the variables."""
    yield from _heading(file)
    for phase in file.phases:
        yield ""
        yield from _phase(file[phase])


def damages(file):
    """Yield a message for each part that cannot be read; read everything once, a chunk at a time."""
    yield from file.damaged
    for number in range(len(file.files)):
        handle = file.handle(number)
        for group in (handle, *(schema.group(handle, name) for name in schema.group_names(handle))):
            yield from _failures(_check_text, ((group, name) for name in schema.texts(group)))
            for name in schema.variables(group):
                yield from _damages(group, name)


def _check_text(group, name):
    """Raise an error for an attribute whose text is damaged."""
    if name in schema.JSON_TEXTS:
        schema.parsed(group, name)
    elif schema.attributes(group)[name] is schema.DAMAGED:
        raise DamagedFileError(f"{file_name(group)}: attribute {name} of {group.name} is damaged")


def _damages(group, name):
    """Yield messages about the chunks of a data set that cannot be read."""
    failures = list(_failures(schema.data_set, [(group, name)]))
    if failures:
        yield from failures
    else:
        dataset = schema.data_set(group, name)
        yield from _failures(read_checked, ((dataset, part) for part in chunks(dataset, len(dataset))))


def _failures(function, calls):
    """Yield messages about the calls that fail."""
    for arguments in calls:
        try:
            function(*arguments)
        except (OSError, ValueError) as error:
            yield str(error)


def _heading(file):
    attributes, versions = file.attributes, schema.parsed(file.handle(0), "versions") or {}
    yield f"{file.path}: trajectories, schema {attributes['schema_version']}, {file.status}"
    facts = {
        "files": ", ".join(path.name for path in file.files) if len(file.files) > 1 else "",
        "started": attributes.get("started"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{attributes.get('cpu')}, threads {attributes.get('threads')}",
        "command": attributes.get("command"),
        "seed": attributes.get("seed"),
        "compression": attributes.get("compression"),
    }
    yield from (f"  {name:<12}{fact}" for name, fact in facts.items() if fact)
    for section, keys in (file.config or {}).items():
        yield f"  [{section}] " + ", ".join(f"{key} = {value}" for key, value in keys.items())


def _phase(records):
    ranges = [text for name in COUNTERS if (text := _range(records, name))]
    count = f"{len(records)} record{'' if len(records) == 1 else 's'}"
    yield f"/{records.name}: {count}" + (f" ({', '.join(ranges)})" if ranges else "")
    if records.options is not None:
        options = (f"{name} = {value}" for name, value in vars(records.options).items())
        yield f"  {records.kind.name:<12}" + ", ".join(options)
    if records.update:
        yield "  update      " + ", ".join(f"{name} = {value}" for name, value in records.update.items())
    variables = [records.variable(name) for name in records.variables]
    shapes = [", ".join(map("{} {}".format, one.dims, one.shape)) for one in variables]
    width = max(map(len, shapes))
    for one, shape in zip(variables, shapes, strict=True):
        units = "" if one.units == "1" else f", in {one.units}"
        size = readable(one.size * one.dtype.itemsize)
        yield f"  {one.name:<18}{shape:<{width}}  {one.dtype!s:<8} {size:>8}  {one.long_name}{units}"


def _range(records, name):
    """Return the range of a counter as text; empty where it is not stored, or damaged."""
    if name not in records.variables or not len(records):
        return ""
    try:
        values = records.variable(name)[...]
    except DamagedFileError:
        return ""
    first, last = values.min(), values.max()
    return f"{name} {first}" + (f" to {last}" if last > first else "")
