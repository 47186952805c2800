"""What `--source` may say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import make_spec, refusal

from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host import git, process
from pikaforge.host.hashing import digest
from pikaforge.host.lockfile import Lock
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.source.origin import WAYS_ROUND, Origin

COMMIT = "a" * 40
OTHER = "b" * 40


@pytest.fixture(autouse=True)
def no_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where clones came from: nowhere, but for one."""
    remote = "https://example.org/team/demo.git"
    monkeypatch.setattr(git, "origin", lambda path: remote if path.name == "cloned" else "")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("clone/.git/objects", "cloned/.git", "bare.git/objects", "plain", "with space/.git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bare.git" / "HEAD").write_text("ref: refs/heads/main\n")
    for name in ("demo.tar.gz", "demo.zip", "README"):
        (tmp_path / name).write_text(name)
    return tmp_path


def _parse(here: Path, text: str, **changes: Any) -> Origin:
    product = make_spec(**changes).product
    return origin.parse(product, text, base=here, cwd=here, out=here / "out")


# ---- kinds


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://example.org/x.git", "https://example.org/x.git", "v1.0"),
        ("https://example.org/x.git#main", "https://example.org/x.git", "main"),
        ("https://example.org/x.git#", "https://example.org/x.git", "v1.0"),
        ("git@example.org:team/x.git#v2", "git@example.org:team/x.git", "v2"),
        ("ssh://git@example.org/x.git", "ssh://git@example.org/x.git", "v1.0"),
        ("git://127.0.0.1:1/x.git#refs/pull/7/head", "git://127.0.0.1:1/x.git", "refs/pull/7/head"),
    ],
)
def test_a_url(here: Path, text: str, url: str, ref: str) -> None:
    found = _parse(here, text)
    assert found == Origin(kind="git", spec=url, url=url, ref=ref, relative_to=url)
    assert found.entry == f"{url}#{ref}"


def test_without_the_option_it_is_what_matrix_yaml_says(here: Path) -> None:
    url = "https://example.org/demo.git"
    assert _parse(here, "") == Origin(kind="git", spec=url, url=url, ref="v1.0", relative_to=url)


@pytest.mark.parametrize(
    ("text", "folder", "modules"),
    [
        ("clone", "clone", "clone/.git/modules"),
        ("./clone/", "clone", "clone/.git/modules"),
        ("{here}/clone", "clone", "clone/.git/modules"),
        ("file://{here}/clone", "clone", "clone/.git/modules"),
        ("plain/../clone", "clone", "clone/.git/modules"),
        ("bare.git", "bare.git", "bare.git/modules"),
        ("with space", "with space", "with space/.git/modules"),
    ],
)
@pytest.mark.parametrize("ref", ["", "#main"])
def test_a_local_clone(here: Path, text: str, folder: str, modules: str, ref: str) -> None:
    text = text.format(here=here)
    found = _parse(here, text + ref)
    url = (here / folder).as_uri()
    assert found == Origin(
        kind="git",
        spec=text,
        url=url,
        ref=ref.removeprefix("#") or "v1.0",
        worktree=None if folder == "bare.git" else here / folder,
        modules=(here / modules,),
        relative_to=url,
        local=True,
    )
    assert found.entry == f"{text}#{found.ref}"


def test_submodules_of_a_clone_are_relative_to_where_it_came_from(here: Path) -> None:
    assert _parse(here, "cloned").relative_to == "https://example.org/team/demo.git"


def test_a_relative_path_in_matrix_yaml_is_relative_to_it(here: Path) -> None:
    product = make_spec(product__source={"git": "clone", "tag": "v1.0"}).product
    found = origin.parse(product, "", base=here, cwd=Path("/nowhere"), out=here / "out")
    assert (found.url, found.spec, found.local) == ((here / "clone").as_uri(), "clone", True)


def test_a_tarball(here: Path) -> None:
    found = _parse(here, "demo.tar.gz")
    assert found == Origin(kind="tarball", spec="demo.tar.gz", tarball=here / "demo.tar.gz", local=True)
    assert found.entry == "demo.tar.gz"


def test_a_tarball_of_matrix_yaml(here: Path) -> None:
    found = _parse(here, "", product__source={"tarball": "demo.tar.gz"})
    assert found == Origin(kind="tarball", spec="default", tarball=here / "demo.tar.gz", local=True)


@pytest.mark.parametrize("text", ["demo.tar.gz#v1", "./demo.tar.gz#main"])
def test_a_tarball_has_no_refs(here: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _parse(here, text)
    where, _, ref = text.partition("#")
    assert refusal(caught) == (
        f"{where} is a file, in which there is no {ref!r} to choose",
        "--source",
        "#REF belongs behind a repository; a tarball is one tree",
    )
    assert _parse(here, "demo.tar.gz#").kind == "tarball"


def test_a_path_may_have_a_hash_in_it(here: Path) -> None:
    (here / "c#1.tar.gz").write_text("x")
    (here / "c#2" / ".git").mkdir(parents=True)
    assert _parse(here, "c#1.tar.gz").tarball == here / "c#1.tar.gz"
    found = _parse(here, "c#2")
    assert (found.spec, found.ref, found.url) == ("c#2", "v1.0", (here / "c#2").as_uri())
    assert _parse(here, "clone#2").ref == "2"


def test_a_name_that_is_too_long_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        _parse(here, "x" * 5000)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("x.tar", True),
        ("x.tar.gz", True),
        ("x.tar.bz2", True),
        ("x.tar.xz", True),
        ("x.tar.zst", True),
        ("x.tgz", True),
        ("x.tbz2", True),
        ("x.txz", True),
        ("x-1.0.orig.tar.gz", True),
        ("x.zip", False),
        ("x.gz", False),
        ("x.tar.gz.asc", False),
        ("tar", False),
        ("xtgz", False),
    ],
)
def test_names_of_tarballs(here: Path, name: str, good: bool) -> None:
    (here / name).write_text("x")
    if good:
        assert _parse(here, name).kind == "tarball"
        return
    with pytest.raises(ConfigError) as caught:
        _parse(here, name)
    assert refusal(caught) == (
        f"{name} does not look like a source tarball",
        "--source",
        "it must end in .tar[.gz|.bz2|.xz|.zst]",
    )


NOT_FOUND = "give a git URL, a local clone, a source tarball, or `sample`"


@pytest.mark.parametrize(
    ("text", "changes", "error"),
    [
        ("nowhere", {}, ("there is no 'nowhere'", "--source", NOT_FOUND)),
        ("nowhere#v1", {}, ("there is no 'nowhere'", "--source", NOT_FOUND)),
        ("Sample", {}, ("there is no 'Sample'", "--source", NOT_FOUND)),
        ("file:///nowhere", {}, ("there is no 'file:///nowhere'", "--source", NOT_FOUND)),
        (
            "plain",
            {},
            (
                "{here}/plain is neither a git repository nor a tarball",
                "--source",
                "make a tarball of it (tar czf source.tar.gz DIR), or give its repository",
            ),
        ),
        (
            "",
            {"product__source": {"git": "plain", "tag": "v1"}},
            ("plain is not a git repository", "product.source.git", ""),
        ),
        (
            "",
            {"product__source": {"tarball": "absent.tar.gz"}},
            ("the source tarball {here}/absent.tar.gz does not exist", "product.source.tarball", ""),
        ),
        (
            "",
            {"product__source": {"tarball": "demo.zip"}},
            (
                "demo.zip does not look like a source tarball",
                "product.source.tarball",
                "it must end in .tar[.gz|.bz2|.xz|.zst]",
            ),
        ),
        ("sample", {}, ("the product demo has no sample", "product.sample", "leave it out")),
        (
            "sample",
            {"product__sample": "sample/make.sh"},
            ("{here}/sample/make.sh does not exist", "product.sample", ""),
        ),
    ],
)
def test_what_names_nothing(here: Path, text: str, changes: dict[str, Any], error: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _parse(here, text, **changes)
    message, where, hint = error
    assert refusal(caught) == (message.format(here=here), where, hint)


# ---- the sample


def _fake_script(status: int, made: bool) -> Callable[..., process.Completed]:
    def run(argv: list[str], **_: object) -> process.Completed:
        calls.append(argv)
        if made:
            (Path(argv[-1]) / "demo.git" / "objects").mkdir(parents=True)
            (Path(argv[-1]) / "demo.git" / "HEAD").touch()
        return process.Completed(argv=tuple(argv), status=status, stdout=b"", stderr=b"it went wrong\n")

    calls: list[list[str]] = []
    run.calls = calls  # type: ignore[attr-defined]
    return run


@pytest.fixture
def sampled(here: Path) -> Path:
    (here / "sample").mkdir()
    (here / "sample" / "make.sh").write_text("x")
    return here


def test_the_sample_is_made_once_for_each_state_of_its_files(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _fake_script(0, made=True)
    monkeypatch.setattr(process, "run", run)
    changes = {"product__sample": "sample/make.sh"}
    first = _parse(sampled, "sample", **changes)
    assert _parse(sampled, "sample", **changes) == first
    assert (first.spec, first.ref, first.local, first.sample) == ("sample", "v1.0", True, True)
    assert first.entry == "sample#v1.0"
    assert first.url == first.relative_to
    folder = Path(first.url.removeprefix("file://")).parent
    assert folder.parent == sampled / "out" / "sample"
    assert first.pulls == folder / "pull"
    assert _parse(sampled, "sample#merged", **changes) == replace(first, ref="merged")
    (sampled / "sample" / "more").write_text("y")
    assert _parse(sampled, "sample", **changes).url != first.url
    assert len(run.calls) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["a file", "a dangling link", "no repository", "not complete", "empty"])
def test_a_damaged_sample_is_made_anew(sampled: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def run(argv: list[str], **_: object) -> process.Completed:
        (Path(argv[-1]) / "demo.git" / "objects").mkdir(parents=True)
        (Path(argv[-1]) / "demo.git" / "HEAD").write_text("ref: refs/heads/main\n")
        made.append(argv[-1])
        return process.Completed(argv=tuple(argv), status=0, stdout=b"", stderr=b"")

    made: list[str] = []
    monkeypatch.setattr(process, "run", run)
    folder = Path(_parse(sampled, "sample", product__sample="sample/make.sh").url.removeprefix("file://")).parent
    _parse(sampled, "sample", product__sample="sample/make.sh")
    assert len(made) == 1
    if kind == "not complete":
        (folder / "complete").unlink()
    elif kind == "no repository":
        shutil.rmtree(folder / "demo.git")
    else:
        shutil.rmtree(folder)
        if kind == "a file":
            folder.touch()
        elif kind == "empty":
            folder.mkdir()
        else:
            folder.symlink_to("/nowhere")
    _parse(sampled, "sample", product__sample="sample/make.sh")
    assert len(made) == 2
    assert (folder / "demo.git" / "HEAD").is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([".lock", folder.name])


@pytest.mark.parametrize(("status", "made"), [(1, True), (0, False)])
def test_a_sample_that_could_not_be_made_is_not_taken(
    sampled: Path, monkeypatch: pytest.MonkeyPatch, status: int, made: bool
) -> None:
    monkeypatch.setattr(process, "run", _fake_script(status, made))
    for _ in range(2):
        with pytest.raises(HostError) as caught:
            _parse(sampled, "sample", product__sample="sample/make.sh")
        assert refusal(caught) == (
            f"the sample's repositories could not be made (exit status {status})",
            f"{sampled}/sample/make.sh",
            "it went wrong",
        )


# ---- pins


URL = "https://example.org/demo.git"
REMOTE = Origin(kind="git", spec=URL, url=URL, ref="v1.0")
LOCAL = Origin(kind="git", spec="clone", url="file:///clone", ref="v1.0", local=True)


class Remote:
    """What a repository answers, and how often it was asked."""

    def __init__(self) -> None:
        self.refs = {"v1.0": git.Ref(name="refs/tags/v1.0", commit=COMMIT, moving=False)}
        self.asked = 0

    def ref(self, url: str, name: str) -> git.Ref | None:
        self.asked += 1
        return self.refs.get(name)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Remote:
    remote = Remote()
    monkeypatch.setattr(git, "remote_ref", remote.ref)
    monkeypatch.setattr(git, "near_names", lambda url, name: ["v1.0", "v1.1"] if name.startswith("v") else [])
    return remote


def test_a_tag_is_pinned_on_first_use_and_not_asked_for_again(tmp_path: Path, remote: Remote) -> None:
    lock = Lock(tmp_path / "lock")
    assert origin.pin(REMOTE, lock, offline=False) == COMMIT
    assert lock.notices == [f"sources.lock: {URL}#v1.0: commit pinned to {COMMIT}"]
    assert origin.pin(REMOTE, Lock(tmp_path / "lock", strict=True), offline=True) == COMMIT
    assert remote.asked == 1


def test_without_the_network_nothing_is_known_of_what_is_not_pinned(tmp_path: Path, remote: Remote) -> None:
    assert origin.pin(REMOTE, Lock(tmp_path / "lock"), offline=True) is None
    assert remote.asked == 0


def test_a_local_clone_is_asked_each_time_and_refused_when_its_tag_moved(tmp_path: Path, remote: Remote) -> None:
    assert origin.pin(LOCAL, Lock(tmp_path / "lock"), offline=False) == COMMIT
    remote.refs["v1.0"] = git.Ref(name="refs/tags/v1.0", commit=OTHER, moving=False)
    assert origin.pin(LOCAL, Lock(tmp_path / "lock"), offline=True) == OTHER, "a plan only looks"
    with pytest.raises(ConfigError) as caught:
        origin.pin(LOCAL, Lock(tmp_path / "lock"), offline=False)
    assert caught.value.message == f"commit of clone#v1.0 has changed: sources.lock says {COMMIT}, it is {OTHER} now"


def test_a_branch_cannot_be_pinned(tmp_path: Path, remote: Remote) -> None:
    remote.refs["main"] = git.Ref(name="refs/heads/main", commit=COMMIT, moving=True)
    branch = Origin(kind="git", spec=URL, url=URL, ref="main")
    lock = Lock(tmp_path / "lock")
    assert origin.pin(branch, lock, offline=False) == COMMIT
    assert lock.notices == []
    with pytest.raises(ConfigError) as caught:
        origin.pin(branch, Lock(tmp_path / "lock", strict=True), offline=False)
    assert refusal(caught) == (
        f"--locked: main of {URL} is a branch, which cannot be pinned",
        "--source",
        f"name the commit: --source {URL}#{COMMIT}",
    )


@pytest.mark.parametrize(
    ("source", "where"),
    [(REMOTE, "product.source.tag"), (LOCAL, "--source")],
)
def test_a_tag_that_is_not_there(tmp_path: Path, remote: Remote, source: Origin, where: str) -> None:
    remote.refs.clear()
    with pytest.raises(ConfigError) as caught:
        origin.pin(source, Lock(tmp_path / "lock"), offline=False)
    assert refusal(caught) == (
        f"{source.spec} has no tag, branch or commit 'v1.0'",
        where,
        "did you mean v1.0 or v1.1? name another with --source SPEC#REF",
    )


def test_a_tag_that_is_like_no_other(tmp_path: Path, remote: Remote) -> None:
    with pytest.raises(ConfigError) as caught:
        origin.pin(Origin(kind="git", spec=URL, url=URL, ref="x"), Lock(tmp_path / "lock"), offline=False)
    assert caught.value.hint == "name another with --source SPEC#REF"


def test_a_source_out_of_reach_is_told_with_the_ways_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, name: str) -> git.Ref:
        raise UnreachableError(f"cannot reach {url}: fatal: no")

    monkeypatch.setattr(git, "remote_ref", unreachable)
    with pytest.raises(HostError) as caught:
        origin.pin(REMOTE, Lock(tmp_path / "lock"), offline=False)
    assert refusal(caught) == (f"cannot reach {URL}: fatal: no", f"source {URL}", WAYS_ROUND)


def test_a_tarball_is_pinned_by_its_digest(here: Path) -> None:
    found = _parse(here, "demo.tar.gz")
    identity = f"sha256:{digest('demo.tar.gz')}"
    lock = Lock(here / "lock")
    assert origin.pin(found, lock, offline=True) == identity
    assert lock.notices == []
    assert origin.pin(found, lock, offline=False) == identity
    (here / "demo.tar.gz").write_text("changed")
    with pytest.raises(ConfigError, match=r"^tarball of demo\.tar\.gz has changed: "):
        origin.pin(found, Lock(here / "lock"), offline=False)


def test_the_sample_needs_no_pin(tmp_path: Path, remote: Remote) -> None:
    sample = Origin(kind="git", spec="sample", url="file:///s", ref="v1.0", local=True, sample=True)
    assert origin.pin(sample, Lock(tmp_path / "lock", strict=True), offline=False) == COMMIT
    assert not (tmp_path / "lock").exists()


# ---- what packages tell


TREE = Origin(kind="tarball", spec="x/demo-1.0-2.tar.xz", tarball=Path("/x/demo-1.0-2.tar.xz"), local=True)


@pytest.mark.parametrize(
    ("source", "tag", "kind", "version"),
    [
        (REMOTE, "v1.0", "repository", "v1.0"),
        (replace(REMOTE, own=True), "v1.0", "product", "v1.0"),
        (LOCAL, "v1.0", "clone", "v1.0"),
        (replace(LOCAL, sample=True), "v1.0", "sample", "v1.0"),
        (replace(REMOTE, ref="main"), "", "repository", f"main-g{COMMIT[:12]}"),
        (replace(REMOTE, ref="refs/heads/team/fix"), "", "repository", f"team/fix-g{COMMIT[:12]}"),
        (replace(REMOTE, ref="refs/pull/7/head"), "", "repository", f"pull/7/head-g{COMMIT[:12]}"),
        (replace(REMOTE, ref=COMMIT), "", "repository", f"g{COMMIT[:12]}"),
        (TREE, "", "tarball", "demo-1.0-2"),
        (replace(TREE, own=True), "", "product", "demo-1.0-2"),
    ],
)
def test_what_is_told_of_a_source(source: Origin, tag: str, kind: str, version: str) -> None:
    told = origin.describe(source, COMMIT, tag)
    assert (told.kind, told.tag, told.version) == (kind, tag, version)
    assert (told.ref, told.commit) == (source.ref, COMMIT)
    assert told.url == ("" if source.local else URL)


def test_no_password_reaches_a_package() -> None:
    told = origin.describe(replace(REMOTE, url="https://user:secret@example.org/demo.git"), COMMIT, "")
    assert told.url == "https://***@example.org/demo.git"


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("", True),
        ("https://example.org/demo.git", True),
        ("https://example.org/demo.git#v1.0", True),
        ("https://example.org/demo.git#v1.1", False),
        ("https://example.org/fork.git#v1.0", False),
        ("clone", False),
        ("demo.tar.gz", False),
    ],
)
def test_whether_a_source_is_the_products_own(here: Path, text: str, own: bool) -> None:
    assert _parse(here, text).own is own


def test_a_tag_is_known_as_such(tmp_path: Path, remote: Remote) -> None:
    lock = Lock(tmp_path / "lock")
    remote.refs["main"] = git.Ref(name="refs/heads/main", commit=COMMIT, moving=True)
    remote.refs["refs/tags/v1.0"] = remote.refs["v1.0"]
    assert origin.tag_of(REMOTE, lock) == "v1.0"
    assert origin.tag_of(replace(REMOTE, ref="refs/tags/v1.0"), lock) == "v1.0"
    assert origin.tag_of(replace(REMOTE, ref="main"), lock) == ""
    assert origin.tag_of(replace(REMOTE, ref="absent"), lock) == ""
    asked = remote.asked
    origin.pin(REMOTE, lock, offline=False)
    remote.refs.clear()
    assert origin.tag_of(REMOTE, lock) == "v1.0", "what is pinned under a name is a tag"
    assert origin.tag_of(replace(REMOTE, ref=COMMIT), lock) == ""
    assert origin.tag_of(TREE, lock) == ""
    assert remote.asked == asked + 1, "the pin's own look"


def test_the_script_of_a_sample_sees_no_place_of_the_callers_repository(
    sampled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}

    def run(argv: list[str], *, env: dict[str, str], **_: object) -> process.Completed:
        seen.update(env)
        (Path(argv[-1]) / "demo.git").mkdir(parents=True)
        return process.Completed(argv=tuple(argv), status=0, stdout=b"", stderr=b"")

    monkeypatch.setattr(process, "run", run)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_CONFIG_PARAMETERS"):
        monkeypatch.setenv(name, "/caller")
    monkeypatch.setenv("OTHER", "kept")
    _parse(sampled, "sample", product__sample="sample/make.sh")
    assert "/caller" not in seen.values()
    assert seen["OTHER"] == "kept"


# ---- what may be in a URL

SECRETS = [
    "https://user:CANARY@example.org/x.git",
    "https://CANARY@example.org/x.git#main",
    "https://user:CA#NARY@example.org/x.git",
    "https://user:CA/NARY@example.org/x.git",
    "ssh://user:CANARY@example.org/x.git",
    "user:CANARY@example.org:x.git",
    "https://example.org/x.git?private_token=CANARY",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("own", [False, True])
def test_a_secret_in_a_url_is_refused_and_not_shown(here: Path, url: str, own: bool) -> None:
    changes = {"product__source": {"git": url, "tag": "v1.0"}} if own else {}
    with pytest.raises(ConfigError) as caught:
        _parse(here, "" if own else url, **changes)
    text = "\n".join(caught.value.lines())
    assert "NARY" not in text
    assert ".netrc" in text


@pytest.mark.parametrize("url", ["ssh://git@example.org/x.git", "git@example.org:x.git", "https://example.org/a@b.git"])
def test_a_url_without_a_secret_is_taken(here: Path, url: str) -> None:
    assert _parse(here, url).url == url


@pytest.mark.parametrize(
    "text",
    [
        "ext::sh -c touch% x",
        "--upload-pack=touch x;",
        "ssh://-oProxyCommand=touch/x",
        "-oProxyCommand=x@example.org:x",
        "ftp://example.org/x.git",
        "https://example.org/x.git#--upload-pack=x",
        "https://example.org/x.git#a:refs/heads/b",
    ],
)
def test_what_git_must_not_get_is_refused(here: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        _parse(here, text)
    assert _parse(here, "https://example.org/x.git#main").ref == "main"


def test_a_pin_that_is_no_commit_is_refused(here: Path) -> None:
    found = _parse(here, "https://example.org/x.git")
    lock = Lock(here / "sources.lock")
    lock.check("sources", found.entry, "commit", "--upload-pack=touch x")
    with pytest.raises(ConfigError, match=r"^the pin of https://example.org/x.git is no commit"):
        origin.pin(found, lock, offline=False)
    lock.replace("sources", found.entry, "commit", COMMIT)
    assert origin.pin(found, lock, offline=False) == COMMIT


def test_a_local_clone_is_built_at_no_option(here: Path) -> None:
    with pytest.raises(ConfigError, match="begins with `-`"):
        _parse(here, "clone#--upload-pack=x")
