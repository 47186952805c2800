"""Which shared store a run has, and how it may use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import make_spec

from pikaforge.attest.signatures import Verifier
from pikaforge.config.schema import Spec
from pikaforge.config.shared_store import SharedStoreOptions
from pikaforge.errors import ConfigError, CredentialsError, DestinationError, UsageError
from pikaforge.sharing.opening import opened
from pikaforge.sharing.results import SharedResults

URL = "https://store.example.org/pika"
KEYS: dict[str, Any] = {"keys": ("keys/builders.asc",)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "builders.asc").write_text("a key")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are not read by GnuPG here."""
    monkeypatch.setattr(Verifier, "__init__", lambda self, texts, folder: None)


def of(
    place: Path, environ: Mapping[str, str] | None = None, *, release: bool = False, **options: Any
) -> tuple[SharedResults | None, list[str]]:
    notices: list[str] = []
    found = opened(
        SharedStoreOptions.model_validate(options) if options else None,
        environ or {},
        base=place,
        cwd=place / "elsewhere",
        file_limit=1,
        notice=notices.append,
        release=release,
    )
    return found, notices


def where(found: tuple[SharedResults | None, list[str]]) -> str:
    assert found[0] is not None
    return found[0].where


def test_without_one_there_is_none(place: Path) -> None:
    assert of(place) == (None, [])
    assert of(place, {"PIKAFORGE_STORE": ""}) == (None, [])
    assert of(place, {"PIKAFORGE_STORE_MODE": "off"}, url=URL) == (None, [])


def test_the_environment_names_another_one(place: Path) -> None:
    assert where(of(place, url=URL)) == URL
    assert where(of(place, {"PIKAFORGE_STORE": "https://other.example.org"}, url=URL)) == "https://other.example.org"
    assert where(of(place, {"PIKAFORGE_STORE": URL})) == URL


def test_folders_are_relative_to_who_names_them(place: Path) -> None:
    assert where(of(place, url="a b".replace(" ", "-"))) == str(place / "a-b")
    assert where(of(place, {"PIKAFORGE_STORE": "store"}, url=URL)) == str(place / "elsewhere" / "store")
    assert where(of(place, url="/srv/store")) == "/srv/store"
    assert where(of(place, url="file:///srv/store")) == "/srv/store"


@pytest.mark.parametrize(
    ("mode", "write", "expected"),
    [("", True, True), ("", False, False), ("read", True, False), ("write", False, True)],
)
def test_the_mode_comes_before_the_configuration(place: Path, mode: str, write: bool, expected: bool) -> None:
    found, _ = of(place, {"PIKAFORGE_STORE_MODE": mode}, url=URL, write=write)
    assert found is not None
    assert found.writes is expected


def test_another_mode_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="PIKAFORGE_STORE_MODE is none of read, write, off: 'readonly'"):
        of(place, {"PIKAFORGE_STORE_MODE": "readonly"}, url=URL)


@pytest.mark.parametrize(
    "url", ["https://u:secret@host/x", "u:secret@host/x", "https://host/x?sig=secret", "a b", "x\x1b"]
)
def test_an_url_that_may_have_a_secret_is_refused_without_it(place: Path, url: str) -> None:
    with pytest.raises(DestinationError) as error:
        of(place, {"PIKAFORGE_STORE": url})
    assert "secret" not in f"{error.value.message}{error.value.hint}"
    assert error.value.message.isprintable()
    with pytest.raises(ConfigError):
        make_spec(store={"url": url})


def test_half_credentials_are_refused(place: Path) -> None:
    with pytest.raises(CredentialsError, match="PIKAFORGE_STORE_USER is set, but PIKAFORGE_STORE_PASSWORD is not"):
        of(place, {"PIKAFORGE_STORE_USER": "ann"}, url=URL)


def test_credentials_over_plain_http_are_said(place: Path) -> None:
    login = {"PIKAFORGE_STORE_USER": "ann", "PIKAFORGE_STORE_PASSWORD": "x"}
    _, notices = of(place, login, url="http://store.example.org")
    assert notices == ["http://store.example.org is plain http: whoever is on the way can read the credentials"]


def test_keys_decide_what_is_taken(place: Path) -> None:
    cases: tuple[tuple[dict[str, str], dict[str, Any], bool], ...] = (
        ({}, {}, False),
        ({}, KEYS, True),
        ({"PIKAFORGE_VERIFY_KEYS": "../keys/builders.asc"}, {}, True),
        ({"PIKAFORGE_SIGNING_KEY": "secret.asc"}, {}, True),
        ({"PIKAFORGE_STORE_SIGNING_KEY": "secret.asc"}, {}, True),
    )
    for environ, options, signed in cases:
        found, _ = of(place, environ, url=URL, **options)
        assert found is not None
        assert found.signed is signed, environ


def test_a_release_takes_only_what_is_signed(place: Path) -> None:
    found, notices = of(place, release=True, url=URL)
    assert found is None
    assert notices == [f"the shared store {URL} is not used: a release takes only signed results (store.keys)"]
    assert of(place, release=True, url=URL, **KEYS)[0] is not None


def test_offline_nobody_is_asked_but_a_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIKAFORGE_OFFLINE", "1")
    found, [notice] = of(place, url=URL)
    assert found is None
    assert notice == f"the shared store {URL} is not asked: PIKAFORGE_OFFLINE forbids the network"
    assert of(place, url="/srv/store")[0] is not None


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x"])
def test_a_missing_package_is_a_notice(place: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    found, [notice] = of(place, url=url)
    assert found is None
    assert notice.startswith(f"the shared store {url} is not used in this run: the Python package ")
    assert "pip install 'pikaforge[store]'" in notice


def test_matrix_yaml_names_it() -> None:
    spec: Spec = make_spec(store={"url": "s3://bucket/x", "endpoint": "https://minio.example.org", "write": False})
    assert spec.store is not None
    assert (spec.store.url, spec.store.write, spec.store.keys) == ("s3://bucket/x", False, ())
    with pytest.raises(ConfigError, match="uri"):
        make_spec(store={"uri": "x"})
    with pytest.raises(ConfigError):
        make_spec(store={"url": "x", "keys": [""]})
