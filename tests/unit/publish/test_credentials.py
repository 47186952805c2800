"""publish/credentials.py: where they are looked for, and that nobody sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pikaforge.errors import EXIT_CONFIG, ConfigError
from pikaforge.publish.sites.credentials import Credentials, advice, credentials, prefix

URL = "https://repo.example.org:8443/pub/"
TOKEN = {"PIKAFORGE_MY_REPO_2_TOKEN": "t0ken-t0ken"}
PAIR = {"PIKAFORGE_MY_REPO_2_USER": "ann", "PIKAFORGE_MY_REPO_2_PASSWORD": "p:ss wörd"}


def get(environ: dict[str, str]) -> Credentials | None:
    return credentials("my-repo.2", URL, environ)


def pair(found: Credentials | None) -> tuple[str, str, str]:
    assert found is not None
    return found.user, found.password, found.token


def refused(action: Callable[[], object], *secrets: str) -> str:
    """What is shown of a ConfigError, in which no secret is."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert caught.value.exit_code == EXIT_CONFIG
    shown = "\n".join(caught.value.lines())
    for secret in secrets:
        assert secret not in shown + "".join(map(repr, chain(caught.value)))
    return shown


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """What `--debug` shows of an error."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def file_with(path: Path, content: str | bytes, mode: int = 0o600) -> dict[str, str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return {"PIKAFORGE_MY_REPO_2_CREDENTIALS": str(path)}


def test_variables_are_called_after_the_target() -> None:
    assert prefix("my-repo.2") == "PIKAFORGE_MY_REPO_2"
    assert prefix("ünï") == "PIKAFORGE__N_"
    told = advice("my-repo.2", URL)
    assert "PIKAFORGE_MY_REPO_2_USER and PIKAFORGE_MY_REPO_2_PASSWORD" in told
    assert "entry for repo.example.org" in told


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    file = file_with(tmp_path / "file", "of-file:pw-file\n")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine repo.example.org login of-netrc password pw-netrc\n")
    home = {"HOME": str(tmp_path)}
    assert pair(get({**TOKEN, **PAIR, **file, **home})) == ("", "", "t0ken-t0ken")
    assert pair(get({**PAIR, **file, **home})) == ("ann", "p:ss wörd", "")
    assert pair(get({**file, **home})) == ("of-file", "pw-file", "")
    assert pair(get(home)) == ("of-netrc", "pw-netrc", "")
    assert get({}) is None
    # A secret that CI does not have is an empty variable.
    empty = dict.fromkeys([*TOKEN, *PAIR, *file], "")
    assert pair(get({**empty, **home})) == ("of-netrc", "pw-netrc", "")
    assert pair(get({name: f"{value}\n" for name, value in TOKEN.items()})) == ("", "", "t0ken-t0ken")
    assert credentials("other", URL, {**TOKEN, **PAIR, **file}) is None


@pytest.mark.parametrize("missing", list(PAIR))
def test_half_of_a_pair_is_refused(missing: str) -> None:
    half = {name: value for name, value in PAIR.items() if name != missing}
    assert f"{missing} is not" in refused(lambda: get(half), PAIR["PIKAFORGE_MY_REPO_2_PASSWORD"])
    assert pair(get({**half, **TOKEN})) == ("", "", "t0ken-t0ken")


def test_nothing_is_shown() -> None:
    for found in (get(TOKEN), get(PAIR)):
        for secret in ("t0ken", "p:ss", "ann"):
            assert secret not in f"{found!r} {found}"


@pytest.mark.parametrize(
    "environ",
    [
        {"PIKAFORGE_MY_REPO_2_TOKEN": "secret\r\nX-Evil: 1"},
        {"PIKAFORGE_MY_REPO_2_TOKEN": "secret two"},
        {"PIKAFORGE_MY_REPO_2_TOKEN": "secrét"},
        {"PIKAFORGE_MY_REPO_2_USER": "ann", "PIKAFORGE_MY_REPO_2_PASSWORD": "secret\x00"},
        {"PIKAFORGE_MY_REPO_2_USER": "ann:ie", "PIKAFORGE_MY_REPO_2_PASSWORD": "secret"},
    ],
)
def test_what_no_header_holds_is_refused(environ: dict[str, str]) -> None:
    assert "cannot be sent" in refused(lambda: get(environ), "secr")


def test_a_file_with_credentials(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert pair(get(file_with(path, "ann:p:ss wörd"))) == ("ann", "p:ss wörd", "")
    assert pair(get(file_with(path, "Bearer t0ken\n"))) == ("", "", "t0ken")
    for mode in (0o640, 0o604, 0o620, 0o610):
        shown = refused(lambda mode=mode: get(file_with(path, "ann:secret", mode)), "secret")  # type: ignore[misc]
        assert "others may read" in shown
        assert f"chmod 600 {path}" in shown
    for content in ("", "secret", "ann:", ":secret", "ann:secret\nbob:secret\n", "Bearer ", b"ann:secret\xff"):
        assert str(path) in refused(lambda content=content: get(file_with(path, content)), "secret")  # type: ignore[misc]
    assert "No such file" in refused(lambda: get({"PIKAFORGE_MY_REPO_2_CREDENTIALS": str(tmp_path / "none")}))


def test_a_netrc_is_asked_for_the_host_alone(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    environ = {"NETRC": str(path), "HOME": "/none"}
    assert get(environ) is None
    path.write_text("default login guest password guest\nmachine example.org login ann password secret\n")
    assert get(environ) is None
    path.write_text("machine repo.example.org\n  login ann\n  password secret\n")
    assert pair(get(environ)) == ("ann", "secret", "")
    assert "has no login" in refused(
        lambda: (path.write_text("machine repo.example.org password secret\n"), get(environ))
    )
    path.write_text("machine repo.example.org login ann password secret\nsecret2 x\n")
    assert "line 2" in refused(lambda: get(environ), "secret")
    path.write_bytes(b"machine repo.example.org login ann password secret\xff\n")
    assert str(path) in refused(lambda: get(environ), "secret")
