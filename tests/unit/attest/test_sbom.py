"""The SBOM: what is in it, that the format's own schema takes it, and that the same inputs give the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.artifacts import claimed, make_manifest

from pikaforge.attest import sbom

DIGEST = "a" * 64
TARBALLS = {
    "src": {"version": "2.7", "url": "https://example.org/gperftools-2.7.tar.gz", "sha256": "7" * 64},
    "libunwind": {"version": "1.2", "url": "https://example.org/v1.2.tar.gz", "sha256": "8" * 64},
}
GPERFTOOLS = {"name": "libunwind", "kind": "gperftools", "library": "lib/libtcmalloc.so.4", "tarballs": TARBALLS}


def bill(artifact: str = "demo.tar.gz", sha256: str = DIGEST, **changes: Any) -> str:
    return sbom.text(sbom.document(claimed(**changes), artifact=artifact, sha256=sha256))


def components(text: str) -> dict[str, dict[str, Any]]:
    return {item["bom-ref"]: item for item in json.loads(text)["components"]}


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in component.get("properties", [])}


@pytest.mark.xdist_group("schema of bills")  # in one worker: reading it takes two seconds
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"allocator": GPERFTOOLS},
        {"source__patches": [], "source__submodules": {}, "bundled_libraries": [], "compiler": []},
        {"source__url": "", "source__head": "", "source__commit": "5" * 64},
        {"licences": [{"of": "demo", "names": ["MIT OR LicenseRef-x"]}, {"of": "zlib1g", "names": ["Zlib", "GPL-2+"]}]},
    ],
    ids=["whole", "allocator", "bare", "tarball", "licences"],
)
def test_the_formats_own_schema_takes_it(changes: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bill(**changes)
    assert json.loads(text)["specVersion"] == "1.6"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_is_of_the_artifact() -> None:
    top = json.loads(bill())["metadata"]["component"]
    assert (top["name"], top["version"]) == ("demo", "v1.0")
    assert top["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    told = properties(top)
    assert told["pikaforge:artifact"] == "demo.tar.gz"
    assert told["pikaforge:cell"] == "R620-debian12-none"
    assert told["pikaforge:target"] == "sandybridge"


def test_the_source_has_its_pedigree() -> None:
    source = components(bill())["source"]
    (upstream,) = source["pedigree"]["ancestors"]
    assert source["version"] == "d" * 40, "the patched commit"
    assert upstream["purl"].startswith(f"pkg:generic/demo@{'c' * 40}?vcs_url=git")
    assert upstream["externalReferences"] == [{"type": "vcs", "url": "https://example.org/demo.git"}]
    assert source["pedigree"]["commits"] == [{"uid": "c" * 40}]
    patches = {(patch["type"], patch["diff"]["url"]) for patch in source["pedigree"]["patches"]}
    assert patches == {("cherry-pick", "https://example.org/9.patch"), ("unofficial", "local")}
    assert source["pedigree"]["notes"] == "applied in this order: pull-9, local"
    assert properties(source) == {
        "pikaforge:patch:1:pull-9": f"sha256:{'9' * 64}",
        "pikaforge:patch:2:local": f"sha256:{'1' * 64}",
    }


def test_what_the_source_has_already_is_no_patch_of_it() -> None:
    changed = make_manifest()["source"]
    changed["patches"][0]["state"] = "present"
    changed |= {
        "kind": "repository",
        "url": "https://example.org/fork.git",
        "ref": "main",
        "tag": "",
        "version": "main-gccc",
    }
    source = components(bill(source=changed))["source"]
    assert [patch["diff"]["url"] for patch in source["pedigree"]["patches"]] == ["local"]
    assert source["pedigree"]["notes"] == "applied in this order: local; in the ancestor already: pull-9"
    assert properties(source) == {
        "pikaforge:patch:1:pull-9": f"sha256:{'9' * 64}",
        "pikaforge:patch:1:pull-9:state": "present",
        "pikaforge:patch:2:local": f"sha256:{'1' * 64}",
    }
    (upstream,) = source["pedigree"]["ancestors"]
    assert upstream["version"] == "main-gccc", "not the version that the packages keep"
    assert properties(upstream) == {
        "pikaforge:origin": "repository",
        "pikaforge:ref": "main",
        "pikaforge:commit": "c" * 40,
    }


def test_a_bill_of_a_manifest_of_before() -> None:
    source = make_manifest()["source"]
    for name in ("kind", "tag", "version"):
        del source[name]
    for patch in source["patches"]:
        del patch["state"]
    told = components(bill(source=source))["source"]["pedigree"]
    assert (told["ancestors"][0]["version"], len(told["patches"])) == ("v1.0", 2)


def test_a_tarball_is_known_by_its_digest() -> None:
    source = components(bill(source__url="", source__head="", source__commit="5" * 64))["source"]
    (upstream,) = source["pedigree"]["ancestors"]
    assert upstream["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]
    assert "commits" not in source["pedigree"]


def test_libraries_and_submodules() -> None:
    found = components(bill())
    assert found["library:lib/libz.so.1"]["purl"] == (
        "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12"
    )
    assert found["library:lib/libz.so.1"]["version"] == "1:1.2.13.dfsg-1"
    assert found["submodule:third/pink"]["purl"] == f"pkg:generic/pink@{'e' * 40}"
    assert found["submodule:third/pink"]["version"] == "e" * 40


def test_components_name_their_licences() -> None:
    licences = [
        {"of": "demo", "names": ["MIT AND Zlib"], "files": ["licenses/demo/LICENSE"]},
        {"of": "zlib1g", "names": ["Zlib", "GPL-2+"], "files": ["licenses/zlib1g/copyright"]},
        {"of": "gperftools", "names": ["BSD-3-Clause"], "files": ["licenses/gperftools/COPYING"]},
        {"of": "libunwind", "names": ["zlib and Boost"]},
    ]
    text = bill(licences=licences, allocator=GPERFTOOLS)
    assert json.loads(text)["metadata"]["component"]["licenses"] == [{"expression": "MIT AND Zlib"}]
    found = components(text)
    assert found["source"]["licenses"] == [{"expression": "MIT AND Zlib"}]
    assert properties(found["source"])["pikaforge:licence_files"] == "licenses/demo/LICENSE"
    assert found["library:lib/libz.so.1"]["licenses"] == [{"license": {"id": "Zlib"}}, {"license": {"name": "GPL-2+"}}]
    assert properties(found["library:lib/libz.so.1"])["pikaforge:licence_files"] == "licenses/zlib1g/copyright"
    assert found["allocator:src"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert found["allocator:libunwind"]["licenses"] == [{"license": {"name": "zlib and Boost"}}]
    assert not any("licenses" in component for component in components(bill()).values())


@pytest.mark.parametrize(
    ("version", "purl"),
    [
        ("1.2.7-21.el7", "pkg:rpm/centos/zlib@1.2.7-21.el7?arch=x86_64&distro=centos-7"),
        ("0:1.2.7-21.el7", "pkg:rpm/centos/zlib@1.2.7-21.el7?arch=x86_64&distro=centos-7"),
        ("2:1.2.7-21.el7", "pkg:rpm/centos/zlib@1.2.7-21.el7?arch=x86_64&distro=centos-7&epoch=2"),
    ],
)
def test_a_library_of_an_rpm(version: str, purl: str) -> None:
    library = {"soname": "libz.so.1", "path": "lib/libz.so.1", "package": "zlib", "version": version}
    text = bill(image__os={"id": "centos", "version": "7"}, bundled_libraries=[library])
    assert components(text)["library:lib/libz.so.1"]["purl"] == purl


def test_a_library_of_no_package_has_no_origin() -> None:
    library = {"soname": "libown.so", "path": "lib/libown.so", "package": "", "version": ""}
    found = components(bill(bundled_libraries=[library]))["library:lib/libown.so"]
    assert "purl" not in found
    assert "version" not in found


def test_the_allocator_that_was_built() -> None:
    found = components(bill(allocator=GPERFTOOLS))
    gperftools = found["allocator:src"]
    assert (gperftools["name"], gperftools["version"]) == ("gperftools", "2.7")
    (reference,) = gperftools["externalReferences"]
    assert reference["url"] == "https://example.org/gperftools-2.7.tar.gz"
    assert reference["hashes"] == [{"alg": "SHA-256", "content": "7" * 64}]
    assert found["allocator:libunwind"]["version"] == "1.2"
    assert "allocator:src" not in components(bill())


def test_the_allocator_of_the_system_is_a_library() -> None:
    library = {"soname": "libtcmalloc.so.4", "path": "lib/libtcmalloc.so.4", "package": "tc", "version": "2.10-1"}
    allocator = {"name": "system", "kind": "system", "library": "libtcmalloc.so.4", "unwinder": ""}
    found = components(bill(allocator=allocator, bundled_libraries=[library]))
    assert properties(found["library:lib/libtcmalloc.so.4"])["pikaforge:role"] == "allocator"


def test_a_library_that_asks_the_cpu_says_so() -> None:
    library = {"soname": "libz.so.1", "path": "lib/libz.so.1", "package": "zlib1g", "version": "1.2"}
    told = {"file": "lib/libz.so.1", "features": ["avx2", "pclmulqdq"], "evidence": ["by init", "known"]}
    found = components(bill(bundled_libraries=[library], audit={"dispatched": [told]}))
    said = properties(found["library:lib/libz.so.1"])
    assert said["pikaforge:dispatched_features"] == "avx2 pclmulqdq"
    assert said["pikaforge:dispatch_evidence"] == "by init; known"
    silent = properties(components(bill(bundled_libraries=[library]))["library:lib/libz.so.1"])
    assert not [name for name in silent if "dispatch" in name]


def test_the_compiler_is_not_in_the_product() -> None:
    found = components(bill())
    compiler, linker = found["tool:compiler"], found["tool:1"]
    assert (compiler["version"], compiler["scope"], linker["version"]) == ("12.2.0", "excluded", "2.40")
    assert properties(compiler)["pikaforge:flags"] == "-march=sandybridge -mtune=sandybridge"
    assert "pikaforge:cxxflags" not in properties(compiler)
    entries = [
        {"gcc": ">=11", "cflags": [], "cxxflags": ["-include", "limits"], "why": "x"},
        {"gcc": ">=12", "cflags": ["-fcommon"], "cxxflags": ["-fpermissive"], "why": "x"},
    ]
    adapted = properties(components(bill(adaptations=entries))["tool:compiler"])
    assert adapted["pikaforge:cflags"] == "-fcommon"
    assert adapted["pikaforge:cxxflags"] == "-include limits -fpermissive"
    (top,) = [item for item in json.loads(bill())["dependencies"] if item["ref"] == "artifact"]
    assert set(top["dependsOn"]) == set(found) - {"tool:compiler", "tool:1"}


def test_the_same_inputs_give_the_same_bytes() -> None:
    modules = {"third/blue": "f" * 40, "third/pink": "e" * 40}
    assert bill() == bill(source__submodules=modules), "in another order"


def test_it_has_no_clock_but_the_sources() -> None:
    assert json.loads(bill())["metadata"]["timestamp"] == "2020-11-02T12:00:00+00:00"


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"version": "v1.1"}, {"source__commit": "0" * 40}])
def test_another_content_has_another_serial_number(changes: dict[str, Any]) -> None:
    assert json.loads(bill(**changes))["serialNumber"] != json.loads(bill())["serialNumber"]


def test_passwords_in_urls_stay_out() -> None:
    secret = "https://me:CANARY@example.org/demo.git?token=CANARY"
    patch = {"name": "p", "sha256": "1" * 64, "url": secret, "why": ""}
    tarballs = {"src": {**TARBALLS["src"], "url": secret}}
    text = bill(source__url=secret, source__patches=[patch], allocator={**GPERFTOOLS, "tarballs": tarballs})
    assert "CANARY" not in text
    assert "example.org/demo.git" in text
