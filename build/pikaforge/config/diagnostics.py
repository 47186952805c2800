"""Diagnostics: all problems of a configuration file, in the order of the file, as one error.

The models check types. This module puts pydantic's errors into plain words.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pikaforge.config import operate_metrics, operate_scalars, scalars, shared_store, waiver, yaml_words
from pikaforge.config.document import Document, YamlValue, has, within
from pikaforge.config.nearest import nearest
from pikaforge.config.yaml_words import KeyPath
from pikaforge.errors import ConfigError
from pikaforge.host.git_urls import credentials, masked

SHOWN_PROBLEMS = 20
"""Problems that are shown; more are only counted, because one mistake can cause a thousand."""

_Strict = TypeVar("_Strict", bound=scalars.Strict)
Location = tuple[str | int, ...]
"""Keys and indexes from the top, as pydantic gives them."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME_CHARACTERS = "letters, digits, '.', '_' and '-'"

PATTERN_WORDS = {
    scalars.LABEL_PATTERN: "may hold only letters, digits, blanks and . _ -, and begins with a letter or digit",
    operate_scalars.KEY_PATTERN: "may hold only letters, digits and _ . -, and begins with a letter",
    operate_scalars.VALUE_PATTERN: "must be printable ASCII, without quotes and backslashes",
    operate_scalars.SIZE_PATTERN: "must be a number, with K, M, G or T for powers of 1024",
    operate_scalars.TEMPLATE_PATTERN: "must be a path of letters, digits and . _ / @ + * -, with settings in braces",
    operate_scalars.WORD_PATTERN: "must be one word of letters, digits and _ . : @ * -",
    operate_scalars.CONDITION_PATTERN: "must be KEY=VALUE or KEY!=VALUE",
    operate_scalars.TERM_PATTERN: "must be words of small letters",
    operate_scalars.WHOLE_PATTERN: "must be a whole number of nine digits at most",
    operate_scalars.UNIT_PATTERN: "must be a word of small letters",
    operate_scalars.COUNTS_PATTERN: "must be a regular expression of letters and _ ^ $ ( ) |",
    operate_scalars.PREFIX_PATTERN: "must be a word that ends with a dot",
    operate_scalars.GLOB_PATTERN: "must be the name of a file, with * and [ ] for what varies",
    operate_metrics.METRIC_PATTERN: "may hold only small letters, digits and _, and begins with a letter",
    operate_metrics.SOURCE_PATTERN: "must name what INFO says, such as is_bgsaving, is_bgsaving[2], *_keys or @head",
    operate_metrics.PLACE_PATTERN: "must be a regular expression of letters, digits and _ [ ] . * + ( ) | -",
    operate_metrics.COMMAND_WORD_PATTERN: "must be a word of letters, digits and _ -",
    operate_metrics.TITLE_PATTERN: "must be a title of letters, digits, blanks and , ( ) / -",
    operate_metrics.SECTION_PATTERN: "must be the name of a section, of letters and _",
    scalars.NAME_PATTERN: f"may hold only {_NAME_CHARACTERS}, and begins with a letter or digit",
    scalars.PACKAGE_PATTERN: "may hold only letters, digits and . + _ : ~ -, and begins with a letter or digit",
    scalars.PATH_PATTERN: "must be a path below its folder, of letters, digits and . _ @ / + -",
    scalars.COMPILER_PATTERN: "must be a version of two or three numbers, such as 12.2",
    scalars.RANGE_PATTERN: 'must be a range of versions, such as ">=11", "<13" or ">=11,<13"',
    scalars.WORD_PATTERN: "must be one word of letters, digits and _ = . / + -",
    scalars.RELEASE_PATTERN: "must be a version of digits and dots, such as 22.04",
    scalars.BASE_PATTERN: "must be a registry reference with its tag, such as debian:bookworm-slim",
    scalars.TAG_PATTERN: "must be the name of a tag, of letters, digits and . _ / + -",
    scalars.LINE_PATTERN: "must hold {key} and after it {value}",
    waiver.DAY_PATTERN: "must be a day as YYYY-MM-DD, such as 2026-12-31",
    waiver.BUILD_ID_PATTERN: "must be a build id as `file FILE` prints it: pairs of digits and letters a to f",
    scalars.MAINTAINER_PATTERN: "must be NAME <ADDRESS>, such as Jo Doe <jo@example.org>",
    scalars.DIGEST_PATTERN: "must be a SHA-256: 64 digits and letters a to f, in lower case",
    scalars.SERVER_PATTERN: "must be a URL with https:// or http://, without user, password, query or spaces",
    shared_store.PLACE_PATTERN: "must be a path or a URL, without user, password, query, quotes or spaces",
    scalars.CLIENTS_PATTERN: "must be a URL with https://, http:// or file://, without user, password, query or spaces",
    scalars.PAGE_PATTERN: "must be the path of a URL: / and then ASCII characters without spaces",
    scalars.URL_PATTERN: "must be a URL with https://, http:// or file:// and no spaces or quotes",
}
"""In words, what each regular expression of the models asks for. A test checks that none is missing."""


@dataclass(slots=True, kw_only=True)
class Diagnostics:
    """The problems of a document, collected to be raised as one error."""

    document: Document
    found: list[tuple[tuple[int, int], ConfigError]] = field(default_factory=list)
    unshown: int = 0

    def add(self, path: KeyPath, message: str, hint: str = "", *, key: bool = False) -> None:
        """Add a problem at `path`; with `key`, the key is wrong and not its value."""
        if len(self.found) >= SHOWN_PROBLEMS:
            self.unshown += 1
            return
        where = self.document.where(path, key=key)
        self.found.append((self.document.position(path, key=key), ConfigError(message, where=where, hint=hint)))

    def unknown(self, path: KeyPath, what: str, word: str, known: Iterable[str], *, key: bool = False) -> None:
        """Add the problem that the value (or key) at `path` is `word`, which is none of the known names."""
        full = len(self.found) >= SHOWN_PROBLEMS
        # The nearest name costs time, and nobody reads the hint of a problem that is not shown.
        hint = "" if full else closest_or_all(word, known)
        self.add(path, f"there is no {what} {yaml_words.shorten(word)}", hint, key=key)

    def raise_any(self) -> None:
        """Raise the problems as one error, if there are any."""
        if self.found:
            raise self.first()

    def first(self) -> ConfigError:
        """Return the problem that comes first in the file, with the others in its `also`."""
        errors = [error for _, error in sorted(self.found, key=lambda each: each[0])]
        if self.unshown:
            more = f"{self.unshown} more problem{'s are' if self.unshown > 1 else ' is'} not shown"
            errors.append(ConfigError(more, where=self.document.file, hint="put right the ones above first"))
        errors[0].also = tuple(errors[1:])
        return errors[0]


def closest_or_all(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most like a word, else with the first 40 of them."""
    names = sorted(known)
    if near := nearest(word, names):
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(names[:40])
    return f"known are: {shown}" + (", …" if len(names) > 40 else "") if names else ""


def validate(top: type[_Strict], document: Document) -> _Strict:
    """Return a document as a model.

    Raises:
        ConfigError: with all that is wrong with it.
    """
    diagnostics = Diagnostics(document=document)
    try:
        return top.model_validate(document.data)
    except ValidationError as error:
        _translate(error, top, diagnostics)
        first = diagnostics.first()
    raise first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What pydantic says about one value: one error, or several if the value may be of several types."""

    path: Location
    kinds: tuple[str, ...]
    context: Mapping[str, object]
    text: str
    key: bool = False

    @property
    def subject(self) -> str:
        """The last key and the indexes after it, such as `steps[0]`."""
        start = max((i for i, part in enumerate(self.path) if isinstance(part, str)), default=0)
        return f"`{yaml_words.show_path(self.path[start:])}`" if self.path else "the file"


def _translate(error: ValidationError, top: type[scalars.Strict], diagnostics: Diagnostics) -> None:
    document = diagnostics.document
    findings = _findings(error, document)
    findings.sort(key=lambda finding: document.position(finding.path, key=finding.key))
    # A misspelt key is also a missing one; it is reported once.
    meant: set[Location] = set()
    unknown = [finding for finding in findings if finding.kinds == ("extra_forbidden",)]
    for finding in unknown[:SHOWN_PROBLEMS]:
        near = nearest(str(finding.path[-1]), _keys(top, finding.path[:-1]))
        meant.update((*finding.path[:-1], name) for name in near)
    for finding in findings:
        if finding.kinds == ("missing",) and finding.path in meant:
            continue
        shown = len(diagnostics.found) < SHOWN_PROBLEMS
        message, hint = _explain(finding, top, document) if shown else ("", "")
        diagnostics.add(finding.path, message, hint, key=finding.key)


def _findings(error: ValidationError, document: Document) -> list[_Finding]:
    """Return pydantic's errors by place in the document, with those of a union's members put together.

    Pydantic reports a value that fits no member of a union once for each member, with the member's name in the path.
    If one member is a list, and something in the list is wrong, only the deepest errors are of interest.
    """
    groups: dict[Location, list[tuple[Location, ErrorDetails]]] = {}
    placed = [
        (one, *_place(one["loc"], one["type"], document.data))
        for one in error.errors(include_url=False, include_input=False)
    ]
    # Pydantic counts the items that are left after validation, so it calls a list too short whose items are wrong.
    telling = [each for each in placed if each[0]["type"] != "too_short" or not document.value(each[1])]
    for one, path, root in telling or placed:
        groups.setdefault((*root, "[key]") if one["loc"][-1:] == ("[key]",) else root, []).append((path, one))
    findings = []
    for members in groups.values():
        deepest = max(len(path) for path, _ in members)
        by_path: dict[Location, list[ErrorDetails]] = {}
        for path, one in members:
            if len(path) == deepest:
                by_path.setdefault(path, []).append(one)
        for path, ones in by_path.items():
            kinds = tuple(dict.fromkeys(one["type"] for one in ones))
            key = kinds == ("extra_forbidden",) or ones[0]["loc"][-1:] == ("[key]",)
            context = ones[0].get("ctx", {})
            findings.append(_Finding(path=path, kinds=kinds, context=context, text=ones[0]["msg"], key=key))
    return findings


def _place(loc: Location, kind: str, data: YamlValue) -> tuple[Location, Location]:
    """Return the path of an error without the names of union members, and the path before the first such name."""
    path: list[str | int] = []
    root: Location | None = None
    for position, part in enumerate(loc):
        if has(data, part):
            data = within(data, part)
        elif not (kind == "missing" and position == len(loc) - 1):
            root = tuple(path) if root is None and part != "[key]" else root
            continue
        path.append(part)
    return tuple(path), tuple(path) if root is None else root


_WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_unicode": "a string of Unicode characters",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _explain(finding: _Finding, top: type[scalars.Strict], document: Document) -> tuple[str, str]:
    """Return message and hint for a finding."""
    kind, context = finding.kinds[0], finding.context
    if kind == "extra_forbidden":
        word = str(finding.path[-1])
        return f"unknown key {yaml_words.shorten(word)}", closest_or_all(word, _keys(top, finding.path[:-1]))
    if kind == "missing":
        return f"the key {finding.subject} is missing", _description(top, finding.path)
    if kind == "value_error":
        return str(context["error"]), ""
    if any(each in _WANTED for each in finding.kinds):
        return _wrong_type(finding, top, document)
    return _wrong_value(finding, top, document)


def _wrong_value(finding: _Finding, top: type[scalars.Strict], document: Document) -> tuple[str, str]:
    kind, context = finding.kinds[0], finding.context
    hint = _description(top, finding.path)
    if kind == "string_pattern_mismatch":
        words = PATTERN_WORDS.get(str(context["pattern"]), "is not written as it must be")
    elif kind in ("too_short", "string_too_short"):
        words = "must not be empty"
    elif kind == "string_too_long":
        words = f"must not be longer than {context['max_length']} characters"
    elif kind == "too_long":
        words = f"must have at most {context['max_length']} entries" if context["max_length"] else "must be empty"
    elif kind == "literal_error":
        words, hint = f"must be {context['expected']}", _literal_hint(finding, document)
    elif kind in _BOUNDS:
        bound, comparison = _BOUNDS[kind]
        words, hint = f"must be {comparison} {context[bound]:g}", ""
    else:
        words = f"is wrong: {finding.text[:1].lower()}{finding.text[1:]}"
    if finding.key:
        name = str(finding.path[-1])
        fitting = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:64]
        return f"the name {yaml_words.shorten(name)} {words}", f"for example: {fitting}" if fitting else ""
    got = "" if kind.endswith(("too_short", "too_long")) else f", got {_got(document, finding.path)}"
    return f"{finding.subject} {words}{got}", hint


def _wrong_type(finding: _Finding, top: type[scalars.Strict], document: Document) -> tuple[str, str]:
    wanted = [_WANTED[kind] for kind in finding.kinds if kind in _WANTED]
    words = " or ".join([", ".join(wanted[:-1]), wanted[-1]]) if len(wanted) > 1 else wanted[0]
    message = f"{finding.subject} wants {words}, got {_got(document, finding.path)}"
    value, written = document.value(finding.path), document.text(finding.path)
    hint = _description(top, finding.path)
    if "a mapping" in wanted:
        keys = _keys(top, finding.path)
        hint = f"its keys are: {', '.join(sorted(keys))}" if keys else hint
    elif "a string" in wanted and written and not isinstance(value, str):
        hint = f'put it in quotes: "{written}"'
    elif "a string" in wanted and isinstance(value, dict) and list(value.values()) == [None]:
        text = f"{{{next(iter(value))}}}"
        hint = f'braces make a mapping; put text in quotes: "{text}"' if PLACEHOLDER.fullmatch(text) else hint
    elif wanted == ["a list"] and written and "\n" not in written:
        hint = f"write a list: [{written[:60]}]"
    elif isinstance(value, str) and {"a number", "a whole number"} & set(wanted) and value.isdecimal():
        hint = f"write it without quotes: {value[:60]}"
    return message, hint


def _literal_hint(finding: _Finding, document: Document) -> str:
    written = document.text(finding.path) or ""
    options = re.findall(r"'([^']*)'", str(finding.context["expected"]))
    if written in options:
        return f'put it in quotes: "{written}"'
    near = nearest(written, options)
    return f"did you mean {near[0]!r}?" if near else ""


def _got(document: Document, path: KeyPath) -> str:
    """Return what the value at `path` is, and how it is written if that differs: `the number 22.1 (written 22.10)`."""
    value, written = document.value(path), document.text(path)
    if isinstance(value, str) and credentials(value):
        value = masked(value)  # some patterns refuse a URL because it holds a password
    described = yaml_words.describe(value)
    if not written or isinstance(value, str) or described.endswith(f" {written}"):
        return described
    return f"{described} (written {written})"


def _bare(annotation: object) -> object:
    """Return an annotation without `Annotated` and without `| None`."""
    while True:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            annotation = arguments[0]
        elif origin in (Union, types.UnionType):
            annotation = next((each for each in arguments if each is not type(None)), None)
        else:
            return annotation


def _descend(annotation: object, part: str | int) -> tuple[object, FieldInfo | None]:
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, scalars.Strict):
        info = annotation.model_fields.get(str(part))
        return (info.annotation, info) if info is not None else (None, None)
    arguments = get_args(annotation)
    return (arguments[1 if get_origin(annotation) is dict else 0], None) if arguments else (None, None)


def _description(top: type[scalars.Strict], path: KeyPath) -> str:
    """Return the innermost field on `path` with its description: `gcc: Version of the image's gcc, …`."""
    annotation: object = top
    described = ""
    for part in path:
        annotation, info = _descend(annotation, part)
        if info is not None:
            described = f"{part}: {info.description}" if info.description else ""
    return described


def _keys(top: type[scalars.Strict], path: KeyPath) -> tuple[str, ...]:
    """Return the keys that the mapping at `path` may have; none if the user chooses them."""
    annotation: object = top
    for part in path:
        annotation, _ = _descend(annotation, part)
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, scalars.Strict):
        return tuple(annotation.model_fields)
    return ()
