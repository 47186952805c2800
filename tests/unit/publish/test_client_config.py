"""What client machines get: .repo files, apt's list, lines to copy, and what the script is told."""

from __future__ import annotations

import configparser
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from unit.helpers import make_spec, the_cell

from pikaforge.config.schema import OsRelease, Spec
from pikaforge.errors import ConfigError
from pikaforge.formats import format as formats
from pikaforge.formats.deb import client as deb_client
from pikaforge.formats.format import InstallOffer
from pikaforge.formats.payload import target_flags
from pikaforge.formats.rpm import client as rpm_client
from pikaforge.publish import client_config

URL = "https://packages.example.org/forge"
KEY_URL = f"{URL}/demo.asc"
BARE = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZXhhbXBsZR==\n=AbCd\n-----END PGP PUBLIC KEY BLOCK-----"
HEADED = f"pub   ed25519 2024-01-01\n{BARE}\n".replace(
    "BLOCK-----\n\n", "BLOCK-----\r\nVersion: it's\r\nComment: x\r\n\r\n", 1
)
PUBLISHED = {"debian12": ["R640", "R620", "R410"], "el7": ["R620"]}


def _section(text: str) -> tuple[str, Mapping[str, str]]:
    """The one repository of a .repo file, as yum's parser reads it."""
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    (name,) = parser.sections()
    return name, parser[name]


def _script(spec: Spec | None = None, published: Mapping[str, Sequence[str]] = PUBLISHED, **changes: Any) -> str:
    return client_config.detect_script(spec or make_spec(), published, **{"base_url": URL, **changes}).decode()


def _table(script: str, name: str) -> list[list[str]]:
    text = script.partition(f"\n{name}='\n")[2].partition("\n'\n")[0]
    return [line.split("\t") for line in text.splitlines()]


# --- files for package managers


@pytest.mark.parametrize(
    ("product", "variable"),
    [("demo", "demomodel"), ("Demo-Server_2.0", "demoserver_20model"), ("7zip", "7zipmodel"), ("X", "xmodel")],
)
def test_a_variable_has_small_letters_digits_and_underscores(product: str, variable: str) -> None:
    assert rpm_client.yum_variable(product) == variable


@pytest.mark.parametrize("base_url", [URL, f"{URL}/"])
def test_the_fleet_has_one_file_for_all_models(base_url: str) -> None:
    text = rpm_client.fleet_repo_file(product="demo", image="el7", base_url=base_url, key_url=KEY_URL)
    name, section = _section(text)
    assert name == "demo"
    # yum of EL7 does not know ${name}.
    assert section["baseurl"] == f"{URL}/el7/$demomodel/x86_64/"
    assert (section["gpgcheck"], section["repo_gpgcheck"], section["gpgkey"]) == ("1", "1", KEY_URL)
    assert section["enabled"] == "1"
    assert section["metadata_expire"] == "300"
    assert "/etc/yum/vars/demomodel" in text


def test_a_model_has_its_own_file() -> None:
    text = rpm_client.model_repo_file(product="demo", image="el7", model="R620", base_url=URL, key_url=KEY_URL)
    name, section = _section(text)
    assert name == "demo-R620"
    assert section["baseurl"] == f"{URL}/el7/R620/x86_64/"
    assert section["gpgkey"] == KEY_URL
    assert "$" not in text


def test_without_a_key_nothing_is_checked_and_that_is_said() -> None:
    for text in (
        rpm_client.fleet_repo_file(product="demo", image="el7", base_url=URL, key_url=None),
        rpm_client.model_repo_file(product="demo", image="el7", model="R620", base_url=URL, key_url=None),
    ):
        _, section = _section(text)
        assert (section["gpgcheck"], section["repo_gpgcheck"]) == ("0", "0")
        assert "gpgkey" not in section
        assert "# Nobody has signed the packages or this repository" in text


def test_the_list_of_apt() -> None:
    ring = deb_client.keyring("demo.asc")
    text = deb_client.apt_list(product="demo", image="debian12", model="R620", base_url=URL, keyring=ring)
    comment, line = text.splitlines()
    assert comment.startswith("# ")
    assert line == f"deb [arch=amd64 signed-by=/etc/apt/keyrings/demo.asc] {URL}/debian12/R620/debs ./"


def test_the_list_of_apt_without_a_key_has_no_source() -> None:
    text = deb_client.apt_list(product="demo", image="debian12", model="R620", base_url=URL, keyring=None)
    assert all(line.startswith("# ") for line in text.splitlines())
    assert "trusted" not in text
    assert "apt-get install ./FILE.deb" in text


BAD_URLS = [
    "packages.example.org/forge", "ftp://example.org/x", "https://example.org/a b", "https://example.org/$releasever",
    "https://example.org/'x", "https://example.org/x\n[other]", "https://example.org/\\x", "https://example.org/`x`",
    "https://", "",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_would_mean_something_else_are_refused(url: str) -> None:
    for make in (
        lambda: rpm_client.fleet_repo_file(product="demo", image="el7", base_url=url, key_url=None),
        lambda: rpm_client.model_repo_file(product="demo", image="el7", model="R620", base_url=URL, key_url=url),
        lambda: deb_client.apt_list(product="demo", image="debian12", model="R620", base_url=url, keyring=None),
        lambda: _lines("rpm", base_url=url),
        lambda: _lines("deb", key_url=url),
        lambda: _script(base_url=url),
    ):
        with pytest.raises(ConfigError, match="cannot be written"):
            make()


@pytest.mark.parametrize("url", ["file:///srv/repo%20x", "http://[::1]:8080/forge", "https://a.example/b_c/~d/+1,2"])
def test_other_urls_are_taken(url: str) -> None:
    assert f" {url}/debian12/R620/debs ./" in deb_client.apt_list(
        product="demo", image="debian12", model="R620", base_url=url, keyring="/k.asc"
    )


# --- what a person copies


def _lines(artifact_format: Any, **changes: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {
        "product": "demo",
        "image": "debian12",
        "model": "R620",
        "package": "demo",
        "os": None,
        "version": "1.0",
        "base_url": URL,
        "path": "debian12/R620/files/demo-v1.0-R620.tar.gz",
        "key_url": KEY_URL,
    }
    return formats.of(artifact_format).install_lines(InstallOffer(**{**given, **changes}))


def test_rpm_lines() -> None:
    repo = "https://packages.example.org/forge/el9/demo-R620.repo"
    assert _lines("rpm", image="el9") == (
        f"curl -fsS -o /etc/yum.repos.d/demo-R620.repo {repo}",
        "dnf install demo",
    )
    assert _lines("rpm", image="el7", os=OsRelease(id="centos", version="7"))[-1] == "yum install demo"
    assert repo.endswith(rpm_client.model_repo_path("demo", "el9", "R620"))


def test_rpm_lines_for_a_fleet() -> None:
    assert _lines("rpm", image="el9", model=None) == (
        f"curl -fsS -o /etc/yum.repos.d/demo.repo {URL}/el9/demo.repo",
        f"curl -fsSO {URL}/utils/detect-model.sh && sh detect-model.sh",
        "dnf install demo",
    )


def test_deb_lines() -> None:
    assert _lines("deb") == (
        "mkdir -p /etc/apt/keyrings",
        f"curl -fsS -o /etc/apt/keyrings/demo.asc {KEY_URL}",
        f"curl -fsS -o /etc/apt/sources.list.d/demo.list {URL}/debian12/demo-R620.list",
        "apt-get update",
        "apt-get install demo",
    )
    assert _lines("deb", model=None) == (
        f"curl -fsSO {URL}/utils/detect-model.sh && sh detect-model.sh --apt",
        "apt-get update",
        "apt-get install demo",
    )


def test_a_deb_that_nobody_has_signed_is_installed_from_its_file() -> None:
    path = "debian12/R620/debs/demo_1.0-1.R620.debian12_amd64.deb"
    name = "demo_1.0-1.R620.debian12_amd64.deb"
    sums = f"{URL}/debian12/R620/debs/SHA256SUMS"
    assert _lines("deb", key_url=None, path=path) == (
        f"curl -fsSO {URL}/{path}",
        f"curl -fsS {sums} | awk '$2 == \"{name}\"' | sha256sum -c - && apt-get install ./{name}",
    )


def test_no_file_is_for_every_model() -> None:
    assert _lines("deb", model=None, key_url=None, path="debian12") == ()


def test_tar_lines_unpack_only_what_was_checked() -> None:
    name = "demo-v1.0-R620.tar.gz"
    folder = "file:///srv/repo/debian12/R620/files"
    assert _lines("tar", base_url="file:///srv/repo", port="7000") == (
        f"curl -fsSO {folder}/{name}",
        f"curl -fsS {folder}/SHA256SUMS | awk '$2 == \"{name}\"' | sha256sum -c - && tar xf {name} -C /opt/",
        "bash /opt/demo/utils/deploy.sh 7000 /data",
    )


def test_wheel_lines_ask_no_index() -> None:
    path = "debian12/R620/wheels/demo_server-1.0+r620-py3-none-manylinux_2_34_x86_64.whl"
    for base in (URL, "file:///srv/repo"):
        (line,) = _lines("wheel", base_url=base, path=path, package="demo-server", version="1.0+r620")
        assert line == (
            "python3 -m pip install --no-index "
            f"--find-links {base}/debian12/R620/wheels/ demo-server==1.0+r620"
        )  # fmt: skip


def test_a_wheel_from_a_place_that_pip_does_not_take_for_safe() -> None:
    path = "debian12/R620/wheels/demo_server-1.0+r620-py3-none-any.whl"
    fetch, install = _lines("wheel", base_url="http://example.org", path=path)
    assert fetch == f"curl -fsSO http://example.org/{path}"
    assert install.endswith("&& python3 -m pip install --no-index ./demo_server-1.0+r620-py3-none-any.whl")


@pytest.mark.parametrize("artifact_format", ["rpm", "deb", "tar", "wheel"])
def test_values_stay_single_words(artifact_format: str) -> None:
    """A shell reads the same lines as without quotes, whatever is in the values that may be odd."""
    odd = "de mo;'x'$(y)"
    lines = _lines(artifact_format, package=odd, version=odd, port=odd, base_url="https://example.org/(a)")
    words = [word for line in lines for word in shlex.split(line)]
    wanted = {"rpm": odd, "deb": odd, "tar": odd, "wheel": f"{odd}=={odd}"}[artifact_format]
    assert wanted in words
    assert any(word.startswith("https://example.org/(a)/") for word in words)


@pytest.mark.parametrize("path", ["", "/etc/x.tar", "../x.tar", "a/../x.tar", "a b.tar", "a/x'.tar", "a/", 'a/".tar'])
def test_odd_paths_are_refused(path: str) -> None:
    for artifact_format in ("rpm", "deb", "tar", "wheel"):
        with pytest.raises(ConfigError, match="is no path"):
            _lines(artifact_format, path=path)


@pytest.mark.parametrize(
    ("os", "wanted"),
    [
        ({"id": "centos", "version": "7"}, "yum"),
        ({"id": "ol", "version": "7.9"}, "yum"),
        ({"id": "rocky", "version": "8"}, "dnf"),
        ({"id": "rhel", "version": "10"}, "dnf"),
        ({"id": "debian", "version": "7"}, "dnf"),
    ],
)
def test_what_installs_rpms(os: Mapping[str, str], wanted: str) -> None:
    assert rpm_client.installer(OsRelease(**os)) == wanted


# --- the script


def test_the_same_is_the_same_bytes() -> None:
    other = {image: PUBLISHED[image][::-1] + PUBLISHED[image] for image in reversed(PUBLISHED)}
    assert _script(apt=["debian12", "el7"]) == _script(published=other, apt={"el7", "debian12"})


def test_models_come_with_their_targets_the_most_demanding_first() -> None:
    assert _table(_script(), "models") == [
        ["el7", "R620", "sandybridge"],
        ["debian12", "R640", "skylake_avx512"],
        ["debian12", "R620", "sandybridge"],
        ["debian12", "R410", "-"],
    ]


def test_of_models_that_share_a_target_its_namesake_comes_first() -> None:
    spec = make_spec(hardware={name: {"cpus": ["sandybridge"]} for name in ("B", "A", "sandybridge")})
    published = {"debian12": ["A", "sandybridge", "B"]}
    assert [row[1] for row in _table(_script(spec, published), "models")] == ["sandybridge", "B", "A"]


def test_a_target_is_what_is_built() -> None:
    """With `fallback: nearest` a model's builds need less than its CPUs have."""
    spec = make_spec(images__el7__fallback="nearest")
    ((image, model, target),) = _table(_script(spec, {"el7": ["R640"]}), "models")
    assert (image, model, target) == ("el7", "R640", the_cell(spec, "R640-el7-none").target)
    assert target != "skylake_avx512", "which gcc 4.8.5 cannot make"
    # What cannot be built, and is there all the same, needs all that the model's CPUs have.
    assert _table(_script(published={"el7": ["R640"]}), "models") == [["el7", "R640", "skylake_avx512"]]
    spec = make_spec(matrix={"exclude": [{"model": "R640", "image": "debian12"}]})
    assert _table(_script(spec, {"debian12": ["R640"]}), "models") == [["debian12", "R640", "skylake_avx512"]]


def test_targets_come_with_the_flags_that_the_kernel_names() -> None:
    rows = _table(_script(), "targets")
    assert rows == [[name, " ".join(target_flags(name))] for name in ("sandybridge", "skylake_avx512")]


def test_systems_are_those_of_the_images() -> None:
    like = ["almalinux", "centos", "ol", "rhel", "rocky"]
    assert _table(_script(), "systems") == [*(["el7", name, "7"] for name in like), ["debian12", "debian", "12"]]
    # What is published comes first; an image that the matrix has no more has no system.
    assert _table(_script(published={"debian12": ["R620"], "old": ["R620"], "el7": []}), "systems") == [
        ["debian12", "debian", "12"],
        *(["el7", name, "7"] for name in like),
    ]


def test_names_of_machines() -> None:
    spec = make_spec(hardware__R640__dmi=["ProLiant DL360 Gen10"])
    assert _table(_script(spec), "names") == [
        ["is", "proliant dl360 gen10", "R640"],
        ["has", "r620", "R620"],
        ["has", "r720", "R720"],
        ["has", "r640", "R640"],
        ["has", "r410", "R410"],
    ]


def test_two_models_cannot_have_one_dmi_name() -> None:
    spec = make_spec(hardware__R640__dmi=["Server X"], hardware__R620__dmi=["server x"])
    with pytest.raises(ConfigError) as caught:
        _script(spec)
    assert "'Server X' is also that of R620" in caught.value.message
    assert caught.value.where == "hardware.R640.dmi"


@pytest.mark.parametrize("key", [BARE, f"{BARE}\n", HEADED])
def test_the_key_is_bare(key: str) -> None:
    """Its headers may hold any text, quotes too; without them it has none."""
    assert f"\nkey='{BARE}'\n" in _script(key=key)


@pytest.mark.parametrize(
    "key",
    ["", "text", f"{BARE}\n{BARE}\n", BARE.replace("PUBLIC", "PRIVATE"), BARE.replace("mDM", "m'D"), BARE[:-20]],
)
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="no public key"):
        _script(key=key)


def test_the_key_has_the_products_name_if_none_is_given() -> None:
    assert "/etc/apt/keyrings/demo.asc" in _script()
    assert "/etc/apt/keyrings/other.asc" in _script(key_name="other.asc")


@pytest.mark.parametrize("name", ["demo.gpg", "../demo.asc", "demo", "a b.asc", ".asc", "'.asc"])
def test_odd_names_of_keys_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a key"):
        _script(key_name=name)


@pytest.mark.parametrize("word", ["R 620", "'R620", "R620\n", "R620\tx", "$(x)", "", "-R620"])
def test_odd_names_are_refused(word: str) -> None:
    for published in ({"debian12": [word]}, {word: ["R620"]}):
        with pytest.raises(ConfigError, match="is no name of an image or model"):
            _script(published=published)


def test_a_word_within_a_value_stays() -> None:
    """Values are filled in at once, so that none can bring another one's text in."""
    spec = make_spec(hardware__R640__dmi=["Server @PRODUCT@"])
    assert ["is", "server @product@", "R640"] in _table(_script(spec), "names")
    assert "https://example.org/@KEY@/$image/" in _script(key=BARE, base_url="https://example.org/@KEY@")


def test_images_for_apt_are_those_that_have_something() -> None:
    assert "\napt_images=' debian12 '\n" in _script(apt=["debian12", "ubuntu2204"])
    assert "\napt_images='  '\n" in _script()
