"""No URL in a configuration file may have a secret in it, and none is shown: a canary in every place of a URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from unit.helpers import make_spec

from pikaforge.config.patch_series import PatchEntry, Series
from pikaforge.config.schema import matrix_schema, series_schema
from pikaforge.errors import ConfigError

SHA = "0" * 64
PLACES: dict[str, dict[str, Any]] = {
    "product.url": {"product__url": "URL"},
    "product.source.git": {"product__source": {"git": "URL", "tag": "v1"}},
    "images.debian12.mirror": {"images__debian12__mirror": "URL"},
    "tarballs.x.url": {"tarballs": {"x": {"version": "1.0", "url": "URL", "sha256": SHA}}},
    "mirrors[0]": {"mirrors": ["URL"]},
    "publish.x.url": {"publish": {"x": {"kind": "http", "url": "URL"}}},
    "publish.x.clients": {"publish": {"x": {"kind": "directory", "path": "p", "clients": "URL"}}},
    "publish.x.simple": {"publish": {"x": {"kind": "index", "url": "https://example.org/", "simple": "URL"}}},
    "store.url": {"store": {"url": "URL"}},
    "store.endpoint": {"store": {"url": "s3://bucket/x", "endpoint": "URL"}},
}
NAMES = ("url", "git", "mirror", "mirrors", "clients", "simple", "endpoint")
"""Fields of the models that take a URL."""
GOOD = "https://example.org/x/y.tar.gz"
BAD = [
    "https://user:CANARY@example.org/x/y.tar.gz",
    "https://CANARY@example.org/x/y.tar.gz",
    "https://user:CA/NARY@example.org/x/y.tar.gz",
    "https://user:CA#NARY@example.org/x/y.tar.gz",
    "user:CANARY@example.org:y.tar.gz",
    "ssh://user:CANARY@example.org/y.tar.gz",
]


def _with(value: object, url: str) -> Any:
    if isinstance(value, dict):
        return {key: _with(inner, url) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with(inner, url) for inner in value]
    return url if value == "URL" else value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("url", BAD)
def test_a_secret_is_refused_and_not_shown(place: str, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_spec(**_with(PLACES[place], url))
    assert "NARY" not in "\n".join(caught.value.lines())
    assert place.rpartition(".")[2].partition("[")[0] in caught.value.where


@pytest.mark.parametrize("place", PLACES)
def test_a_url_without_one_is_taken(place: str) -> None:
    make_spec(**_with(PLACES[place], GOOD))


@pytest.mark.parametrize("url", BAD[:4])
def test_a_secret_in_the_url_of_a_patch(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PatchEntry(pull=1, url=url)
    assert all("NARY" not in str(error["msg"]) for error in caught.value.errors(include_input=False))
    assert Series(patches=(PatchEntry(pull=1, url=GOOD),)).patches[0].url == GOOD


def _fields(schema: Any) -> Iterator[str]:
    for definition in [schema, *schema.get("$defs", {}).values()]:
        for name, entry in definition.get("properties", {}).items():
            text = str(entry)
            if "://" in text or "URL" in text or "url" in name:
                yield name


def test_the_table_has_every_place_of_a_url() -> None:
    found = {*_fields(matrix_schema()), *_fields(series_schema())}
    assert found <= {*NAMES}, "is a new field one that takes a URL?"
    assert {place.rpartition(".")[2].partition("[")[0] for place in PLACES} == {*NAMES}
