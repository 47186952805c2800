"""A JSON schema as Markdown: a table for each type, with links between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
LONGEST = 60
"""Characters of a default value at most; a longer one is left out."""
REFERENCE = "#/$defs/"


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(value: object) -> str:
    """Return a value as YAML and JSON write it."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def kind(schema: Schema) -> str:
    """Return what values a schema takes, with a link to the type that it names."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(REFERENCE)
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return " or ".join(dict.fromkeys(kind(each) for each in schema[either]))
    return _of_type(schema)


def _of_type(schema: Schema) -> str:
    name = str(schema.get("type", "any value"))
    if name == "array":
        if "prefixItems" in schema:
            return "list: " + ", ".join(kind(each) for each in schema["prefixItems"])
        return f"list of {kind(schema['items'])}" if schema.get("items") else "list"
    if name == "object":
        inner = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        values = [kind(each) for each in inner if isinstance(each, Mapping)]
        return f"map to {values[0]}" if values else "map"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{name} from {low} to {high}"
    return f"{name}, at least {low}" if low is not None else name


def row(name: str, schema: Schema, *, required: bool) -> str:
    """Return the line of a field."""
    default = "required" if required else ""
    if "default" in schema and not required:
        shown = code(schema["default"])
        default = shown if len(shown) <= LONGEST else ""
    return f"| `{name}` | {cell(kind(schema))} | {cell(default)} | {cell(str(schema.get('description', '')))} |"


def table(name: str, schema: Schema) -> str:
    """Return the section of a type."""
    lines = [f"## {name}", "", str(schema.get("description", "")).strip(), ""]
    fields: Schema = schema.get("properties", {})
    if fields:
        lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
        needed = schema.get("required", [])
        lines += [row(field, each, required=field in needed) for field, each in fields.items()]
    else:
        lines.append(f"A value: {kind(schema)}.")
    return "\n".join(lines)


def text(schema: Schema) -> str:
    """Return the sections of all types: the whole file first, then the others by name."""
    types = sorted(schema.get("$defs", {}).items())
    return "\n\n".join([table(str(schema["title"]), schema), *(table(name, each) for name, each in types)])
