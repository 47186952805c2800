"""The house keeps its measures: sizes of modules and functions, names of classes, untyped values, ignored types."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "build" / "pikaforge"
MODULE_LINES, FUNCTION_LINES = 400, 60
ANY, IGNORES = 40, 10


def _modules() -> dict[str, str]:
    """Texts by path below the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    assert paths
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_no_module_is_long() -> None:
    lengths = {name: len(text.splitlines()) for name, text in _modules().items()}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES} == {}


def test_no_function_is_long() -> None:
    long = []
    for name, text in _modules().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_LINES:
                    long.append(f"{name}: {node.name} has {length} lines")
    assert long == []


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, text in _modules().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_hardly_anything_is_untyped() -> None:
    texts = _modules().values()
    assert sum(len(re.findall(r"\bAny\b", text)) for text in texts) <= ANY
    assert sum(text.count("type: " + "ignore") for text in texts) <= IGNORES


def test_the_rooms_hold_all_modules() -> None:
    assert {name for name in _modules() if "/" not in name} == {"__init__.py", "__main__.py", "errors.py"}
