"""Scalar types of configuration files, and the base class of their models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from pikaforge.config.registry import ALLOCATORS, Registry
from pikaforge.host.git_urls import CREDENTIALS_HINT, credentials, masked

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._ -]*$"


PACKAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.+_:~-]*$"


PATH_PATTERN = r"^[A-Za-z0-9._@][A-Za-z0-9._@/+-]*$"


COMPILER_PATTERN = r"^[0-9]+\.[0-9]+(\.[0-9]+)?$"


RANGE_PATTERN = r"^(>=[0-9]+(\.[0-9]+){0,2}(, ?<[0-9]+(\.[0-9]+){0,2})?|<[0-9]+(\.[0-9]+){0,2})$"


WORD_PATTERN = r"^[A-Za-z0-9_=./+-]+$"


RELEASE_PATTERN = r"^[0-9][0-9.]*$"


BASE_PATTERN = r"^[a-z0-9][A-Za-z0-9._:/-]*$"


TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$"


LINE_PATTERN = r"\{key\}.*\{value\}"


DIGEST_PATTERN = r"^[0-9a-f]{64}$"


MAINTAINER = "pikaforge <pikaforge@users.noreply.github.com>"
"""Who answers for packages where nobody is named: an address that exists, and takes no mail."""
MAINTAINER_PATTERN = r"^[^<>\x00-\x1f]+ <[^<>@\s]+@[^<>@\s]+>$"


URL_PATTERN = r"^(https?|file)://[^\s'\"]+$"


SERVER_PATTERN = r"^https?://[^\s'\"@?#<>&]+$"


PAGE_PATTERN = r"^/[!-~]*$"


CLIENTS_PATTERN = r"^(https?|file)://[^\s'\"@?#<>&$]+$"
"""Without user, password, query or fragment: these could be secrets."""


UrlText = TypeVar("UrlText", str, str | None)


def without_login(url: UrlText) -> UrlText:
    """Return a URL, or None; for validators of fields.

    Raises:
        ValueError: there is a user, a password or an access token in it. The message has none of it.
    """
    secret = credentials(url or "")
    if secret:
        raise ValueError(f"there is {secret} in {masked(url or '')}: {CREDENTIALS_HINT}")
    return url


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
"""A name that becomes part of ids, paths, container names and tags; so no separators, no leading dot or dash."""


PackageName = Annotated[str, Field(pattern=PACKAGE_PATTERN, max_length=128)]


def _inside(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("a path may not leave its folder: no `..`")
    return path


RelativePath = Annotated[str, Field(pattern=PATH_PATTERN, max_length=255), AfterValidator(_inside)]
"""A path below a folder the tool knows: never absolute, never with `..`."""


def _below(path: str) -> str:
    if path.startswith("/"):
        raise ValueError("a path below a server's data does not begin with `/`")
    return _inside(path)


Below = Annotated[str, Field(max_length=255), AfterValidator(_below)]
"""A path or glob below a server's data folder; may hold {today}."""


Argument = Annotated[str, Field(max_length=65536)]


CompilerVersion = Annotated[str, Field(pattern=COMPILER_PATTERN, max_length=32)]


EVERYTHING = "all"
"""The word that selects every value of an axis; refused as a name."""


class Strict(BaseModel):
    """Base of all parts of the specification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


def plain(value: object, *, only_given: bool = False) -> object:
    """Return a part of a specification as JSON values: what `model_dump(mode="json")` returns.

    Keys are made of it. It takes no validator or serializer, which pydantic would have to make first.

    Args:
        value: the part.
        only_given: leave out fields that have their defaults because they were not given (`exclude_unset`).

    Raises:
        TypeError: there is a value that specifications do not have.
    """
    if isinstance(value, BaseModel):
        names = [n for n in type(value).model_fields if not only_given or n in value.model_fields_set]
        return {name: plain(getattr(value, name), only_given=only_given) for name in names}
    if isinstance(value, Mapping):
        return {key: plain(each, only_given=only_given) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each, only_given=only_given) for each in value]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"a specification has no {type(value).__name__}")


Scalar = str | int | None


Flag = Annotated[str, Field(pattern=WORD_PATTERN, max_length=128)]
"""One word for a compiler; `compilers` says which there may be."""


class OneOf:
    """Annotation of a string that names a member of a registry, for pydantic's checks and for JSON schemas."""

    def __init__(self, registry: Registry[object]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(self, *_: object) -> CoreSchema:
        """Check as `Literal` does, but against the members at the time of the check."""
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        """List the members at the time of the call."""
        return {"enum": list(self._registry.names), "type": "string"}

    def _check(self, name: str) -> str:
        names = self._registry.names
        if name not in names:
            quoted = [f"'{known}'" for known in names]
            raise PydanticKnownError(
                "literal_error", {"expected": " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))}
            )
        return name


AllocatorName = Annotated[str, OneOf(ALLOCATORS)]
