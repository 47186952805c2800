"""Wheels of several builds in one Python index, of which pip takes the one whose version sorts last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from packaging.version import Version
from unit.helpers import refusal

from pikaforge.config.schema import Destination
from pikaforge.errors import ConfigError, PublishError
from pikaforge.formats.wheel.wheel_version import local_version
from pikaforge.host.text import ignore
from pikaforge.publish.sites import pypi
from pikaforge.publish.sites.client import SiteClient
from pikaforge.publish.sites.index_builds import by_index, refuse_mixed
from pikaforge.publish.sites.site import SiteOptions, Upload, UploadOutcome

TAGS = "py3-none-manylinux_2_34_x86_64.whl"


def name_of(model: str, image: str = "debian12", *more: str, version: str = "1.0") -> str:
    return f"demo_server-{version}+{local_version(model, image, *more)}-{TAGS}"


def upload(model: str, image: str = "debian12", allocator: str = "none", *more: str) -> Upload:
    variant = "" if allocator == "none" else allocator
    path = Path("/dist") / name_of(model, image, variant, *more)
    return Upload(path=path, sha256="0" * 64, model=model, image=image, allocator=allocator)


MIXED: Mapping[str, tuple[Sequence[Upload], Sequence[str]]] = {
    "two models": ((upload("R620"), upload("R640")), ()),
    "another model is there": ((upload("R620"),), (name_of("R640"),)),
    "another model of an older version is there": ((upload("R620"),), (name_of("R640", version="0.9"),)),
    "a model whose name goes on": ((upload("x86_64"),), (name_of("R620"), "x")),
    "a model whose name is shorter": ((upload("HPE-DL380"),), (name_of("HPE"),)),
    "two allocators": ((upload("R620"), upload("R620", "debian12", "frame-pointers")), ()),
    "another allocator is there": ((upload("R620"),), (name_of("R620", "debian12", "libunwind", "2"),)),
}
APART: Mapping[str, tuple[Sequence[Upload], Sequence[str]]] = {
    "one": ((upload("R620"),), ()),
    "images": ((upload("R620"), upload("R620", "el9")), (name_of("R620", "el8"),)),
    "versions": ((upload("R620"),), (name_of("R620", version="0.9"), name_of("R620"))),
    "releases": ((upload("R620", "debian12", "none", "3"),), (name_of("R620"), name_of("R620", "debian12", "", "2"))),
    "allocators of two images": ((upload("R620", "debian12", "system"), upload("R620", "el9")), ()),
    "an allocator's releases": ((upload("R620", "debian12", "system", "2"),), (name_of("R620", "debian12", "system"),)),
    "other files": ((upload("R620"),), ("demo-server-1.0.tar.gz", f"demo_server-1.0-{TAGS}", "index.html", "")),
}


@pytest.mark.parametrize("case", MIXED)
def test_what_pip_would_mix_up_is_refused(case: str) -> None:
    uploads, there = MIXED[case]
    with pytest.raises(PublishError) as caught:
        refuse_mixed(uploads, there, where="https://e.example.org/", target="wheels")
    message, where, hint = refusal(caught)
    assert message.startswith(f"{uploads[0].path.name} would share an index with other builds: demo_server-")
    assert where == "https://e.example.org/"
    assert "give each model an index: {model} in the URLs of publish.wheels" in hint
    assert f"(NAME==1.0+{local_version(uploads[0].model, uploads[0].image)}" in hint


@pytest.mark.parametrize("case", APART)
def test_control_builds_that_one_index_can_have(case: str) -> None:
    uploads, there = APART[case]
    refuse_mixed(uploads, there, where="", target="wheels")


def test_pip_takes_the_model_that_sorts_last() -> None:
    """The reason for all this."""
    versions = [Version(name_of(model).split("-")[1]) for model in ("R640", "R620")]
    assert str(max(versions)) == "1.0+r640.debian12"


def test_many_others_are_counted() -> None:
    there = [name_of(f"R{number}") for number in range(700, 720)]
    with pytest.raises(PublishError, match=r", and 17 more$"):
        refuse_mixed([upload("R620")], there, where="", target="wheels")


def test_each_model_has_its_index() -> None:
    uploads = [upload("R620"), upload("R620", "el9"), upload("a/b c")]
    places = by_index("https://e.example.org/{model}/", "https://e.example.org/{model}/{image}/simple", uploads)
    assert {place: [u.image for u in of] for place, of in places.items()} == {
        ("https://e.example.org/R620/", "https://e.example.org/R620/debian12/simple"): ["debian12"],
        ("https://e.example.org/R620/", "https://e.example.org/R620/el9/simple"): ["el9"],
        ("https://e.example.org/a%2Fb%20c/", "https://e.example.org/a%2Fb%20c/debian12/simple"): ["debian12"],
    }
    assert list(by_index("https://e.example.org/", None, uploads)) == [("https://e.example.org/", None)]


def index_at(**fields: object) -> pypi.PythonIndex:
    destination = Destination.model_validate({"kind": "index", **fields})
    options = SiteOptions(name="wheels", destination=destination, base=Path("/"), environ={}, notice=ignore)
    return pypi.KIND.open(options)[0]


@pytest.mark.parametrize(
    "url", ["https://e.example.org/{modell}/", "https://e.example.org/{}/", "https://e.org/{model"]
)
@pytest.mark.parametrize("field", ["url", "simple"])
def test_other_words_in_braces_are_refused(url: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        index_at(**{"url": "https://e.example.org/", field: url})
    _, where, hint = refusal(caught)
    assert (where, hint) == ("publish.wheels", "known: {model}, {image}, {allocator}")


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize(
    ("fields", "models", "sent"),
    [
        ({"url": "https://e.example.org/"}, ("R620", "R640"), None),
        ({"url": "https://e.example.org/"}, ("R620",), ["https://e.example.org/"]),
        ({"url": "https://e.example.org/", "pinned": True}, ("R620", "R640"), ["https://e.example.org/"]),
        (
            {"url": "https://e.example.org/{model}"},
            ("R620", "R640"),
            ["https://e.example.org/R620", "https://e.example.org/R640"],
        ),
        ({"url": "https://e.example.org/{model}"}, ("R620", "R650"), None),
    ],
    ids=["mixed", "one", "pinned", "an index for each", "one of these has another"],
)
def test_nothing_is_sent_unless_all_can_be(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], models: Sequence[str], sent: list[str] | None, yes: bool
) -> None:
    done: list[str] = []
    pages = {
        "https://e.example.org/R650/simple/demo-server/": f'<a href="/f/{name_of("R640")}#sha256=0">x</a>'.encode()
    }

    def publish_wheels(url: str, *_: object, **__: object) -> list[UploadOutcome]:
        done.append(url)
        return []

    def get(_: SiteClient, url: str, *, limit: int = 0) -> bytes | None:
        assert limit > 0
        return pages.get(url)

    monkeypatch.setattr(pypi, "publish_wheels", publish_wheels)
    monkeypatch.setattr(SiteClient, "get", get)
    index = index_at(**fields)
    if sent is None:
        with pytest.raises(PublishError, match="would share an index"):
            index.put([upload(model) for model in models], yes=yes)
        assert done == []
    else:
        index.put([upload(model) for model in models], yes=yes)
        assert done == sent
