"""The load test as a user runs it, on the sample server: report, interruptions, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import documented
import pytest

from pikaforge.bench.journal import LoadJournal
from pikaforge.host.images import KEPT

if TYPE_CHECKING:
    from conftest import Engine, Project

    from .conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("bench-test"), pytest.mark.long(90)]

ROOT = Path(__file__).resolve().parents[2]
CELL = "R620-debian12-none"


@pytest.fixture
def sample(ready: Project, shop: Shop, engine: Engine) -> Iterator[Project]:
    """A project whose server is compiled; what it keeps in the engine is removed."""
    shop.take(ready, "source", "compile", "audit")
    yield ready
    for name in volumes(engine):
        journal = LoadJournal.open(folder(ready))
        if journal is not None and name == f"{KEPT}{journal.head.data}":
            engine.client.volumes.get(name).remove(force=True)


def folder(project: Project) -> Path:
    return project.out / "bench" / f"{CELL}-load"


def volumes(engine: Engine) -> list[str]:
    """The volumes with servers' data."""
    return [str(volume.name) for volume in engine.client.volumes.list(filters={"label": "org.pikaforge.kind=kept"})]


def arguments(project: Project, *words: str) -> list[str]:
    return ["bench", "R620", *words, "--os", "debian12", "--source", "sample", *map(str, project.places)]


def report(project: Project) -> dict[str, Any]:
    """The report of the load test."""
    path = project.out / "bench" / f"{CELL}-load.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def acknowledged(project: Project) -> int:
    """Keys of the load test that runs, or was interrupted."""
    journal = LoadJournal.open(folder(project)) if folder(project).is_dir() else None
    return 0 if journal is None else journal.written()[0]


def measured(project: Project, session: int) -> bool:
    """Whether the journal has an interval of a session."""
    journal = LoadJournal.open(folder(project)) if folder(project).is_dir() else None
    return journal is not None and journal.session > session


def test_the_load_of_the_article(sample: Project, engine: Engine) -> None:
    def ask(matrix: dict[str, Any]) -> None:
        matrix["product"]["bench"]["statistics"].append({"send": ["INFO", "CPU"]})

    sample.change(ask)
    before = set(volumes(engine))
    words = ("--keys", "3K", "--expire-share", "0.2", "--ttl", "86400")
    done = sample.tool(*arguments(sample, *words), check=0)
    assert f"{CELL}: SET; 3,000 random keys of 50 bytes, 20 % with a time to live of 86,400 s;" in done.stdout
    assert done.lines(r"^100\.00%  3,000 of 3,000 keys, [\d,]+ requests/s$"), "not on a terminal, and at its end"
    said = "3,000 keys written, 600 with a time to live; the server has 3,000 keys, 600 expires"
    assert said in done.stdout.splitlines()
    facts = report(sample)
    load = facts["load"]
    assert (load["keys"], load["ttl"], load["expected"]) == (3000, 86_400, {"keys": 3000, "expires": 600})
    assert (load["found"], load["problem"], load["pauses"]) == (load["expected"], "", [])
    assert load["disk_bytes"] > 3000 * 90
    head, row = done.lines("^requests |^3,000  ")
    assert re.split(" {2,}", head) == [
        "requests", "time", "requests/s", "p50 latency, us", "p99 latency, us", "p999 latency, us",
        "memory at its peak", "on disk",
    ]  # fmt: skip
    assert re.fullmatch(r"3,000 +\d+ s +[\d,]+ +[\d,]+ +[\d,]+ +[\d,]+ +\d+\.\d MiB +\d+\.\d [KM]iB", row)
    for when in ("before", "after"):
        [text] = load["allocator"][when]
        assert (text["title"], "used_cpu_user" in text["text"]) == ("INFO CPU", True)
    [run] = facts["runs"]
    assert (run["requests"], sum(interval["requests"] for interval in run["intervals"])) == (3000, 3000)
    assert {"product", "version", "model", "image", "target", "source", "workload", "comparison"} <= set(facts)
    drawing = (sample.out / "bench" / f"{CELL}-load.svg").read_text(encoding="utf-8")
    for text in ("p99 latency (", "Throughput (", "Resident memory (", "The allocator before the load", "INFO CPU"):
        assert text in drawing
    assert (sample.out / "bench" / f"{CELL}-load.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (sample.out / "bench").iterdir()) == [
        f"{CELL}-load.{suffix}" for suffix in ("json", "png", "svg")
    ], "nothing is left to go on with"
    assert set(volumes(engine)) <= before


def test_a_test_goes_on_after_every_kind_of_end_with_the_same_data(
    sample: Project, engine: Engine, until: Callable[..., None]
) -> None:
    words = arguments(sample, "--keys", "1M", "--seed", "7")
    total, data = 0, ""
    for session, (number, status) in enumerate(((signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 143)), 1):
        with sample.tool.start(*words) as running:
            until(partial(measured, sample, session), f"an interval of session {session} is measured", 240)
            running.signal(number)
            done = running.finish()
        assert done.returncode == status, done.text
        last, total = total, acknowledged(sample)
        assert last < total < 1_000_000
        assert (f"note: the load test goes on after {last:,} of 1,000,000 keys" in done.stdout) == bool(last)
        said = (
            f"the load test has stopped after {total:,} of 1,000,000 keys; the same command goes on there, and --anew "
        )
        assert (said in done.stderr) == (number != signal.SIGKILL)
        journal = LoadJournal.open(folder(sample))
        assert journal is not None
        assert journal.head.data == (data or journal.head.data)
        data = journal.head.data
        assert f"{KEPT}{data}" in volumes(engine)
    other = sample.tool(*arguments(sample, "--keys", "50K"), check=2)
    assert re.search(
        r"error: another load test was interrupted here after [\d,]+ keys: SET; 1,000,000 .* seed 7\n", other.stderr
    )
    assert "--anew begins again with empty data" in other.stderr
    assert acknowledged(sample) == total
    done = sample.tool(*words, check=0)
    assert f"note: the load test goes on after {total:,} of 1,000,000 keys" in done.stdout
    said = "1,000,000 keys written, 200,000 with a time to live; the server has 1,000,000 keys, 200,000 expires"
    assert said in done.stdout.splitlines()
    assert len(report(sample)["load"]["pauses"]) == 3
    assert not folder(sample).exists()
    assert f"{KEPT}{data}" not in volumes(engine)


def test_data_that_are_gone_are_no_data_to_go_on_with(
    sample: Project, engine: Engine, until: Callable[..., None]
) -> None:
    words = arguments(sample, "--keys", "60K")
    with sample.tool.start(*words) as running:
        until(lambda: acknowledged(sample) > 2000, "keys were written", 240)
        running.signal(signal.SIGINT)
        running.finish()
    journal = LoadJournal.open(folder(sample))
    assert journal is not None
    listed = sample.tool("cache", "list", *sample.places, check=0)
    assert listed.lines(f"^{KEPT}{journal.head.data} ")
    engine.client.volumes.get(f"{KEPT}{journal.head.data}").remove()
    done = sample.tool(*words, check=4)
    assert "error: the server has lost a key that it had acknowledged before the interruption: " in done.stderr
    assert "hint: --anew begins again with empty data" in done.stderr
    done = sample.tool(*arguments(sample, "--keys", "2K", "--anew"), check=0)
    assert "the server has 2,000 keys, 400 expires" in done.stdout
    assert f"{KEPT}{journal.head.data}" not in volumes(engine)


def test_a_server_that_has_other_keys_than_were_written_is_told(sample: Project) -> None:
    def short_sighted(matrix: dict[str, Any]) -> None:
        matrix["product"]["bench"]["counted"][-1]["match"] = "Strings_keys=(?P<keys>[0-9]{3})"

    sample.change(short_sighted)
    done = sample.tool(*arguments(sample, "--keys", "2K"), check=4)
    said = "2,000 keys written, 400 with a time to live; the server has 200 keys instead of 2,000"
    assert f"error: the server does not have what was written: {said}\n" in done.stderr
    assert report(sample)["load"]["problem"] == "200 keys instead of 2,000"
    assert not folder(sample).exists()


def test_a_test_that_would_fill_the_engines_disk_is_refused(sample: Project, engine: Engine) -> None:
    before = set(volumes(engine))
    done = sample.tool(*arguments(sample, "--keys", "900G"), check=3)
    assert re.search(
        r"error: the disk of the container engine has \d+ [KMG]iB free; this load test may need \d+ GiB, and \d+ ",
        done.stderr,
    )
    assert "hint: free space there, or write fewer keys (--keys)" in done.stderr
    assert not folder(sample).exists()
    assert set(volumes(engine)) <= before


def test_on_a_terminal_there_is_one_line_that_changes(sample: Project) -> None:
    ours, theirs = os.openpty()
    argv = [sys.executable, "-m", "pikaforge", *arguments(sample, "--keys", "20K")]
    env = {**sample.tool.environment(), "COLUMNS": "100"}
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed
                break
    os.close(ours)
    assert running.returncode == 0, shown
    text = shown.decode()
    places = re.findall(r"\r *([\d.]+)%  [\d,]+ of 20,000 keys, [\d,]+ requests/s[^\r\n]*\x1b\[K", text)
    assert len(places) > 1
    assert [float(place) for place in places] == sorted(map(float, places))
    assert text.count("of 20,000 keys") == len(places)
    assert re.search(r"\r100\.00%  20,000 of 20,000 keys, [\d,]+ requests/s\x1b\[K\r\n", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keys", "-1"), "argument --keys: '-1' is no number from 1 to 1000G"),
        (("--keys", "0"), "argument --keys: '0' is no number"),
        (("--keys", "1e9"), "argument --keys: '1e9' is no number"),
        (("--keys", "5X"), "argument --keys: '5X' is no number"),
        (("--keys", "5MM"), "argument --keys: '5MM' is no number"),
        (("--keys", "\N{ARABIC-INDIC DIGIT FIVE}"), "is no number"),
        (("--keys", "1001G"), "argument --keys: '1001G' is no number"),
        (("--keys", ""), "argument --keys: '' is no number"),
        (("--expire-share", "1.5"), "argument --expire-share: '1.5' is no share from 0 to 1"),
        (("--expire-share", "nan"), "argument --expire-share: 'nan' is no share"),
        (("--expire-share", "-0.1"), "argument --expire-share: "),
        (("--ttl", "0"), "argument --ttl: '0' is no number"),
        (("--ttl", "100G"), "the load's `ttl` is 1e+11; it must be from 1 to "),
        (("--key-bytes", "100K"), "the load's `key_bytes` is 100000; it must be from 1 to 65536"),
        (("--keys", "1M", "--key-bytes", "5"), "1,000,000 random keys of 5 bytes are not all different"),
        (("--connections", "1", "--processes", "2", "--keys", "5"), "2 processes, but only 1 connections"),
        (
            ("--keys", "5", "--seconds", "3"),
            "--keys is for the load test of one server, and --seconds for a comparison",
        ),
        (("--keys", "5", "--allocators"), "--keys is for the load test of one server, and --allocators for"),
        (("--ttl", "5", "--rounds", "1"), "--ttl is for the load test of one server, and --rounds for a comparison"),
        (
            ("--expire-share", "0", "--rounds", "1"),
            "--expire-share is for the load test of one server, and --rounds for",
        ),
        (("--keys", "5", "--lasting", "5"), "argument --lasting: not allowed with argument --keys"),
        (("--lasting", "5", "--rounds", "1"), "--lasting is for the load test of one server, and --rounds for"),
        (("--keys", "5", "--keyspace", "0"), "--keys is for the load test of one server, and --keyspace for a"),
        (("R630", "--keys", "5"), "2 cells are selected; a load test has one"),
    ],
)
def test_figures_that_mean_nothing_are_refused_before_anything_starts(
    project: Project, options: tuple[str, ...], message: str
) -> None:
    done = project.tool(*arguments(project, *options), check=2)
    assert message in done.stderr
    assert not list(project.out.rglob("*.log"))


# ---- docs/load-test.md

KEYS_SOURCE = r"""
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLIENTS = 200, ROOM = 1 << 17 };
static struct pollfd fds[CLIENTS];
static char* held[CLIENTS];
static size_t used[CLIENTS];
static long keys, expires;

static void stop(int number) { (void)number; _exit(0); }

static int answer(char* reply, int words, const char* first) {
  char text[200];
  if (strncmp(first, "SET", 3) == 0) { keys++; expires += words == 5; return sprintf(reply, "+OK\r\n"); }
  if (strncmp(first, "PING", 4) == 0) return sprintf(reply, "+PONG\r\n");
  if (strncmp(first, "INFO", 4) != 0) return sprintf(reply, "-ERR unknown command\r\n");
  sprintf(text, "# Keyspace is_scaning_keyspace:No db0 Strings_keys=%ld, expires=%ld", keys, expires);
  return sprintf(reply, "$%zu\r\n%s\r\n", strlen(text), text);
}

static int whole(char* data, char* end, char** next, char** first, int* words) {
  char* line = memchr(data, '\n', end - data);
  if (!line) return 0;
  *words = atoi(data + 1);
  data = line + 1;
  for (int word = 0; word < *words; word++) {
    if (data >= end || !(line = memchr(data, '\n', end - data))) return 0;
    if (word == 0) *first = line + 1;
    data = line + 1 + atoi(data + 1) + 2;
  }
  *next = data;
  return data <= end;
}

int main(int argc, char** argv) {
  static char out[ROOM * 4];
  char line[200];
  int port = 0, on = 1;
  if (argc == 2 && strcmp(argv[1], "-v") == 0) { puts("pika_version: 3.4.0"); return 0; }
  FILE* conf = argc == 3 ? fopen(argv[2], "r") : NULL;
  if (conf == NULL) return 1;
  while (fgets(line, sizeof line, conf)) sscanf(line, "port : %d", &port);
  fclose(conf);
  signal(SIGTERM, stop);
  signal(SIGPIPE, SIG_IGN);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(listener, (struct sockaddr*)&at, sizeof at) || listen(listener, 64)) { perror("bind"); return 1; }
  for (int i = 0; i < CLIENTS; i++) fds[i].fd = -1, fds[i].events = POLLIN;
  fds[0].fd = listener;
  for (;;) {
    poll(fds, CLIENTS, -1);
    if (fds[0].revents) {
      int client = accept(listener, NULL, NULL), place = 1;
      while (place < CLIENTS && fds[place].fd >= 0) place++;
      if (place == CLIENTS) { close(client); continue; }
      fds[place].fd = client, fds[place].revents = 0, used[place] = 0;
      if (!held[place]) held[place] = malloc(ROOM);
    }
    for (int i = 1; i < CLIENTS; i++) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      ssize_t got = read(fds[i].fd, held[i] + used[i], ROOM - used[i]);
      if (got <= 0) { close(fds[i].fd); fds[i].fd = -1; continue; }
      char *data = held[i], *end = data + used[i] + got, *next, *first = NULL;
      int words;
      size_t size = 0;
      for (; whole(data, end, &next, &first, &words); data = next) size += answer(out + size, words, first);
      used[i] = end - data;
      memmove(held[i], data, used[i]);
      if (size && write(fds[i].fd, out, size) != (ssize_t)size) { close(fds[i].fd); fds[i].fd = -1; }
    }
  }
}
"""
"""A server that counts keys, and keeps none: it compiles in a second for each model and allocator."""


def counting(project: Project) -> None:
    """Make the product the server above, with the allocators that need no download."""
    project.recipe.write_text(
        '#!/bin/sh\nset -eu\nmkdir -p "$OUT/bin" "$OUT/conf"\ncat >keys.c <<\'END\'\n' + KEYS_SOURCE + "END\n"
        'gcc -O1 -g -o "$OUT/bin/pika" keys.c\nprintf "port : 9221\\n" >"$OUT/conf/pika.conf"\n',
        encoding="utf-8",
    )

    def few(matrix: dict[str, Any]) -> None:
        matrix["product"]["smoke"] = [{"check": "ping", "steps": [{"send": ["PING"], "expect": "PONG"}]}]
        exclude = matrix["matrix"].setdefault("exclude", [])
        exclude += [{"allocator": name, "reason": "a download"} for name in ("libunwind", "frame-pointers")]

    project.change(few)


def test_every_command_of_the_document_works(ready: Project, shop: Shop) -> None:
    """In small: fewer keys and seconds, on a server that is compiled in a second."""
    shop.take(ready, "source")
    counting(ready)
    for command in documented.commands(
        "docs/load-test.md", "The load of the article", "Interruptions", "Models and allocators"
    ):
        program, *words = command.split()
        if program == "invoke":
            ready.tool(*words[0].split("."), *ready.places, check=0)
            continue
        assert (program, words[:3]) == ("nox", ["-s", "bench", "--"]), f"no test runs {command}"
        words = [re.sub(r"^\d+M$", "2K", word) for word in words[3:]]
        models = [word for word in words if re.fullmatch("R[0-9]+|x86_64_v[0-9]", word)]
        compared = len(models) > 1 or "--allocators" in words
        small = ["--seconds", "1", "--rounds", "1"] if compared else [] if "--keys" in words else ["--lasting", "2"]
        done = ready.tool("bench", *words, *small, "--os", "debian12", "--source", "sample", *ready.places, check=0)
        if compared:
            assert done.lines("^(model|allocator) "), done.text
        elif small:
            (note,) = done.lines(r"^note: [\d,]+ requests/s in a trial of 3 s: [\d,]+ keys take about 2 s; ")
            keys = note.split(" keys take")[0].rpartition(" ")[2]
            assert f"{keys} keys written" in done.stdout
            assert f"the server has {keys} keys" in done.stdout
        else:
            assert "the server has 2,000 keys, 400 expires" in done.stdout
