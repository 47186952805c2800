"""What /proc/PID/maps and tcmalloc's own statistics tell of a server's allocator."""

from __future__ import annotations

import pytest

from pikaforge.host import process
from pikaforge.pipeline.smoke.allocator_in_use import environment, mapped_wrong, served, served_wrong
from pikaforge.plan.allocators.gperftools import TCMALLOC as PRESENCE

TCMALLOC = "/forge/tree/lib/libtcmalloc.so.4.5.9"
PLAIN = ("/forge/tree/bin/demo", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libm.so.6")
BUILT = ("system", "gperftools")

# ---- what is mapped

MAPS = """\
55d0c8e00000-55d0c8e8b000 r--p 00000000 fe:01 1835041                    /forge/tree/bin/demo
55d0c8e8b000-55d0c93a2000 r-xp 0008b000 fe:01 1835041                    /forge/tree/bin/demo
55d0ca1b3000-55d0ca1d4000 rw-p 00000000 00:00 0                          [heap]
7f1b5c000000-7f1b5c021000 rw-p 00000000 00:00 0 
7f1b60a10000-7f1b60a14000 r--p 00000000 fe:01 1835102                    /forge/tree/lib/libtcmalloc.so.4.5.9
7f1b60a14000-7f1b60a3c000 r-xp 00004000 fe:01 1835102                    /forge/tree/lib/libtcmalloc.so.4.5.9
7f1b60b00000-7f1b60b26000 r--p 00000000 fe:01 3932611                    /usr/lib/x86_64-linux-gnu/libc.so.6
7f1b60d00000-7f1b60d04000 rw-s 00000000 00:01 98312                      /dev/zero (deleted)
7f1b60d10000-7f1b60d11000 rw-s 00000000 00:01 2051                       /memfd:ring (deleted)
7f1b60d20000-7f1b60d21000 rw-s 00000000 00:0e 1036                       anon_inode:[io_uring]
7ffd4f3c0000-7ffd4f3e1000 rw-p 00000000 00:00 0                          [stack]
7ffd4f3f4000-7ffd4f3f8000 r--p 00000000 00:00 0                          [vvar]
7ffd4f3f8000-7ffd4f3fa000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291  # as the kernel prints it


def line(path: str) -> str:
    """A line for a file; the kernel fills up with spaces to column 74, and puts at least one."""
    return f"{'7f1b60a10000-7f1b60a14000 r--p 00000000 fe:01 1835102':<73}{path}\n"


def test_files_of_a_process() -> None:
    assert process.mapped_files(MAPS) == (
        "/forge/tree/bin/demo",
        TCMALLOC,
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/dev/zero (deleted)",
        "/memfd:ring (deleted)",
    )
    assert process.mapped_files("") == ()


@pytest.mark.parametrize(
    "path",
    [
        "/srv/my forge/lib/libtcmalloc.so.4",
        "/srv/two  blanks/lib",
        "/srv/ends in /x",
        "/srv/line\\012feed/lib",  # as the kernel writes one
        "/srv/Grün/lib",
        "/srv/[heap]",
        "/forge/tree/lib/libtcmalloc.so.4.5.9 (deleted)",
    ],
)
def test_paths_are_kept_as_they_are(path: str) -> None:
    assert process.mapped_files(line(path)) == (path,)
    wide = line(path).replace("r--p 00000000 fe:01 1835102", "r--p 123456789000 103:05 123456789012345678901")
    assert process.mapped_files(wide) == (path,)


@pytest.mark.parametrize("kind", BUILT)
def test_the_one_in_the_tree(kind: str) -> None:
    assert mapped_wrong((*PLAIN, TCMALLOC), kind=kind, root="/forge") == ""
    assert mapped_wrong(process.mapped_files(MAPS), kind=kind, root="/forge") == ""
    both = "/home/user/out/work/smoke x/tree/lib/libtcmalloc_and_profiler.so.4"
    assert mapped_wrong((*PLAIN, both), kind=kind, root="/home/user/out/work/smoke x") == ""


def test_none_is_mapped() -> None:
    assert mapped_wrong(PLAIN, kind="none", root="/forge") == ""
    assert mapped_wrong((), kind="none", root="/forge") == ""
    assert mapped_wrong((*PLAIN, "/forge/tree/lib/libprofiler.so.0"), kind="none", root="/forge") == ""


@pytest.mark.parametrize(
    "path", [TCMALLOC, f"{TCMALLOC} (deleted)", "/usr/lib/libjemalloc.so.2", "/x/libtcmalloc_minimal.so.4"]
)
def test_none_is_wanted_and_one_is_mapped(path: str) -> None:
    assert mapped_wrong((*PLAIN, path), kind="none", root="/forge") == f"the allocator is none, but {path} is mapped"


def test_all_that_are_mapped_are_told() -> None:
    said = mapped_wrong((TCMALLOC, *PLAIN, "/usr/lib/libjemalloc.so.2"), kind="none", root="/forge")
    assert said == f"the allocator is none, but {TCMALLOC}, /usr/lib/libjemalloc.so.2 is mapped"


NOT_MAPPED = "Compiled, but tcmalloc not used: /proc/PID/maps shows no libtcmalloc.so"


@pytest.mark.parametrize("kind", BUILT)
@pytest.mark.parametrize("beside", [(), ("/usr/lib/libtcmalloc_minimal.so.4",), ("/usr/lib/libjemalloc.so.2",)])
def test_one_is_wanted_and_none_is_mapped(kind: str, beside: tuple[str, ...]) -> None:
    assert NOT_MAPPED.startswith(PRESENCE.unused)
    assert mapped_wrong((*PLAIN, *beside), kind=kind, root="/forge") == NOT_MAPPED
    assert mapped_wrong(beside, kind=kind, root="/forge") == NOT_MAPPED


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4.5.9",
        "/forge/lib/libtcmalloc.so.4",
        "/forge/trees/lib/libtcmalloc.so.4",
        "/other/forge/tree/lib/libtcmalloc.so.4",
    ],
)
@pytest.mark.parametrize("kind", BUILT)
def test_the_host_s_own_is_mapped(kind: str, path: str) -> None:
    wanted = f"{path} is mapped, and not the one that travels in the tree"
    assert mapped_wrong((*PLAIN, path), kind=kind, root="/forge") == wanted
    assert mapped_wrong((TCMALLOC, path), kind=kind, root="/forge") == wanted, "nor is it beside ours"


@pytest.mark.parametrize("other", ["/forge/tree/lib/libjemalloc.so.2", "/usr/lib/libtcmalloc_minimal.so.4"])
@pytest.mark.parametrize("kind", BUILT)
def test_two_are_mapped(kind: str, other: str) -> None:
    said = mapped_wrong((TCMALLOC, *PLAIN, other), kind=kind, root="/forge")
    assert said == f"there are 2 allocators in one process: {TCMALLOC}, {other}"


# ---- what tcmalloc says at the end

STATISTICS_2_10 = """\
------------------------------------------------
MALLOC:        7234584 (    6.9 MiB) Bytes in use by application
MALLOC: +       425984 (    0.4 MiB) Bytes in page heap freelist
MALLOC: +       303776 (    0.3 MiB) Bytes in central cache freelist
MALLOC: +       101376 (    0.1 MiB) Bytes in transfer cache freelist
MALLOC: +       424232 (    0.4 MiB) Bytes in thread cache freelists
MALLOC: +      2752512 (    2.6 MiB) Bytes in malloc metadata
MALLOC:   ------------
MALLOC: =     11242464 (   10.7 MiB) Actual memory used (physical + swap)
MALLOC: +      1103214 (    1.1 MiB) Bytes released to OS (aka unmapped)
MALLOC:   ------------
MALLOC: =     12345678 (   11.8 MiB) Virtual address space used
MALLOC:
MALLOC:            574              Spans in use
MALLOC:              9              Thread heaps in use
MALLOC:           8192              Tcmalloc page size
------------------------------------------------
Call ReleaseFreeMemory() to release freelist memory to the OS (via madvise()).
Bytes released to the OS take up virtual address space but no physical memory.
"""
"""As gperftools 2.10 prints it; 2.7 does, too (src/tcmalloc.cc, DumpStats)."""
BEFORE = "pika serves port 9221\nE0101 db.cc:12] MALLOC: = 99999999999 is a word in a log\n"


def at_end(count: int) -> str:
    """The line of the sum, in the width that it has."""
    return f"MALLOC: = {count:12} ({count / (1 << 20):7.1f} MiB) Virtual address space used\n"


def test_how_tcmalloc_is_asked() -> None:
    assert environment() == {"MALLOCSTATS": "1"}, "2 and more print classes of sizes, too"


@pytest.mark.parametrize(
    ("log", "count"),
    [
        (STATISTICS_2_10, 12_345_678),
        (f"{BEFORE}{STATISTICS_2_10}", 12_345_678),
        (f"{STATISTICS_2_10}bye\n", 12_345_678),
        (STATISTICS_2_10.replace("\n", "\r\n"), 12_345_678),
        (at_end(0), 0),
        (at_end(123_456_789_012_345), 123_456_789_012_345),  # wider than its column
        # A server that forks, or was started twice with one log: the last one is meant.
        (at_end(5) + STATISTICS_2_10, 12_345_678),
        (STATISTICS_2_10 + at_end(5), 5),
        (at_end(77).rstrip("\n"), 77),
    ],
)
def test_bytes_that_were_got_from_the_system(log: str, count: int) -> None:
    assert served(log) == ("tcmalloc", count)


@pytest.mark.parametrize(
    "log",
    [
        "",
        BEFORE,
        # What `TCMALLOC STATS` replies may be in a log, too, with a time before it; that is no end.
        f"I0101 {at_end(5)}",
        at_end(5).replace("MALLOC: =", "MALLOC: +"),
        "MALLOC: =     11242464 (   10.7 MiB) Actual memory used (physical + swap)\n",
        # Cut off by a death in between.
        STATISTICS_2_10.partition("Virtual")[0],
        at_end(5).replace("used", "used by somebody"),
        # Another line begins in the middle of this one.
        "MALLOC: =     11242464 (   10.7 MiB) Actual\nVirtual address space used\n",
    ],
)
def test_logs_without_statistics(log: str) -> None:
    assert served(log) is None
    assert served_wrong(log, kind="none", at_least=4) == ""
    for kind in BUILT:
        assert served_wrong(log, kind=kind, at_least=4) == (
            "Compiled, but tcmalloc not used: at the server's end it has printed no statistics (MALLOCSTATS=1)"
        )


MIB = 1 << 20


@pytest.mark.parametrize(
    ("count", "at_least", "said"),
    [
        (12_345_678, 4, ""),
        (4 * MIB, 4, ""),
        (4 * MIB - 1, 4, "tcmalloc has served 4.0 MiB, less than 4: something else serves the rest"),
        (MIB, 1.5, "tcmalloc has served 1.0 MiB, less than 1.5: something else serves the rest"),
        (3 * MIB // 2, 1.5, ""),
        (0, 0.5, "tcmalloc has served 0.0 MiB, less than 0.5: something else serves the rest"),
    ],
)
@pytest.mark.parametrize("kind", BUILT)
def test_it_must_have_served_so_much(kind: str, count: int, at_least: float, said: str) -> None:
    assert served_wrong(at_end(count), kind=kind, at_least=at_least) == said


@pytest.mark.parametrize("log", [STATISTICS_2_10, at_end(0)])
def test_where_it_should_not_be_it_is_not_silent(log: str) -> None:
    assert served_wrong(log, kind="none", at_least=4) == (
        "the allocator is none, but tcmalloc has printed its statistics"
    )
