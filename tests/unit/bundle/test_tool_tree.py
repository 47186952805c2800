"""Which files of the tool and of a configuration go into a bundle, and that secrets never do."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.helpers import ROOT, make_matrix

from pikaforge.bundle import tool_tree
from pikaforge.bundle.tool_tree import public_keys, refuse_secret
from pikaforge.config import load
from pikaforge.errors import ConfigError
from pikaforge.host.text import ignore

BODY = "lQOYBGXQZcABCADVq2Yf0dGzZk1v0uTqkq9m4mVn3m9mVf8mW1v0uTqkq9m4mVn\n"
PGP = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n{BODY}-----END PGP PRIVATE KEY BLOCK-----\n"
PUBLIC = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{BODY}-----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A tool that came in a bundle, so that no git is asked; a configuration is in it."""
    folder = tmp_path / "tool"
    for name, text in {
        "setup.sh": "#!/bin/sh\n",
        "build/pikaforge/errors.py": "",
        "build/pikaforge/__pycache__/errors.pyc": "",
        "docker/guest/lib.sh": "",
        "recipe.sh": "#!/bin/sh\n",
        ".netrc": "machine x login y password z\n",
        "signing.key": PGP,
        "out/store/x": "",
        "sources.lock": "{}",
        "LICENSE": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "setup.sh").chmod(0o755)
    (folder / "matrix.yaml").write_text(make_matrix(), encoding="utf-8")
    return folder


def tree(home: Path, matrix: Path) -> tool_tree.ToolTree:
    return tool_tree.tool_tree(home, matrix, load.load(matrix), None, notice=ignore)


def test_the_tool_and_its_configuration(home: Path) -> None:
    made = tree(home, home / "matrix.yaml")
    assert made.matrix == "tool/matrix.yaml"
    assert set(made.members) == {
        f"tool/{name}"
        for name in (
            *("setup.sh", "build/pikaforge/errors.py", "docker/guest/lib.sh", "recipe.sh", "sources.lock"),
            *("LICENSE", "matrix.yaml"),
        )
    }
    assert made.members["tool/setup.sh"].executable
    assert not made.members["tool/LICENSE"].executable


def test_a_configuration_elsewhere(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    (elsewhere / "matrix.yaml").write_text(make_matrix(), encoding="utf-8")
    (elsewhere / "recipe.sh").write_text("#!/bin/sh\n")
    (elsewhere / "other.key").write_text(PGP)
    made = tree(home, elsewhere / "matrix.yaml")
    assert made.matrix == "configuration/matrix.yaml"
    assert {name for name in made.members if name.startswith("configuration/")} == {
        "configuration/matrix.yaml",
        "configuration/recipe.sh",
    }


def test_a_recipe_that_is_a_link_out_of_the_folder_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    (elsewhere / "matrix.yaml").write_text(make_matrix(), encoding="utf-8")
    (elsewhere / "recipe.sh").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="outside of the folder"):
        tree(home, elsewhere / "matrix.yaml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.sh", f"#!/bin/sh\ncat <<'END'\n{PGP}END\n"),
        ("recipe.sh", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}"),
        ("recipe.sh", f"-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\n\r\n{BODY}"),
        ("recipe.sh", f"-----BEGIN PRIVATE KEY-----\n{BODY}"),
        ("docker/id_ed25519", "x"),
        ("docker/netrc", "x"),
        ("tests/.pypirc", None),
    ],
)
def test_a_secret_in_the_tool_ends_the_command(home: Path, name: str, content: str | None) -> None:
    if content is None:  # hidden files of such a tool are not taken at all
        assert not any(name.rpartition("/")[2] in member for member in tree(home, home / "matrix.yaml").members)
        return
    (home / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="never goes into a bundle") as caught:
        tree(home, home / "matrix.yaml")
    assert BODY.strip() not in "\n".join(caught.value.lines())


def test_a_key_that_is_not_text_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.gpg").write_bytes(b"\x95\x03\x98" + bytes(100))
    with pytest.raises(ConfigError, match="private key"):
        refuse_secret("x.gpg", tmp_path / "x.gpg")


def test_public_keys(tmp_path: Path) -> None:
    good, secret, other = tmp_path / "a.asc", tmp_path / "b.asc", tmp_path / "c.asc"
    good.write_text(PUBLIC)
    secret.write_text(PUBLIC + PGP)
    other.write_text("text")
    assert set(public_keys([good])) == {"keys/0.asc"}
    for path, message in ((secret, "private key"), (other, "no public key"), (tmp_path / "none", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            public_keys([path])


def test_no_file_of_this_checkout_is_taken_for_a_secret() -> None:
    for folder in ("build", "docker", "docs", "tests", "patches", "ansible"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not {"__pycache__", "download"} & set(path.parts):
                refuse_secret(path.name, path)
