"""The index page: what is in it is safe, complete and the same every time; and its search finds what it should."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pikaforge.pages import notation
from pikaforge.pages.page import ASSETS
from pikaforge.publish.page import page
from pikaforge.publish.page_data import SHOWN
from pikaforge.publish.state import Artifact, Catalogue, File, Key, Repository

NASTY = "</script><img src=x onerror=alert(1)>\"'&amp;<!--\u2028"
BESIDE = (".sbom.json", ".intoto.json", ".asc")
VOID = ("meta", "input", "link", "img", "base")
KEY = Key(path="keys/demo.asc", fingerprint="0123456789ABCDEF0123456789ABCDEF01234567")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def artifact(path: str, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "path": path,
        "sha256": digest(path),
        "bytes": 12 << 20,
        "format": "rpm",
        "role": "main",
        "package": "demo",
        "version": "1.0-1.R620.el7",
        "product_version": "v1.0",
        "cell": "R620-el7-none",
        "allocator": "none",
        "target": "sandybridge",
        "epoch": 1,
        "built": "2024-04-30T23:00:00+00:00",
        "published": "2024-05-01T10:00:00+00:00",
        "since": 1,
        "beside": tuple(File(path=path + suffix, sha256=digest(path + suffix), bytes=1) for suffix in BESIDE),
    }
    return Artifact(**{**values, **changes})


def repository(
    image: str, model: str, *artifacts: Artifact, published: str = "2024-05-01T10:00:00+00:00"
) -> Repository:
    return Repository(
        path=f"{image}/{model}", image=image, model=model, generation=1, published=published, artifacts=artifacts
    )


def catalogue(*repositories: Repository, **changes: Any) -> Catalogue:
    values: dict[str, Any] = {
        "product": "demo",
        "summary": "A server",
        "url": "https://packages.example.org/demo",
        "key": KEY,
        "repositories": repositories,
    }
    return Catalogue(**{**values, **changes})


WHEEL = "wheels/demo_server-1.0+r620.debian12-py3-none-any.whl"


def made() -> Catalogue:
    """Two images, three models, all formats, allocators and roles."""
    deb = {"format": "deb", "version": "1.0-1.R620.debian12", "cell": "R620-debian12-none"}
    return catalogue(
        repository(
            "debian12",
            "R620",
            artifact("debs/demo_1.0-1.R620.debian12_amd64.deb", **deb),
            artifact("debs/demo-dbgsym_1.0-1.R620.debian12_amd64.deb", role="debug", package="demo-dbgsym", **deb),
            artifact(WHEEL, **{**deb, "format": "wheel", "version": "1.0+r620.debian12", "package": "demo-server"}),
            published="2024-06-02T09:00:00+00:00",
        ),
        repository(
            "el7",
            "R620",
            artifact("x86_64/demo-1.0-1.R620.el7.x86_64.rpm"),
            artifact("x86_64/demo-debuginfo-1.0-1.R620.el7.x86_64.rpm", role="debug", package="demo-debuginfo"),
            artifact(
                "tarballs/demo-v1.0-R620-libunwind.tar.gz",
                format="tar",
                version="v1.0",
                allocator="libunwind",
                cell="R620-el7-libunwind",
            ),
            artifact(
                "x86_64/demo-1.1-1.R620.el7.x86_64.rpm",
                version="1.1-1.R620.el7",
                product_version="v1.1",
                built="2024-05-30T23:00:00+00:00",
                published="2024-06-01T10:00:00+00:00",
            ),
            published="2024-06-01T10:00:00+00:00",
        ),
        repository(
            "el7",
            "R6415",
            artifact(
                "x86_64/demo-1.0-1.R6415.el7.x86_64.rpm", version="1.0-1.R6415.el7", target="zen", cell="R6415-el7-none"
            ),
        ),
    )


def install(repository: Repository, artifact: Artifact) -> tuple[str, ...]:
    return () if artifact.role == "debug" else (f"add {repository.path}", f"install '{artifact.package}' & check")


def fleet(image: str) -> tuple[str, ...]:
    return (f"sh detect-model.sh < {image}", "install demo") if image == "el7" else ()


@dataclass(kw_only=True)
class Element:
    """An element with the text right in it, and what it is in."""

    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Reader(HTMLParser):
    """A page as a browser takes it apart: script and style end where the first end tag is, whatever was meant."""

    text: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        inside = tuple(element.attributes.get("id", element.tag) for element in self._open)
        element = Element(tag=tag, attributes={name: value or "" for name, value in attrs}, inside=inside)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, f"</{tag}> ends nothing"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text += data

    def all(self, tag: str, inside: str = "html") -> list[Element]:
        """The elements with a tag inside an element with an id, or a tag."""
        return [element for element in self.elements if element.tag == tag and inside in (tag, *element.inside)]

    def one(self, tag: str, **attributes: str) -> Element:
        found = [e for e in self.all(tag) if attributes.items() <= e.attributes.items()]
        assert len(found) == 1, found
        return found[0]

    @property
    def data(self) -> dict[str, Any]:
        told = json.loads(self.one("script", id="data").text)
        assert isinstance(told, dict)
        return told


def rendered(of: Catalogue) -> Reader:
    return Reader(page(of, install, fleet))


def files(of: Catalogue) -> Iterable[str]:
    """What there is below the root."""
    for place in of.repositories:
        for one in place.artifacts:
            yield from (f"{place.path}/{file.path}" for file in one.files())


class TestSafety:
    def test_no_name_leaves_its_place(self) -> None:
        told = catalogue(
            repository(
                "el7",
                "R620",
                artifact(
                    f"x86_64/{NASTY}.rpm", package=NASTY, version=NASTY, allocator=NASTY, target=NASTY, built=NASTY
                ),
            ),
            product=NASTY,
            summary=NASTY,
            key=Key(path=f"keys/{NASTY}", fingerprint=NASTY),
        )
        text = page(told, lambda *_: (NASTY,), lambda _: (NASTY,))
        reader = Reader(text)
        assert {element.tag for element in reader.elements} == {element.tag for element in rendered(made()).elements}
        assert len(reader.all("script")) == 2
        assert not [name for element in reader.elements for name in element.attributes if name.startswith("on")]
        assert reader.one("h1").text == reader.one("title").text == f"{NASTY} packages"
        assert reader.one("p", **{"class": "summary"}).text == NASTY
        assert [pre.text for pre in reader.all("pre")] == [NASTY]
        file = reader.data["images"][0]["repositories"][0]["files"][0]
        assert (file["path"], file["package"], file["version"], file["built"]) == (
            f"x86_64/{NASTY}.rpm", NASTY, NASTY, NASTY,
        )  # fmt: skip
        assert reader.data["lines"] == [NASTY]

    def test_the_data_has_no_letter_that_means_something_around_it(self) -> None:
        text = page(catalogue(repository("el7", "R620", artifact(NASTY + "\u2029"))), install, fleet)
        data = text.partition('id="data">')[2].partition("</script>")[0]
        assert json.loads(data)["images"][0]["repositories"][0]["files"][0]["path"] == NASTY + "\u2029"
        assert not re.search("[<>&\u2028\u2029]", data)

    def test_the_policy_allows_what_is_in_the_page_and_nothing_else(self) -> None:
        reader = rendered(made())
        policy = reader.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        (style,) = reader.all("style")
        (script,) = [element for element in reader.all("script") if "type" not in element.attributes]

        def source(element: Element) -> str:
            return f"'sha256-{base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()}'"

        assert rules == {
            "default-src": "'none'",
            "style-src": source(style),
            "script-src": source(script),
            "base-uri": "'none'",
            "form-action": "'none'",
            "require-trusted-types-for": "'script'",
        }
        order = [element.attributes.get("http-equiv", element.tag) for element in reader.elements]
        assert order.index("Content-Security-Policy") < min(order.index("style"), order.index("script"))
        assert not [element for element in reader.elements if "style" in element.attributes]

    def test_nothing_is_loaded(self) -> None:
        reader = rendered(made())
        loaders = {"link", "img", "iframe", "object", "embed", "audio", "video", "source", "base", "svg"}
        assert not loaders & {element.tag for element in reader.elements}
        assert not [e for e in reader.elements if {"src", "srcset", "action", "background"} & e.attributes.keys()]
        (style,) = reader.all("style")
        assert not re.search(r"url\(|@import|image-set", style.text)
        (script,) = [element for element in reader.all("script") if "type" not in element.attributes]
        assert not re.search(r"https?:|\bfetch\b|XMLHttpRequest|\bimport\b|innerHTML|\beval\b", script.text)

    @pytest.mark.parametrize("name", sorted(path.name for path in ASSETS.iterdir() if path.suffix in (".css", ".js")))
    def test_an_asset_can_be_inlined_and_names_no_product(self, name: str) -> None:
        text = (ASSETS / name).read_text()
        assert not re.search(r"</(script|style)|<!--|\r", text, re.IGNORECASE)
        assert not re.search(r"pika|redis", text, re.IGNORECASE)


class TestLinks:
    def test_they_are_relative_and_lead_to_all_there_is(self) -> None:
        told = made()
        links = [e.attributes["href"] for e in rendered(told).all("a") if e.attributes.get("class") != "skip"]
        for link in links:
            parts = urlsplit(link)
            assert not (parts.scheme or parts.netloc or parts.query or parts.fragment), link
            assert not link.startswith("/") and ".." not in link.split("/")
        assert sorted(map(unquote, links)) == sorted([*files(told), KEY.path, "repo.json", "report.html"])

    def test_letters_that_mean_something_in_a_link_are_encoded(self) -> None:
        told = catalogue(repository("a:b", "R?#%", artifact("tarballs/x+y ü~.tar.gz", format="tar", beside=())))
        plain = [element.attributes["href"] for element in rendered(told).all("a", inside="plain")]
        assert plain == ["a%3Ab/R%3F%23%25/tarballs/x%2By%20%C3%BC~.tar.gz"]

    def test_the_plain_list_has_every_file_by_repository(self) -> None:
        told = made()
        reader = rendered(told)
        found: dict[str, list[str]] = {}
        image = model = ""
        for element in reader.elements:
            if "plain" not in element.inside:
                continue
            if element.tag == "h2":
                image = element.text
            elif element.tag == "h3":
                model = element.text
            elif element.tag == "a":
                found.setdefault(f"{image}/{model}", []).append(unquote(element.attributes["href"]))
        assert {place: sorted(links) for place, links in found.items()} == {
            place.path: sorted(file for file in files(told) if file.startswith(f"{place.path}/"))
            for place in told.repositories
        }
        digests = [element.text for element in reader.all("code", inside="plain")]
        assert sorted(digests) == sorted(one.sha256 for place in told.repositories for one in place.artifacts)
        assert [pre.text for pre in reader.all("pre", inside="plain")] == ["sh detect-model.sh < el7\ninstall demo"]

    def test_what_lies_beside_is_called_what_it_is(self) -> None:
        odd = File(path="x86_64/DEMO.rpm.asc", sha256=digest(""), bytes=0)  # of another file, whatever it ends with
        one = artifact("x86_64/demo.rpm")
        told = catalogue(repository("el7", "R620", one.model_copy(update={"beside": (*one.beside, odd)})))
        reader = rendered(told)
        names = ["SBOM", "provenance", "signature", "DEMO.rpm.asc"]
        assert [element.text for element in reader.all("a", inside="plain")] == ["demo.rpm", *names]
        beside = reader.data["images"][0]["repositories"][0]["files"][0]["beside"]
        assert beside == [[name, path] for name, path in zip(names, [f.path for f in (*one.beside, odd)], strict=True)]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another time zone than UTC."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "XYZ-9")
        time.tzset()
        yield
    time.tzset()


class TestTold:
    def test_the_header(self) -> None:
        reader = rendered(made())
        assert reader.one("h1").text == "demo packages"
        assert reader.one("p", **{"class": "summary"}).text == "A server"
        assert reader.all("time", inside="header")[0].attributes["datetime"] == "2024-06-02T09:00:00Z"
        assert any(p.text.startswith("8 files in 3 repositories;") for p in reader.all("p", inside="header"))
        assert "".join(span.text for span in reader.all("span", inside="header")) == KEY.fingerprint
        assert [a.attributes["href"] for a in reader.all("a", inside="header")] == [KEY.path]

    def test_one_file_is_not_some(self) -> None:
        reader = rendered(catalogue(repository("el7", "R620", artifact("x86_64/demo.rpm"))))
        assert any(p.text.startswith("1 file in 1 repository;") for p in reader.all("p", inside="header"))

    def test_that_nothing_is_signed(self) -> None:
        reader = rendered(made().model_copy(update={"key": None}))
        assert any(p.text.startswith("Nothing here is signed") for p in reader.all("p", inside="header"))
        assert not reader.all("a", inside="header")
        assert not any("is signed" in p.text for p in rendered(made()).all("p", inside="header"))

    @pytest.mark.parametrize("repositories", [(), (repository("el7", "R620"),)])
    def test_nothing_is_published(self, repositories: tuple[Repository, ...]) -> None:
        reader = rendered(catalogue(*repositories, key=None, summary=""))
        assert next(p.text for p in reader.all("p", inside="header")) == "Nothing is published here yet."
        assert not [e for e in reader.elements if e.attributes.get("id") in ("controls", "plain", "data", "results")]
        assert [a.attributes["href"] for a in reader.all("a")] == ["#content", "repo.json"]

    def test_an_artifact(self) -> None:
        told = catalogue(repository("el7", "R620", artifact("x86_64/demo.rpm", built="2024-05-01T01:30:00+02:00")))
        assert rendered(told).data == {
            "images": [
                {
                    "image": "el7",
                    "fleet": [0, 1],
                    "repositories": [
                        {
                            "path": "el7/R620",
                            "model": "R620",
                            "older": 0,
                            "published": "2024-05-01T10:00:00Z",
                            "files": [
                                {
                                    "path": "x86_64/demo.rpm",
                                    "format": "rpm",
                                    "role": "main",
                                    "package": "demo",
                                    "version": "1.0-1.R620.el7",
                                    "product": "v1.0",
                                    "cell": "R620-el7-none",
                                    "target": "sandybridge",
                                    "allocator": "none",
                                    "built": "2024-04-30T23:30:00Z",
                                    "published": "2024-05-01T10:00:00Z",
                                    "bytes": 12 << 20,
                                    "size": "12.0 MiB",
                                    "sha256": digest("x86_64/demo.rpm"),
                                    "beside": [
                                        ["SBOM", "x86_64/demo.rpm.sbom.json"],
                                        ["provenance", "x86_64/demo.rpm.intoto.json"],
                                        ["signature", "x86_64/demo.rpm.asc"],
                                    ],
                                    "install": [2, 3],
                                }
                            ],
                        }
                    ],
                }
            ],
            "lines": ["sh detect-model.sh < el7", "install demo", "add el7/R620", "install 'demo' & check"],
        }

    def test_lines_are_told_once(self) -> None:
        data = rendered(made()).data
        assert len(set(data["lines"])) == len(data["lines"])
        told = [
            [data["lines"][number] for number in file["install"]]
            for image in data["images"]
            for place in image["repositories"]
            for file in place["files"]
            if file["path"] == "x86_64/demo-1.1-1.R620.el7.x86_64.rpm"
        ]
        assert told == [["add el7/R620", "install 'demo' & check"]]

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3 << 19, "1.5 MiB"),
            (5 << 30, "5.0 GiB"),
            (1 << 40, "1024.0 GiB"),
        ],
    )
    def test_sizes(self, count: int, text: str) -> None:
        assert notation.size(count) == text

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2024-05-01T10:00:00+00:00", "2024-05-01T10:00:00Z"),
            ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
            ("2024-05-01T10:00:00.123456+00:00", "2024-05-01T10:00:00Z"),
            ("2024-05-01T01:00:00+02:00", "2024-04-30T23:00:00Z"),
            ("2024-05-01T10:00:00", "2024-05-01T10:00:00Z"),
            ("yesterday", "yesterday"),
        ],
    )
    @pytest.mark.usefixtures("elsewhere")
    def test_moments_are_in_one_notation(self, text: str, moment: str) -> None:
        assert notation.moment(text) == moment


class TestOrder:
    def test_images_and_models_with_the_newest_day_first_and_then_by_name(self) -> None:
        def at(image: str, model: str, published: str) -> Repository:
            return repository(image, model, artifact("x86_64/demo.rpm"), published=published)

        told = catalogue(
            at("debian12", "R620", "2024-05-01T10:00:00+00:00"),
            at("el10", "R620", "2024-05-03T12:00:00+00:00"),
            at("el7", "KVM", "2024-05-02T10:00:00+00:00"),
            at("el7", "R640", "2024-05-03T10:00:00+00:00"),
            at("el7", "R7515", "2024-05-02T10:02:00+00:00"),
            at("el7", "R760", "2024-05-02T10:01:00+00:00"),
        )
        data = rendered(told).data
        assert [place["path"] for image in data["images"] for place in image["repositories"]] == [
            "el7/R640", "el7/KVM", "el7/R760", "el7/R7515", "el10/R620", "debian12/R620",
        ]  # fmt: skip

    def test_the_newest_artifacts_first_and_debug_information_last(self) -> None:
        late = {"published": "2024-05-03T10:00:00+00:00"}
        told = catalogue(
            repository(
                "el7",
                "R620",
                artifact("x86_64/old-1.9.rpm", product_version="v1.9"),
                artifact("x86_64/a-debuginfo.rpm", role="debug", **late),
                artifact("x86_64/gperftools.rpm", role="allocator", **late),
                artifact("tarballs/demo.tar.gz", format="tar", **late),
                artifact("x86_64/demo-frame-pointers.rpm", allocator="frame-pointers", **late),
                artifact("x86_64/demo.rpm", **late),
                artifact("x86_64/old-1.10.rpm", product_version="v1.10"),
            )
        )
        expected = [
            "demo.rpm", "demo-frame-pointers.rpm", "demo.tar.gz", "gperftools.rpm", "a-debuginfo.rpm",
            "old-1.10.rpm", "old-1.9.rpm",
        ]  # fmt: skip
        reader = rendered(told)
        files = reader.data["images"][0]["repositories"][0]["files"]
        assert [file["path"].rpartition("/")[2] for file in files] == expected
        names = [element.text for element in reader.all("a", inside="plain")]
        assert [name for name in names if name in expected] == expected

    def test_what_is_older_than_the_newest_hundred_is_counted_only(self) -> None:
        """So the page does not grow with every publication; the catalogue has everything."""
        old = [artifact(f"x86_64/demo-{number}.rpm") for number in range(SHOWN + 20)]
        new = artifact("x86_64/demo-new.rpm", published="2024-06-01T10:00:00+00:00")
        reader = rendered(catalogue(repository("el7", "R620", *old, new), repository("el7", "R640", new)))
        large, small = reader.data["images"][0]["repositories"]
        assert [file["path"] for file in large["files"][:2]] == ["x86_64/demo-new.rpm", "x86_64/demo-0.rpm"]
        assert (len(large["files"]), large["older"], small["older"]) == (SHOWN, 21, 0)
        texts = [element.text for element in reader.all("li", inside="plain")]
        assert [text for text in texts if "older" in text] == ["21 older files: "]
        assert "are in repo.json only" in reader.one("p", id="hint").text
        assert [e.attributes["href"] for e in reader.all("a", inside="plain") if e.text == "repo.json"] == ["repo.json"]

    def test_the_same_is_the_same_in_any_order(self) -> None:
        """Not even what is alike in all that the order goes by is in the order of the catalogue."""
        names = [f"x86_64/demo-{letter}.rpm" for letter in "abc"]
        told = catalogue(
            *(
                repository(image, model, *(artifact(name) for name in names))
                for image in ("el7", "el8", "el9")
                for model in ("R610", "R620", "R630")
            )
        )
        turned = told.model_copy(
            update={
                "repositories": tuple(
                    place.model_copy(update={"artifacts": place.artifacts[::-1]}) for place in told.repositories[::-1]
                )
            }
        )
        assert page(turned, install, fleet) == page(told, install, fleet)


class TestControls:
    def test_everything_has_a_label_and_is_hidden_without_a_script(self) -> None:
        reader = rendered(made())
        assert "hidden" in reader.one("form", id="controls").attributes
        labelled = {element.attributes.get("for") for element in reader.all("label")}
        fields = [e for e in reader.all("input") + reader.all("select") if "label" not in e.inside]
        assert len(fields) == 4
        assert {element.attributes["id"] for element in fields} <= labelled
        hidden = {e.attributes["id"] for e in reader.elements if "hidden" in e.attributes}
        assert hidden == {"controls", "status", "results", "more"}

    def test_choices(self) -> None:
        reader = rendered(made())
        choices = {
            name: [option.attributes["value"] for option in reader.all("option", inside=name)]
            for name in ("model", "image", "format")
        }
        assert choices == {
            "model": ["", "R620", "R6415"],
            "image": ["", "debian12", "el7"],
            "format": ["", "rpm", "deb", "tar", "wheel"],
        }

    def test_the_script_finds_what_it_asks_for(self) -> None:
        script = (ASSETS / "index.js").read_text()
        listed = re.search(r"=\s*\[([^]]*)\]\.map\(by\)", script)
        assert listed
        asked = {*re.findall(r'"(\w+)"', listed[1]), *re.findall(r'(?:getElementById|by)\("(\w+)"\)', script)}
        assert asked >= {"controls", "data", "plain", "q"}
        assert asked <= {element.attributes.get("id") for element in rendered(made()).elements}


HARNESS = """
const [script, told, asked] = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const page = require(script);
const data = page.prepare(told);
const place = (group) => group.image.image + "/" + group.repository.model;
const answers = asked.map((hash) => {
  const state = page.readHash(hash);
  const found = page.search(data, state);
  return {
    hash: page.writeHash(state),
    files: found.groups.flatMap((group) => group.files.map((file) => page.link(file.place + "/" + file.path))),
    debug: found.groups.flatMap((group) => group.debug.map((file) => page.link(file.place + "/" + file.path))),
    told: page.told(found),
    pieces: page.layout(found).map((piece) => ({
      image: () => piece.image.image,
      repository: () => place(piece.group),
      file: () => piece.file.name,
      fold: () => "+" + piece.group.debug.length,
    })[piece.kind]()),
  };
});
process.stdout.write(JSON.stringify(answers));
"""

DEB = "debian12/R620/debs/demo_1.0-1.R620.debian12_amd64.deb"
DEB_DEBUG = "debian12/R620/debs/demo-dbgsym_1.0-1.R620.debian12_amd64.deb"
WHL = f"debian12/R620/{WHEEL.replace('+', '%2B')}"
RPM = "el7/R620/x86_64/demo-1.0-1.R620.el7.x86_64.rpm"
RPM_NEW = "el7/R620/x86_64/demo-1.1-1.R620.el7.x86_64.rpm"
RPM_DEBUG = "el7/R620/x86_64/demo-debuginfo-1.0-1.R620.el7.x86_64.rpm"
TAR = "el7/R620/tarballs/demo-v1.0-R620-libunwind.tar.gz"
ZEN = "el7/R6415/x86_64/demo-1.0-1.R6415.el7.x86_64.rpm"
DIGEST = digest("x86_64/demo-1.0-1.R620.el7.x86_64.rpm")
DEBUG_DIGEST = digest("x86_64/demo-debuginfo-1.0-1.R620.el7.x86_64.rpm")
EVERYTHING = [DEB, WHL, RPM_NEW, RPM, TAR, ZEN]

FOUND: dict[str, list[str]] = {
    # The hash of the URL, and the links to what it finds, without debug packages.
    "": EVERYTHING,
    "#": EVERYTHING,
    "#q=++": EVERYTHING,
    "#R6415": [ZEN],
    "#q=r620+EL7": [RPM_NEW, RPM, TAR],
    "#q=el7%20r620": [RPM_NEW, RPM, TAR],
    "#q=debian12": [DEB, WHL],
    "#q=1.1-1": [RPM_NEW],
    "#q=v1.1": [RPM_NEW],
    "#q=1.0%2Br620": [WHL],
    "#q=demo-server": [WHL],
    "#q=py3-none": [WHL],
    "#q=libunwind": [TAR],
    "#q=zen": [ZEN],
    "#q=sandybridge+rpm": [RPM_NEW, RPM],
    "#q=2024-05-30": [RPM_NEW],
    "#q=2024-06": [RPM_NEW],
    "#q=2024-05-01+el7": [RPM, TAR, ZEN],
    "#q=R620-el7-none": [RPM_NEW, RPM],
    "#q=nothing": [],
    "#q=el7+nothing": [],
    "#q=el7%0AR620": [RPM_NEW, RPM, TAR],
    f"#q={DIGEST}": [RPM],
    f"#q={DIGEST[:6]}": [RPM],
    f"#q={DIGEST[:6].upper()}": [RPM],
    f"#q=sha256:{DIGEST[:9]}": [RPM],
    f"#q={DIGEST[:12]}+el7": [RPM],
    f"#q={DIGEST[:12]}+debian12": [],
    f"#q={DIGEST[:5]}": [],
    f"#q={DIGEST[1:12]}": [],
    f"#q={DIGEST}0": [],
    "#model=R6415": [ZEN],
    "#model=R64": [],
    "#image=el7&format=tar": [TAR],
    "#image=el7": [RPM_NEW, RPM, TAR, ZEN],
    "#format=deb": [DEB],
    "#q=1.0&model=R620&image=el7&format=rpm": [RPM],
    "#q=%3Cscript%3E": [],
    "#q=.*": [],
    "#q=%": [],
}
DEBUG = {"#q=debuginfo": [RPM_DEBUG], f"#q={DEBUG_DIGEST[:8]}": [RPM_DEBUG], "#q=debug": [DEB_DEBUG, RPM_DEBUG]}
"""What finds debug packages only."""
HASHES = {
    "#": "",
    "#q=++": "",
    "#R6415": "#q=R6415",
    "#q=el7%20r620": "#q=el7+r620",
    "#q=1.0%2Br620": "#q=1.0%2Br620",
    "#image=el7&format=tar": "#image=el7&format=tar",
    "#debug=1": "#debug=1",
    "#debug=0&unknown=1": "",
    "#format=rpm&q=a%26b&model=R620&image=el7&debug=1": "#q=a%26b&model=R620&image=el7&format=rpm&debug=1",
}
"""How a state is written in the URL again."""
Answer = dict[str, Any]


def asked_of(told: Catalogue, asked: Iterable[str]) -> dict[str, Answer]:
    """What the page's own script says to each hash; only for fixtures of the module.

    Those run once, before the first test that wants them is sealed: the tests themselves run no program.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is missing: it runs the page's script without a browser")
    hashes = list(asked)
    given = json.dumps([str(ASSETS / "index.js"), rendered(told).data, hashes])
    ran = subprocess.run([node, "-e", HARNESS], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(zip(hashes, json.loads(ran.stdout), strict=True))


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    """Of the catalogue with a little of everything."""
    return asked_of(made(), [*FOUND, *DEBUG, *HASHES])


@pytest.fixture(scope="module")
def crowded() -> dict[str, Answer]:
    """Of a catalogue with more files than the page has."""
    many = (artifact(f"x86_64/demo-{number}.rpm") for number in range(SHOWN + 1))
    return asked_of(catalogue(repository("el7", "R620", *many)), ["", "#q=absent", "#model=R640"])


SEARCHED = {
    "path": "debs/a-name.deb",
    "package": "a-package",
    "version": "a-version",
    "product_version": "a-product",
    "cell": "a-cell",
    "target": "a-target",
    "allocator": "an-allocator",
    "format": "deb",
    "role": "allocator",
    "built": "2001-02-03T04:05:06Z",
    "published": "2007-08-09T10:11:12Z",
}
"""A word of its own for each field."""
WORDS = (
    "an-image", "a-model", "a-name", "a-package", "a-version", "a-product", "a-cell", "a-target", "an-allocator",
    ".deb", "2001-02-03", "04:05", "2007-08-09", "2007",
)  # fmt: skip
NO_WORDS = ("debs/", "a-model-a", "a-summary", "asc", "12.0")


@pytest.fixture(scope="module")
def single() -> dict[str, Answer]:
    """Of a catalogue with one artifact, in which no two fields are alike."""
    place = Repository(
        path="there/too",
        image="an-image",
        model="a-model",
        generation=1,
        published="2024-05-01T10:00:00Z",
        artifacts=(artifact(**SEARCHED),),
    )
    other = {**SEARCHED, "path": "wheels/x.whl", "format": "wheel", "role": "main", "allocator": "none"}
    kinds = place.model_copy(update={"path": "x/y", "image": "x", "model": "y", "artifacts": (artifact(**other),)})
    told = catalogue(place, kinds, summary="a-summary")
    return asked_of(told, [*(f"#image=an-image&q={word}" for word in WORDS + NO_WORDS), "#wheel", "#q=main"])


class TestSearch:
    @pytest.mark.parametrize("asked", FOUND)
    def test_what_a_search_finds(self, asked: str, answers: dict[str, Answer]) -> None:
        assert answers[asked]["files"] == FOUND[asked]

    @pytest.mark.parametrize("word", WORDS)
    def test_every_field_is_searched(self, word: str, single: dict[str, Answer]) -> None:
        assert single[f"#image=an-image&q={word}"]["files"] == ["there/too/debs/a-name.deb"]

    @pytest.mark.parametrize("word", NO_WORDS)
    def test_nothing_else_is_searched(self, word: str, single: dict[str, Answer]) -> None:
        assert single[f"#image=an-image&q={word}"]["files"] == []

    @pytest.mark.parametrize("asked", ["#wheel", "#q=main"])
    def test_the_kind_of_an_artifact_is_searched(self, asked: str, single: dict[str, Answer]) -> None:
        assert single[asked]["files"] == ["x/y/wheels/x.whl"]

    @pytest.mark.parametrize("asked", DEBUG)
    def test_debug_packages_are_unfolded_where_there_is_nothing_else(
        self, asked: str, answers: dict[str, Answer]
    ) -> None:
        answer = answers[asked]
        assert (answer["files"], answer["debug"]) == ([], DEBUG[asked])
        names = [link.rpartition("/")[2] for link in DEBUG[asked]]
        assert [piece for piece in answer["pieces"] if piece in names] == names
        assert not [piece for piece in answer["pieces"] if piece.startswith("+")]

    @pytest.mark.parametrize("asked", HASHES)
    def test_the_search_is_kept_in_the_url(self, asked: str, answers: dict[str, Answer]) -> None:
        assert answers[asked]["hash"] == HASHES[asked]

    def test_what_is_drawn_with_debug_packages_folded_away(self, answers: dict[str, Answer]) -> None:
        assert answers[""]["pieces"] == [
            "debian12", "debian12/R620", *(unquote(link.rpartition("/")[2]) for link in (DEB, WHL)), "+1",
            "el7", "el7/R620", *(link.rpartition("/")[2] for link in (RPM_NEW, RPM, TAR)), "+1",
            "el7/R6415", ZEN.rpartition("/")[2],
        ]  # fmt: skip

    def test_what_is_drawn_with_debug_packages(self, answers: dict[str, Answer]) -> None:
        assert answers["#debug=1"]["pieces"] == [
            "debian12", "debian12/R620", *(unquote(link.rpartition("/")[2]) for link in (DEB, WHL, DEB_DEBUG)),
            "el7", "el7/R620", *(link.rpartition("/")[2] for link in (RPM_NEW, RPM, TAR, RPM_DEBUG)),
            "el7/R6415", ZEN.rpartition("/")[2],
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            ("", "6 files and 2 debug packages in 3 repositories"),
            ("#R6415", "1 file in 1 repository"),
            ("#q=debuginfo", "1 debug package in 1 repository"),
            ("#q=nothing", "Nothing matches."),
        ],
    )
    def test_what_is_told(self, asked: str, told: str, answers: dict[str, Answer]) -> None:
        assert answers[asked]["told"] == told

    def test_that_older_files_are_not_searched(self, crowded: dict[str, Answer]) -> None:
        older = "1 older file is not on this page."
        assert crowded[""]["told"] == f"{SHOWN} files in 1 repository. {older}"
        assert crowded["#q=absent"]["told"] == f"Nothing matches. {older}"
        assert crowded["#model=R640"]["told"] == "Nothing matches."

    def test_the_script_writes_the_links_that_the_plain_list_has(self, answers: dict[str, Answer]) -> None:
        plain = {element.attributes["href"] for element in rendered(made()).all("a", inside="plain")}
        assert {*answers[""]["files"], *answers[""]["debug"]} <= plain
