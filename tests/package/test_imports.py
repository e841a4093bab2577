"""The structure of the tree: rooms import only rooms below them, deferred imports included; lengths and names have limits."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"dfc_numba": "dfc_numba", "dfc_numba.kernels": "kernels", "dfc_numba.data": "data"}
# rooms from the top down; a room imports those of the lines below, and of its own line
LAYERS = (
    ("__init__", "__main__", "cli", "commands", "display", "report", "session", "sklearn", "sweep"),
    ("runs",),
    ("configuration",),
    ("analysis", "storage", "learning", "data"),
    ("dynamics", "steady", "online", "inversion", "relatives"),
    ("model",),
    ("extensions",),
    ("registry", "errors", "support", "_version", "presets", "formulas"),
    ("kernels",),
)
# support imports the folder of the kernels to say where the cache is; a kernel knows nothing above it
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules():
    """(name, path) of every module of the package."""
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [
                part for part in path.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__"
            ]
            yield ".".join([package, *parts]), path


def imported(name, path):
    """Names of the modules of the package that a module imports anywhere in its text."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name):
    """The room of a module: the folder below the package, or the module itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def edges():
    """Pairs (module, module that it imports) within the package."""
    known = dict(modules())
    for name, path in known.items():
        found = {other for other in imported(name, path) if other in known and other != "dfc_numba"}
        yield from ((name, other) for other in sorted(found - {name}))


def upward(pairs):
    """Those of the pairs that point to a room above."""
    return {(name, other) for name, other in pairs if LEVEL[room(name)] > LEVEL[room(other)]}


def test_every_room_has_its_place_in_the_order():
    assert {room(name) for name, _ in modules()} <= LEVEL.keys()


def test_imports_point_downwards():
    assert upward(edges()) == set()


def test_an_upward_import_is_seen_also_where_it_is_deferred(tmp_path):
    path = tmp_path / "network.py"
    path.write_text(
        "def save(self):\n    from dfc_numba.storage import writer\n    from ..runs.experiment import run\n"
    )
    name = "dfc_numba.model.network"
    assert upward((name, other) for other in imported(name, path) if room(other) in LEVEL) >= {
        (name, "dfc_numba.storage.writer"),
        (name, "dfc_numba.runs.experiment"),
    }


def test_kernels_import_only_numba_numpy_and_each_other():
    for name, path in modules():
        if room(name) == "kernels":
            roots = {other.partition(".")[0] for other in imported(name, path)} - {"dfc_numba"}
            outside = {root for root in roots if root not in sys.stdlib_module_names}
            assert outside <= {"numba", "numpy", "llvmlite"}, name
            inside = {other for other in imported(name, path) if other.startswith("dfc_numba.")}
            assert all(room(other) == "kernels" for other in inside), name


def test_no_modules_import_each_other_in_a_circle():
    packages = {
        name for name, path in modules() if path.name == "__init__.py"
    }  # they gather names, and are no part
    graph = {}
    for name, other in edges():
        graph.setdefault(name, set()).add(other)

    def reaches(start):
        seen, left = set(), [start]
        while left:
            for other in graph.get(left.pop(), set()) - packages:
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return seen

    assert [name for name in graph if name not in packages and name in reaches(name)] == []


def test_no_module_is_longer_than_500_lines():
    assert [
        name for name, path in modules() if len(path.read_text(encoding="utf-8").splitlines()) > 500
    ] == []


def test_no_call_has_more_than_13_positional_arguments():
    calls = (
        (name, call.lineno)
        for name, path in modules()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and len(call.args) > 13
    )
    assert list(calls) == []


def test_no_base_name_stands_for_two_modules():
    stems = [path.stem for _, path in modules() if path.stem != "__init__"]
    assert sorted({stem for stem in stems if stems.count(stem) > 1}) == []


def test_no_class_name_stands_for_two_classes():
    names = [
        node.name
        for _, path in modules()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []
