"""publish/web.py against a real nginx with WebDAV, ways to it that fail, and a server that knows little but PUT."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.dav import PROXIES, WRITER, Dav, Fault, dav_of, fetched, nginx_image, serving, way_to
from limits import within

from pikaforge.errors import EXIT_PUBLISH, ConfigError, PublishError
from pikaforge.publish.sites.credentials import Credentials
from pikaforge.publish.sites.journal import PENDING, Journal
from pikaforge.publish.sites.web import WebSite
from pikaforge.publish.sites.web_lock import LOCK
from pikaforge.publish.state import STATE, File, Generation, State, read_state, text
from pikaforge.publish.transaction import Addition, Transaction, file_of

if TYPE_CHECKING:
    from conftest import Engine

    from .conftest import Warm

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("publish-web")]

PLACE = "debian12/R620"
QUICK: dict[str, Any] = {"timeout": (5.0, 5.0), "pause": 0.01, "ttl": 20.0, "look": 0.05}
TEMPORARY = {".lock.part", ".pending.json.part"}
"""What a killed publisher may leave for good: the next one writes over it."""


@pytest.fixture(scope="module")
def image(engine: Engine, warm: Warm) -> str:
    return nginx_image(engine, warm)


@pytest.fixture(scope="module")
def server(engine: Engine, image: str, until: Callable[..., None]) -> Iterator[Dav]:
    with dav_of(engine, image, until) as dav:
        yield dav


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy and no netrc of the person who runs the tests."""
    for name in (*PROXIES, "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def root(request: pytest.FixtureRequest, server: Dav) -> str:
    """A folder on the server for this test alone; it is made, as an administrator does."""
    name = "r" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    server.exec("install", "-d", "-o", "www-data", f"{server.root}/{name}")
    return name


def payload(number: int, size: int = 20_000) -> bytes:
    """A package of a generation; its name has what a URL must not have as it is."""
    return random.Random(number).randbytes(size)


def change(before: State | None, *, size: int = 20_000, keep: int = 3, model: str = "R620") -> Transaction:
    """The next generation: one package more, two pointers that must agree with the state, and what is too old goes."""
    number = before.current.number + 1 if before else 1
    data = payload(number, size)
    package = file_of(f"pool/a+b~{number} c.bin", data)
    generation = Generation(
        number=number, revision=number, published="2026-01-01T00:00:00Z", artifacts=(), metadata=(package,)
    )
    old = before.generations if before else ()
    generations = (generation, *old)[:keep]
    state = State(product="server", image="debian12", model=model, generations=generations, artifacts={})
    named = {file.path for file in state.files()}
    return Transaction(
        state=state,
        kept=tuple(file for file in state.files() if file != package),
        additions=(Addition(file=package, content=data),),
        transitional={"dists/index": line(number, "both")},
        pointers={"dists/index": line(number), "repodata/index.xml": line(number), STATE: text(state)},
        removals=tuple(f for g in old[keep - 1 :] for f in g.metadata if f.path not in named),
    )


def line(number: int, what: str = "one") -> bytes:
    """A pointer: all of it says the same, so that a part or a mixture is seen."""
    return f"{number} {what}\n".encode() * 5000


def state_of(site: WebSite) -> State | None:
    return read_state(site.read(f"{PLACE}/{STATE}"), where="here")


def publish(site: WebSite, *, size: int = 20_000) -> State:
    """One more generation, under the lock."""
    with site.locked():
        made = change(state_of(site), size=size)
        assert site.commit(made) == 1
        return made.state


def consistent(dav: Dav, root: str, number: int, *, spare: int = 0) -> None:
    """Readers see all of a generation, and what the kept ones name; nothing else is there but what may be.

    The package of the generation `spare` may be there: it came, and the switch to it did not.
    """
    base = f"{dav.readers}/{root}/{PLACE}"
    answer = fetched(f"{base}/{STATE}")
    assert answer is not None
    state = read_state(answer[1], where="here")
    assert state is not None
    assert state.current.number == number
    for path in ("dists/index", "repodata/index.xml"):
        assert fetched(f"{base}/{path}") == (200, line(number)), path
    sums = dav.exec("sh", "-c", f"cd '{dav.root}/{root}/{PLACE}' && sha256sum pool/*").splitlines()
    told = {path: digest for digest, path in (row.split("  ", 1) for row in sums)}
    for file in change_files(spare):
        told.pop(file.path, None)
    assert told == {file.path: file.sha256 for file in state.files()}
    others = {path.rpartition("/")[2] for path in dav.listing(root) if path.rpartition("/")[2].startswith(".")}
    assert others <= TEMPORARY


def clean(dav: Dav, root: str) -> None:
    """Nothing is left but what is published."""
    assert [path for path in dav.listing(root) if "/." in f"/{path}"] == []


def requests(dav: Dav, root: str, method: str) -> list[str]:
    """Paths that a method was used on, below a folder."""
    rows = [row.rpartition(" ")[0].split(" ", 3) for row in dav.access_log()]
    return [path for _, _, verb, path in rows if verb == method and path.startswith(f"/{root}/")]


# --- a server for WebDAV


def test_generations_come_one_after_the_other(server: Dav, root: str, tmp_path: Path) -> None:
    site = WebSite(f"{server.url}/{root}/", WRITER, **QUICK)
    assert site.read("none") is None
    for number in range(1, 6):
        assert publish(site).current.number == number
        consistent(server, root, number)
    clean(server, root)
    assert all(path.endswith((".part", f"/{LOCK}")) for path in requests(server, root, "PUT")), "all else is moved"
    first, _, third = (file.path for number in (2, 3, 4) for file in change_files(number))
    assert f"{PLACE}/{first}" not in server.listing(root), "only three generations are kept"

    with site.locked():
        state = state_of(site)
        assert state is not None
        again = Transaction(
            state=state,
            kept=(),
            additions=tuple(Addition(file=file_of(f.path, payload(5)), content=payload(5)) for f in change_files(5)),
            pointers={STATE: text(state)},
        )
        before = len(requests(server, root, "PUT"))
        assert site.commit(again) == 0, "it is there"
        assert not any("a+b" in path for path in requests(server, root, "PUT")[before:])

        assert site.write("repo.json", b"{}")
        before = len(requests(server, root, "PUT"))
        assert not site.write("repo.json", b"{}")
        assert len(requests(server, root, "PUT")) == before
    assert fetched(f"{server.readers}/{root}/repo.json") == (200, b"{}")

    (file,) = change_files(4)
    assert file.path == third
    site.fetch(file, PLACE, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == payload(4)
    with pytest.raises(PublishError, match="digest"):
        site.fetch(file.model_copy(update={"sha256": "0" * 64}), PLACE, tmp_path / "other")
    with pytest.raises(PublishError, match="gone"):
        site.fetch(file.model_copy(update={"path": "pool/none"}), PLACE, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got"]
    with pytest.raises(PublishError, match="larger"):
        site.read(f"{PLACE}/{STATE}", limit=10)


def change_files(number: int) -> tuple[File, ...]:
    """The package of a generation."""
    return (file_of(f"pool/a+b~{number} c.bin", payload(number)),)


def test_a_file_of_this_machine_is_sent_and_a_changed_one_is_not(server: Dav, root: str, tmp_path: Path) -> None:
    site = WebSite(f"{server.url}/{root}", WRITER, **QUICK)
    for name, content in (("large", payload(1, 3 << 20)), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        made = change(state_of(site))
        file = file_of(name, content)
        made = Transaction(
            state=made.state, kept=(), additions=(Addition(file=file, content=tmp_path / name),), pointers=made.pointers
        )
        with site.locked():
            assert site.commit(made) == 1
        assert fetched(f"{server.readers}/{root}/{PLACE}/{name}") == (200, content)
    clean(server, root)
    (tmp_path / "large").write_bytes(b"changed")
    other = Addition(file=file_of("large2", b"before"), content=tmp_path / "large")
    with site.locked(), pytest.raises(PublishError, match="changed since"):
        site.commit(Transaction(state=made.state, kept=(), additions=(other,), pointers=made.pointers))
    assert f"{PLACE}/large2" not in server.listing(root)
    clean(server, root)


def test_left_overs_are_replaced_and_published_files_are_not(server: Dav, root: str) -> None:
    site = WebSite(f"{server.url}/{root}", WRITER, **QUICK)
    made = change(None)
    path = f"{server.root}/{root}/{PLACE}/{made.additions[0].file.path}"
    folder = path.rpartition("/")[0]
    server.exec("sh", "-c", f"mkdir -p '{folder}'; head -c 20000 /dev/zero >'{path}'")
    server.exec("chown", "-R", "www-data:", f"{server.root}/{root}")
    publish(site)
    consistent(server, root, 1)
    second = change(made.state)
    other = Addition(file=file_of(made.additions[0].file.path, b"other"), content=b"other")
    bad = Transaction(state=second.state, kept=second.kept, additions=(other,), pointers=second.pointers)
    with site.locked(), pytest.raises(PublishError, match="published already"):
        site.commit(bad)
    consistent(server, root, 1)


def test_folders_are_made_where_put_makes_none(server: Dav, root: str) -> None:
    site = WebSite(f"{server.without_folders}/{root}/deep", WRITER, **QUICK)
    publish(site)
    publish(site)
    consistent(server, f"{root}/deep", 2)
    assert requests(server, root, "MKCOL")


# --- what goes wrong on the way

FAULTS = [
    Fault("cut-put", "PUT", "a%2Bb"),
    Fault("cut-put", "PUT", "repodata", times=4),
    Fault("cut-put", "PUT", "pending"),
    Fault("stall", "PUT", "a%2Bb"),
    Fault("stall", "GET", "dists/.index.part"),
    Fault("status", "PUT", "a%2Bb", times=3, status=500),
    Fault("status", "PUT", "a%2Bb", status=423),
    Fault("status", "MOVE", "dists", status=502),
    Fault("cut-get", "GET", "a%2Bb"),
    Fault("cut-get", "GET", "index.xml"),
    Fault("flip", "PUT", "a%2Bb", times=2),
    Fault("flip", "PUT", "index.xml"),
    Fault("lost-answer", "PUT", "a%2Bb"),
    Fault("lost-answer", "MOVE", "index"),
    Fault("lost-answer", "MOVE", "lock"),
    Fault("lost-answer", "DELETE", "pending"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.part[:6]}")
def test_what_passes_is_overcome(server: Dav, root: str, fault: Fault) -> None:
    publish(WebSite(f"{server.url}/{root}", WRITER, **QUICK))
    with way_to(server.url, fault) as way:
        site = WebSite(f"{way.url}/{root}", WRITER, **{**QUICK, "timeout": (1.0, 0.5)})
        within(15, lambda: publish(site))
    assert fault.hits == fault.times
    consistent(server, root, 2)
    clean(server, root)


@pytest.mark.parametrize(
    ("kind", "part", "message"),
    [
        ("cut-put", "a%2Bb", "PUT failed, 5 times"),
        ("status", "a%2Bb", "answered 500 Internal Server Error, 5 times"),
        ("flip", "a%2Bb", "what was sent is not what comes back, 5 times"),
        ("flip", "pending", "what was sent is not what comes back, 5 times"),
    ],
)
def test_what_does_not_pass_is_an_error_before_the_switch(
    server: Dav, root: str, kind: str, part: str, message: str
) -> None:
    publish(WebSite(f"{server.url}/{root}", WRITER, **QUICK))
    with way_to(server.url, Fault(kind, "PUT", part, times=99)) as way:
        site = WebSite(f"{way.url}/{root}", WRITER, **QUICK)
        with pytest.raises(PublishError) as caught:
            publish(site)
    error = caught.value
    assert error.exit_code == EXIT_PUBLISH
    assert message in error.message
    assert f"{way.url}/{root}/" in error.where
    assert error.hint
    consistent(server, root, 1)
    clean(server, root)


@pytest.mark.parametrize("part", ["dists", "index.xml", STATE])
def test_a_switch_that_fails_is_made_by_the_next_publisher(server: Dav, root: str, part: str) -> None:
    publish(WebSite(f"{server.url}/{root}", WRITER, **QUICK))
    with way_to(server.url, Fault("status", "PUT", part, times=99, status=403)) as way:
        site = WebSite(f"{way.url}/{root}", WRITER, **QUICK)
        with pytest.raises(PublishError, match="answered 403") as caught:
            publish(site)
    assert "the next publisher finishes it" in caught.value.hint
    assert PENDING in server.listing(root)
    told: list[str] = []
    site = WebSite(f"{server.url}/{root}", WRITER, notice=told.append, **QUICK)
    with site.locked():
        consistent_but_for_the_lock(server, root, 2)
    assert [line for line in told if "finishes what another publisher has begun" in line]
    publish(site)
    consistent(server, root, 3)
    clean(server, root)


def consistent_but_for_the_lock(dav: Dav, root: str, number: int, *, spare: int = 0) -> None:
    """As `consistent`, while somebody publishes."""
    TEMPORARY.add(LOCK)
    try:
        consistent(dav, root, number, spare=spare)
    finally:
        TEMPORARY.discard(LOCK)


def test_a_switch_that_failed_is_made_before_the_next_one_of_the_same_publisher(server: Dav, root: str) -> None:
    with way_to(server.url, Fault("status", "PUT", "index.xml", status=403)) as way:
        site = WebSite(f"{way.url}/{root}", WRITER, **QUICK)
        with site.locked():
            with pytest.raises(PublishError, match="answered 403"):
                site.commit(change(None))
            site.commit(change(None, model="R720"))
    consistent(server, root, 1)
    assert f"debian12/R720/{STATE}" in server.listing(root)
    clean(server, root)


def test_a_damaged_log_is_of_a_switch_that_had_not_begun(server: Dav, root: str) -> None:
    site = WebSite(f"{server.url}/{root}", WRITER, **QUICK)
    state = publish(site)
    whole = Journal.of(change(state)).text()
    for damaged in (whole[:-20], b"", whole.replace(b'"debian12/R620"', b'"debian12/R720"')):
        with site.locked():
            site.write(PENDING, damaged)
        with site.locked():
            consistent_but_for_the_lock(server, root, 1)
    clean(server, root)


# --- what the user has to do something about


def hint_of(action: Callable[[], object]) -> PublishError:
    """The error; no secret is in it, however it is looked at."""
    with pytest.raises(PublishError) as caught:
        action()
    shown = "\n".join([*caught.value.lines(), repr(caught.value), *map(repr, chain(caught.value))])
    for secret in (WRITER.password, "d3JpdGVy", "Authorization", "not the password"):
        assert secret not in shown
    return caught.value


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """What `--debug` would show."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "credentials", [None, Credentials(user="writer", password="not the password"), Credentials(token="not-a-token")]
)
def test_wrong_credentials(server: Dav, root: str, tmp_path: Path, credentials: Credentials | None) -> None:
    # What the netrc says is not taken behind the back of who asked for nobody.
    (tmp_path / ".netrc").write_text(f'machine {server.address} login {WRITER.user} password "{WRITER.password}"\n')
    site = WebSite(f"{server.url}/{root}", credentials, target="my-web", **QUICK)
    error = hint_of(lambda: publish(site))
    assert "401 Unauthorized" in error.message
    assert "PIKAFORGE_MY_WEB_USER and PIKAFORGE_MY_WEB_PASSWORD" in error.hint
    assert f"netrc an entry for {server.address}" in error.hint
    assert server.listing(root) == []


def test_servers_that_do_not_take_it(server: Dav, root: str, tmp_path: Path) -> None:
    error = hint_of(lambda: publish(WebSite(f"{server.readers}/{root}", WRITER, **QUICK)))
    assert "405 Not Allowed" in error.message or "405 Method Not Allowed" in error.message
    assert "does the server take PUT" in error.hint

    site = WebSite(f"{server.url}/{root}", WRITER, **QUICK)
    error = hint_of(lambda: publish(site, size=9 << 20))
    assert "413" in error.message
    assert "too large" in error.hint
    assert server.listing(root) == []

    with way_to(server.url) as way:
        gone = way.url
        error = hint_of(lambda: publish(WebSite(way.url.replace("http:", "https:"), WRITER, **QUICK)))
        assert "certificate" in error.hint
    error = hint_of(lambda: publish(WebSite(gone, WRITER, **QUICK)))
    assert "failed, 5 times" in error.message
    assert "down?" in error.hint
    error = hint_of(lambda: publish(WebSite("http://no-such-host.invalid/", WRITER, **QUICK)))
    assert "name right?" in error.hint
    for url in (f"http://user:secret@{server.address}/", "ftp://example.org/"):
        with pytest.raises(ConfigError) as caught:
            WebSite(url, None)
        assert "secret" not in "\n".join(caught.value.lines())


def test_a_full_disk_changes_nothing(engine: Engine, image: str, until: Callable[..., None]) -> None:
    with dav_of(engine, image, until, size="2m") as dav:
        dav.exec("install", "-d", "-o", "www-data", f"{dav.root}/r")
        site = WebSite(f"{dav.url}/r", WRITER, **QUICK)
        publish(site)
        error = hint_of(lambda: publish(site, size=3 << 20))
        assert "answered 50" in error.message
        assert "disk" in error.hint
        consistent(dav, "r", 1)
        clean(dav, "r")
        publish(site)
        consistent(dav, "r", 2)


def test_a_full_disk_in_the_switch_is_overcome_by_the_next(
    engine: Engine, image: str, until: Callable[..., None]
) -> None:
    with dav_of(engine, image, until, size="2m") as dav:
        dav.exec("install", "-d", "-o", "www-data", f"{dav.root}/r")
        publish(WebSite(f"{dav.url}/r", WRITER, **QUICK))

        def fill() -> None:
            dav.exec("sh", "-c", "head -c 9999999 /dev/zero >/srv/dav/tmp/fill 2>/dev/null || :")

        with way_to(dav.url, Fault("call", "PUT", "index.xml", call=fill)) as way:
            error = hint_of(lambda: publish(WebSite(f"{way.url}/r", WRITER, **QUICK)))
        assert "finishes it" in error.hint
        dav.exec("rm", "/srv/dav/tmp/fill")
        publish(WebSite(f"{dav.url}/r", WRITER, **{**QUICK, "look": 0.2}))
        consistent(dav, "r", 3)
        clean(dav, "r")


# --- several publishers


def publish_often(url: str, times: int) -> None:
    """What a process does."""
    site = WebSite(url, WRITER, **QUICK)
    for _ in range(times):
        publish_over_left_overs(site)


@contextmanager
def process(url: str, times: int) -> Iterator[multiprocessing.process.BaseProcess]:
    started = multiprocessing.get_context("fork").Process(target=publish_often, args=(url, times), daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()


def test_two_publishers_at_once_follow_one_another(server: Dav, root: str, tmp_path: Path) -> None:
    url = f"{server.url}/{root}"
    over, seen = threading.Event(), []

    def read() -> None:
        """As readers do all the time: whole files alone."""
        while not over.is_set():
            answer = fetched(f"{server.readers}/{root}/{PLACE}/dists/index")
            if answer is not None and answer[0] == 200:
                seen.append(answer[1])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with process(url, 6) as one, process(url, 6) as two:
            for each in (one, two):
                each.join(60)
                assert each.exitcode == 0
    finally:
        over.set()
        reader.join()
    consistent(server, root, 12)
    clean(server, root)
    whole = {line(number, what) for number in range(1, 13) for what in ("one", "both")}
    assert seen
    assert set(seen) <= whole


def test_killed_publishers_are_followed_by_others(server: Dav, root: str) -> None:
    url = f"{server.url}/{root}"
    chance = random.Random(int(os.environ.get("PIKAFORGE_TEST_SEED", "7")))
    told: list[str] = []
    site = WebSite(url, WRITER, notice=told.append, **QUICK)
    number = publish(site).current.number
    for _ in range(30):
        with process(url, 99) as publisher:
            time.sleep(0.02 + chance.random() * 0.25)
            assert publisher.exitcode is None
            assert publisher.pid is not None
            os.kill(publisher.pid, signal.SIGKILL)
            publisher.join()
        with ExitStack() as held:
            within(10, lambda: held.enter_context(site.locked()))  # a process of this machine is known to be gone
            state = state_of(site)
            assert state is not None
            assert state.current.number >= number
            number = state.current.number
            consistent_but_for_the_lock(server, root, number, spare=number + 1)
    assert sum("takes over the lock" in line for line in told) > 10
    assert any("finishes what" in line for line in told)
    publish_over_left_overs(site)
    consistent(server, root, number + 1)


def foreign(ttl: float) -> bytes:
    """A lock of another machine's publisher."""
    content = {"token": "t", "host": "elsewhere", "pid": 1, "since": "today", "owner": "x-1-1", "ttl": ttl}
    return json.dumps(content).encode()


def plant(dav: Dav, root: str, content: bytes) -> None:
    """A lock that somebody has put there now."""
    path = f"{dav.root}/{root}/{LOCK}"
    script = f"cat >{path}.new <<'END'\n{content.decode()}\nEND\nchown www-data {path}.new; mv {path}.new {path}"
    dav.exec("sh", "-c", script)


def test_a_lock_that_nobody_renews_is_taken_over(server: Dav, root: str) -> None:
    plant(server, root, foreign(1.0))
    told: list[str] = []
    site = WebSite(f"{server.url}/{root}", WRITER, notice=told.append, **QUICK)
    began = time.monotonic()
    waiter = threading.Thread(target=publish, args=(site,), daemon=True)
    waiter.start()
    waiter.join(20)
    assert not waiter.is_alive()
    assert time.monotonic() - began > 1.0
    told = [line for line in told if "plain http" not in line]
    assert [line.split()[0] for line in told] == ["waits", "takes"]
    assert "process 1 on 'elsewhere', since 'today'" in told[0]
    consistent(server, root, 1)
    clean(server, root)


def test_a_lock_is_renewed_and_another_publisher_waits(server: Dav, root: str) -> None:
    one, two = (WebSite(f"{server.url}/{root}", WRITER, **{**QUICK, "ttl": 2.0}) for _ in range(2))
    entered = threading.Event()

    def wait() -> None:
        with two.locked():
            entered.set()

    waiter = threading.Thread(target=wait, daemon=True)
    with one.locked():
        waiter.start()
        assert not entered.wait(4.5), "it is held, and renewed"
        one.commit(change(None))
    assert entered.wait(10)
    waiter.join()
    clean(server, root)


@pytest.mark.parametrize("taken", [True, False])
def test_who_has_lost_the_lock_does_not_switch(server: Dav, root: str, taken: bool) -> None:
    site = WebSite(f"{server.url}/{root}", WRITER, **QUICK)
    state = publish(site)
    with way_to(server.url) as way:
        lame = WebSite(f"{way.url}/{root}", WRITER, **QUICK)

        def take() -> None:
            if taken:
                plant(server, root, foreign(60.0))
            else:
                server.exec("rm", f"{server.root}/{root}/{LOCK}")

        with lame.locked():
            way.faults.append(Fault("call", "PUT", "a%2Bb", call=take))
            with pytest.raises(PublishError, match="the lock was lost"):
                lame.commit(change(state))
    if taken:
        assert server.exec("cat", f"{server.root}/{root}/{LOCK}").strip() == foreign(60.0).decode(), "it is another's"
        server.exec("rm", f"{server.root}/{root}/{LOCK}")
    publish_over_left_overs(site)
    consistent(server, root, 2)


def publish_over_left_overs(site: WebSite) -> None:
    """As `publish`, where the package may be there already."""
    with site.locked():
        site.commit(change(state_of(site)))


def test_a_lock_that_was_renewed_just_in_time_is_put_back(server: Dav, root: str) -> None:
    plant(server, root, foreign(0.1))
    held = threading.Event()

    def renew() -> None:
        plant(server, root, foreign(60.0))
        held.set()

    with way_to(server.url, Fault("call", "MOVE", LOCK, call=renew)) as way:
        site = WebSite(f"{way.url}/{root}", WRITER, **QUICK)
        waiter = threading.Thread(target=lambda: publish(site), daemon=True)
        waiter.start()
        assert held.wait(20)
        # It was moved away, found to be another one than was stale, and put back.
        deadline = time.monotonic() + 10
        while server.exec("sh", "-c", f"cat {server.root}/{root}/{LOCK} || :").strip() != foreign(60.0).decode():
            assert time.monotonic() < deadline
        assert waiter.is_alive()
        assert f"{PLACE}/{STATE}" not in server.listing(root)
        server.exec("rm", f"{server.root}/{root}/{LOCK}")
        waiter.join(20)
        assert not waiter.is_alive()
    consistent(server, root, 1)


# --- a server without MOVE


class Plain(BaseHTTPRequestHandler):
    """PUT, GET, HEAD and DELETE, as raw repositories have them; no folders."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    stored: dict[str, bytes]
    log: list[tuple[str, str]]
    status: int
    digests: bool
    conditions: bool
    steal: bool

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.log.append((self.command, self.path))
        if self.path.startswith("/moved/"):
            self._answer(301, b"", {"Location": f"http://user:secret@127.0.0.1/{self.path.removeprefix('/moved/')}"})
        elif self.command == "PUT":
            if self.conditions and self.headers.get("If-None-Match") == "*" and self.path in self.stored:
                self._answer(412)
            else:
                self.stored[self.path] = body
                if self.path == f"/{LOCK}" and self.steal:
                    type(self).steal = False
                    self.stored[self.path] = foreign(0.5)
                self._answer(201)
        elif self.command == "MOVE":
            self._answer(self.status)
        elif self.path not in self.stored:
            self._answer(404)
        elif self.command == "DELETE":
            del self.stored[self.path]
            self._answer(204)
        else:
            data = self.stored[self.path]
            told = {"X-Checksum-Sha256": hashlib.sha256(data).hexdigest()} if self.digests else {}
            self._answer(200, data, {**told, "Content-Encoding": "gzip"})

    do_GET = do_HEAD = do_PUT = do_DELETE = do_MOVE = do_MKCOL = _take

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def plain(
    *, status: int = 405, digests: bool = False, conditions: bool = True, steal: bool = False
) -> Iterator[tuple[str, type[Plain]]]:
    members = {"stored": {}, "log": [], "status": status, "digests": digests, "conditions": conditions, "steal": steal}
    handler = type("Handler", (Plain,), members)
    with serving(handler) as url:
        yield url, handler


@pytest.mark.parametrize(
    ("status", "digests", "conditions"),
    [(405, False, True), (501, False, True), (404, True, True), (400, False, False)],
)
def test_a_server_without_move(status: int, digests: bool, conditions: bool) -> None:
    with plain(status=status, digests=digests, conditions=conditions) as (url, handler):
        told: list[str] = []
        site = WebSite(url, WRITER, notice=told.append, **QUICK)
        for number in range(1, 6):
            assert publish(site).current.number == number
        assert [line for line in told if "does not know MOVE" in line] == told
        assert len(told) == 1
        assert sum(method == "MOVE" for method, _ in handler.log) == 1
        state = state_of(site)
        assert state is not None
        stored = {path.replace("%2B", "+").replace("%20", " ") for path in handler.stored}
        assert stored == {
            *(f"/{PLACE}/{file.path}" for file in state.files()),
            *(f"/{PLACE}/{path}" for path in (STATE, "dists/index", "repodata/index.xml")),
        }
        assert handler.stored[f"/{PLACE}/dists/index"] == line(5)

        # What is there is not sent again; where the server tells digests, it is not even read.
        handler.log.clear()
        with site.locked():
            site.commit(Transaction(state=state, kept=(), additions=change(None).additions[:0], pointers={}))
            again = tuple(Addition(file=file_of(f.path, payload(5)), content=payload(5)) for f in change_files(5))
            assert site.commit(Transaction(state=state, kept=(), additions=again, pointers={STATE: text(state)})) == 0
        used = [method for method, path in handler.log if "a%2Bb" in path]
        assert used == (["HEAD"] if digests else ["HEAD", "GET"])


def test_a_lock_without_move_keeps_others_out() -> None:
    with plain() as (url, _):
        one, two = (WebSite(url, WRITER, **QUICK) for _ in range(2))
        entered = threading.Event()

        def wait() -> None:
            with two.locked():
                entered.set()

        waiter = threading.Thread(target=wait, daemon=True)
        with one.locked():
            waiter.start()
            assert not entered.wait(1.0)
        assert entered.wait(10)
        waiter.join()


def test_a_stale_lock_without_move_and_dates_of_its_own_is_taken_over() -> None:
    with plain() as (url, handler):
        handler.stored[f"/{LOCK}"] = foreign(0.2)
        began = time.monotonic()
        publish(WebSite(url, WRITER, **QUICK))
        assert time.monotonic() - began > 0.2
        assert f"/{LOCK}" not in handler.stored


def test_who_was_overwritten_at_once_does_not_have_the_lock() -> None:
    with plain(conditions=False, steal=True) as (url, handler):
        told: list[str] = []
        publish(WebSite(url, WRITER, notice=told.append, **QUICK))
        assert [line.split()[0] for line in told[1:]] == ["waits", "takes"]
        assert f"/{LOCK}" not in handler.stored


def test_writing_is_not_redirected() -> None:
    with plain() as (url, handler):
        site = WebSite(f"{url}/moved", WRITER, **QUICK)
        with suppress(PublishError):
            site.read("x")
        handler.log.clear()
        error = hint_of(lambda: publish(site))
        assert "secret" not in "\n".join(error.lines())
        with pytest.raises(PublishError) as caught:
            site._dav.put("file", b"")
        assert "answered 301" in caught.value.message
        assert "give the URL that it names: http://***@127.0.0.1/" in caught.value.hint
