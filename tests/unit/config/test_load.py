"""The configuration: every refusal with its words, and the real matrix.yaml."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pikaforge.cli.commands import upkeep
from pikaforge.config import cross_references, diagnostics, load, yaml_text
from pikaforge.config import schema as model
from pikaforge.cpu import microarch
from pikaforge.errors import EXIT_CONFIG, ConfigError

ROOT = Path(__file__).parents[3]
MATRIX = ROOT / "matrix.yaml"

TEXT = """\
product:
  name: demo
  version: v1.0
  source: {git: https://example.org/demo.git, tag: v1.0}
  recipe: docker/guest/recipes/demo.sh
  binaries: [bin/demo]
  files: [conf/demo.conf]
  packages:
    debian: {build: [zlib1g-dev]}
  server:
    command: [bin/demo, "{conf}"]
    port: 7000
    conf:
      path: conf/demo.conf
      line: "{key} {value}"
      settings: {dir: "{data}"}
    version: {command: [bin/demo, -v], match: demo}
  smoke:
    - check: ping
      steps:
        - {send: [PING], expect: PONG}
    - check: list
      steps:
        - {send: [LRANGE, k, 0, -1], expect: [a, [b, 1]]}
hardware:
  R620: {cpus: [sandybridge, ivybridge]}
  R640: {cpus: [cascadelake]}
images:
  debian12:
    family: debian
    os: {id: debian, version: "12"}
    base: debian:bookworm-slim
    gcc: "12.2"
  ubuntu2204:
    family: debian
    os: {id: ubuntu, version: "22.04"}
    base: ubuntu:22.04
    gcc: "11.4"
    allocator: system
allocators:
  none: {kind: none}
  system:
    kind: system
    packages: {debian: {build: [libgoogle-perftools-dev]}}
matrix:
  axes: {image: [all]}
  exclude:
    - {model: R64*, allocator: system}
defaults:
  image: debian12
  tools: debian12
  base_libraries: [libc.so.*]
"""

SERIES = """\
patches:
  - {pull: 988, url: https://example.org/pull/988.patch, why: a reason}
  - file: local/a.patch
  - {quilt: debian, enabled: no}
"""


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"the test's text does not hold {old!r} once"
        text = text.replace(old, new)
    return text


def _refusal(*changes: tuple[str, str], text: str = TEXT) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load.parse(_changed(text, *changes), file="matrix.yaml")
    assert caught.value.exit_code == EXIT_CONFIG
    return caught.value


def _single(error: ConfigError) -> tuple[str, str, str]:
    assert [other.message for other in error.also] == []
    place, _, path = error.where.partition(", ")
    return error.message, f"{place.removeprefix('matrix.yaml:')} {path}".rstrip(), error.hint


NAME_WORDS = "may hold only letters, digits, '.', '_' and '-', and begins with a letter or digit"

# name: (old, new), (message, line:column and path, hint)
REFUSALS: dict[str, tuple[tuple[str, str], tuple[str, str, str]]] = {
    # What the models refuse.
    "unknown key, close to one": (
        ("    base: debian", "    bootstap: x\n    base: debian"),
        ("unknown key 'bootstap'", "32:5 images.debian12.bootstap", "did you mean 'bootstrap'?"),
    ),
    "unknown key, close to a required one": (
        ('    gcc: "12.2"', '    gc: "12.2"'),
        ("unknown key 'gc'", "33:5 images.debian12.gc", "did you mean 'gcc'?"),
    ),
    "unknown key, close to none": (
        ("  R640: {cpus", "  R640: {colour: red, cpus"),
        ("unknown key 'colour'", "27:10 hardware.R640.colour", "known are: cpus, dmi, note"),
    ),
    "unknown key at the top": (
        ("defaults:\n", "publsh: {}\ndefaults:\n"),
        ("unknown key 'publsh'", "49:1 publsh", "did you mean 'publish'?"),
    ),
    "missing key": (
        ('    gcc: "12.2"\n', ""),
        (
            "the key `gcc` is missing",
            "29:3 images.debian12.gcc",
            "gcc: Version of the image's gcc, major.minor at least.",
        ),
    ),
    "number for a string": (
        ('version: "22.04"', "version: 22.10"),
        (
            "`version` wants a string, got the number 22.1 (written 22.10)",
            "36:31 images.ubuntu2204.os.version",
            'put it in quotes: "22.10"',
        ),
    ),
    "whole number for a string": (
        ('version: "12"', "version: 12"),
        (
            "`version` wants a string, got the number 12",
            "31:31 images.debian12.os.version",
            'put it in quotes: "12"',
        ),
    ),
    "boolean for a string": (
        ('{dir: "{data}"}', "{daemonize: no}"),
        (
            "`daemonize` wants a string, got the boolean false (written no)",
            "16:29 product.server.conf.settings.daemonize",
            'put it in quotes: "no"',
        ),
    ),
    "null for a string": (
        ("    family: debian\n    os: {id: debian", "    family:\n    os: {id: debian"),
        (
            "`family` wants a string, got nothing",
            "30:12 images.debian12.family",
            "family: Folder under docker/ with the Dockerfile.",
        ),
    ),
    "placeholder without quotes": (
        ('"{conf}"', "{conf}"),
        (
            "`command[1]` wants a string, got a mapping",
            "11:25 product.server.command[1]",
            'braces make a mapping; put text in quotes: "{conf}"',
        ),
    ),
    "string for a list": (
        ("binaries: [bin/demo]", "binaries: bin/demo"),
        (
            "`binaries` wants a list, got the string 'bin/demo'",
            "6:13 product.binaries",
            "write a list: [bin/demo]",
        ),
    ),
    "string for a number": (
        ("port: 7000", 'port: "7000"'),
        (
            "`port` wants a whole number, got the string '7000'",
            "12:11 product.server.port",
            "write it without quotes: 7000",
        ),
    ),
    "text of several lines for a list": (
        ("binaries: [bin/demo]", "binaries: |\n    a\n    b"),
        (
            "`binaries` wants a list, got the string 'a\\nb\\n'",
            "6:13 product.binaries",
            "binaries: ELF files that the recipe must leave.",
        ),
    ),
    "list for a mapping": (
        ("{cpus: [cascadelake]}", "[cascadelake]"),
        ("`R640` wants a mapping, got a list", "27:3 hardware.R640", "its keys are: cpus, dmi, note"),
    ),
    "list for the whole": (
        (TEXT, "- a\n"),
        (
            "the file wants a mapping, got a list",
            "1:1",
            (
                "its keys are: allocators, defaults, hardware, images, limits, matrix, mirrors, product, publish, "
                "runners, store, tarballs, waivers"
            ),
        ),
    ),
    "value of a request": (
        ("[PING]", "[PING, 1.50]"),
        (
            "`send[1]` wants a string or a whole number, got the number 1.5 (written 1.50)",
            "21:25 product.smoke[0].steps[0].send[1]",
            'put it in quotes: "1.50"',
        ),
    ),
    "value deep in a reply": (
        ("[b, 1]", "[b, on]"),
        (
            "`expect[1][1]` wants a string or a whole number, got the boolean true (written on)",
            "24:54 product.smoke[1].steps[0].expect[1][1]",
            'put it in quotes: "on"',
        ),
    ),
    "value of a reply": (
        ("expect: PONG", "expect: true"),
        (
            "`expect` wants a string, a whole number or a list, got the boolean true",
            "21:34 product.smoke[0].steps[0].expect",
            'put it in quotes: "true"',
        ),
    ),
    "a name's characters": (
        ("R640:", "R 640:"),
        (f"the name 'R 640' {NAME_WORDS}", "27:3 hardware.'R 640'", "for example: R_640"),
    ),
    "a value's characters": (
        ("  name: demo", "  name: de/mo"),
        (
            f"`name` {NAME_WORDS}, got the string 'de/mo'",
            "2:9 product.name",
            "name: Begins the names of packages and files.",
        ),
    ),
    "a package's characters": (
        ("zlib1g-dev", "zlib1g dev"),
        (
            (
                "`build[0]` may hold only letters, digits and . + _ : ~ -, and begins with a letter or digit"
                ", got the string 'zlib1g dev'"
            ),
            "9:22 product.packages.debian.build[0]",
            "build: Installed into the build image.",
        ),
    ),
    "a compiler's version": (
        ('"11.4"', '"11"'),
        (
            "`gcc` must be a version of two or three numbers, such as 12.2, got the string '11'",
            "38:10 images.ubuntu2204.gcc",
            "gcc: Version of the image's gcc, major.minor at least.",
        ),
    ),
    "a path's beginning": (
        ("[conf/demo.conf]", "[conf/demo.conf, /etc/passwd]"),
        (
            (
                "`files[1]` must be a path below its folder, of letters, digits and . _ @ / + -, "
                "got the string '/etc/passwd'"
            ),
            "7:27 product.files[1]",
            "files: Other files that it must leave.",
        ),
    ),
    "a path's steps": (
        ("docker/guest", "docker/../.."),
        ("a path may not leave its folder: no `..`", "5:11 product.recipe", ""),
    ),
    "too long a name": (
        ("R640", "R" * 65),
        (
            f"the name '{'R' * 59}…' must not be longer than 64 characters",
            f"27:3 hardware.'{'R' * 59}…'",
            f"for example: {'R' * 64}",
        ),
    ),
    "too long a value": (
        ("  version: v1.0", "  version: " + "1" + ".1" * 32),
        (
            "`version` must not be longer than 64 characters",
            "3:12 product.version",
            "version: As packages carry it.",
        ),
    ),
    "empty list": (
        ("[cascadelake]", "[]"),
        (
            "`cpus` must not be empty",
            "27:16 hardware.R640.cpus",
            "cpus: CPU microarchitectures by archspec name.",
        ),
    ),
    "empty mapping": (
        ("  R620: {cpus: [sandybridge, ivybridge]}\n  R640: {cpus: [cascadelake]}\n", "  {}\n"),
        ("`hardware` must not be empty", "26:3 hardware", "hardware: Hardware models by name."),
    ),
    "a password in a URL": (
        ("defaults:\n", 'publish: {web: {kind: http, url: "https://me:secret@packages.example.org/"}}\ndefaults:\n'),
        (
            (
                "`url` must be a URL with https:// or http://, without user, password, query or spaces, "
                "got the string 'https://***@packages.example.org/'"
            ),
            "49:34 publish.web.url",
            "url: Of a server or an index: where files are sent to.",
        ),
    ),
    "a server without its address": (
        ("defaults:\n", "publish: {web: {kind: http}}\ndefaults:\n"),
        ("kind http needs `url`", "49:11 publish.web", ""),
    ),
    "a directory with an address": (
        ("defaults:\n", 'publish: {web: {kind: directory, url: "https://packages.example.org/"}}\ndefaults:\n'),
        ("kind directory takes no `url`", "49:11 publish.web", ""),
    ),
    "an index that would keep": (
        ("defaults:\n", 'publish: {web: {kind: index, url: "https://i.example.org/", keep: 3}}\ndefaults:\n'),
        ("kind index takes no `keep`", "49:11 publish.web", ""),
    ),
    "two destinations at one place": (
        ("defaults:\n", "publish: {a: {kind: directory}, b: {kind: directory, path: ./repo}}\ndefaults:\n"),
        (
            "'b' is the same place as 'a': './repo'",
            "49:60 publish.b.path",
            "give each destination a place of its own",
        ),
    ),
    "a destination that is not there": (
        ("defaults:\n", "publish: {stage: {kind: directory}}\ndefaults:\n  publish: staged\n"),
        ("there is no destination 'staged'", "51:12 defaults.publish", "did you mean 'stage'?"),
    ),
    "too large a number": (
        ("port: 7000", "port: 70000"),
        ("`port` must be less than 65536, got the number 70000", "12:11 product.server.port", ""),
    ),
    "too small a number": (
        ("port: 7000", "port: 0"),
        ("`port` must be greater than 0, got the number 0", "12:11 product.server.port", ""),
    ),
    "too long a time": (
        ("expect: PONG", "expect: PONG, within: 601"),
        ("`within` must be at most 600, got the number 601", "21:48 product.smoke[0].steps[0].within", ""),
    ),
    "one of a few words, close to one": (
        ("kind: system", "kind: sytem"),
        (
            "`kind` must be 'none', 'system' or 'gperftools', got the string 'sytem'",
            "43:11 allocators.system.kind",
            "did you mean 'system'?",
        ),
    ),
    "one of a few words, close to none": (
        ("kind: system", "kind: jemalloc"),
        (
            "`kind` must be 'none', 'system' or 'gperftools', got the string 'jemalloc'",
            "43:11 allocators.system.kind",
            "",
        ),
    ),
    "a rule of a model": (
        ("expect: PONG", "expect: PONG, match: P"),
        (
            "give exactly one of `expect`, `unordered`, `match`, `error`",
            "21:11 product.smoke[0].steps[0]",
            "",
        ),
    ),
    "two keys that go together": (
        (", tag: v1.0", ""),
        ("`git` and `tag` go together", "4:3 product.source", ""),
    ),
    # What refers to nothing, or contradicts something else.
    "a CPU": (
        ("[cascadelake]", "[cascadlake]"),
        (
            "there is no x86-64 microarchitecture 'cascadlake'",
            "27:17 hardware.R640.cpus[0]",
            "did you mean 'cascadelake'?",
        ),
    ),
    "a baseline": (
        ('    gcc: "12.2"', '    gcc: "12.2"\n    baseline: x86_64_v9'),
        (
            "there is no x86-64 microarchitecture 'x86_64_v9'",
            "34:15 images.debian12.baseline",
            "did you mean 'x86_64_v4'?",
        ),
    ),
    "an image's allocator": (
        ("allocator: system\nallocators", "allocator: sytem\nallocators"),
        ("there is no allocator 'sytem'", "39:16 images.ubuntu2204.allocator", "did you mean 'system'?"),
    ),
    "the default allocator": (
        ("  none: {kind: none}", "  glibc: {kind: none}"),
        (
            "there is no allocator 'none', which images take that name none",
            "40:1 allocators",
            "define it, or give every image its `allocator`",
        ),
    ),
    "an allocator that is built of nothing": (
        ("  none: {kind: none}\n", "  none: {kind: none}\n  own: {kind: gperftools, unwinder: libunwind}\n"),
        ("kind gperftools needs `unwinder` and `tarball`", "42:3 allocators.own", ""),
    ),
    "an allocator that is not built, with an unwinder": (
        ("    kind: system\n", "    kind: system\n    unwinder: libunwind\n"),
        ("kind system takes no `unwinder`", "42:3 allocators.system", ""),
    ),
    "frame pointers and libunwind": (
        (
            "  none: {kind: none}\n",
            (
                "  none: {kind: none}\n"
                "  own: {kind: gperftools, unwinder: frame-pointers, tarball: gperftools-2.7, libunwind: unwind}\n"
            ),
        ),
        ("unwinder frame-pointers takes no `libunwind`", "42:3 allocators.own", ""),
    ),
    "a word for frame pointers": (
        ("    kind: system\n", "    kind: gperftools\n    unwinder: framepointers\n    tarball: a\n"),
        (
            "`unwinder` must be 'libunwind' or 'frame-pointers', got the string 'framepointers'",
            "44:15 allocators.system.unwinder",
            "did you mean 'frame-pointers'?",
        ),
    ),
    "a tarball of an allocator": (
        (
            "matrix:\n",
            (
                "  own: {kind: gperftools, unwinder: libunwind, tarball: gperftols-2.7}\n"
                f"tarballs:\n  gperftools-2.7: {{version: '2.7', url: file:///a.tgz, sha256: {'0a' * 32}}}\nmatrix:\n"
            ),
        ),
        ("there is no tarball 'gperftols-2.7'", "45:57 allocators.own.tarball", "did you mean 'gperftools-2.7'?"),
    ),
    "two tarballs with one file": (
        (
            "matrix:\n",
            (
                f"tarballs:\n  a: {{version: '2.7', url: file:///a/x.tgz, sha256: {'0a' * 32}}}\n"
                f"  b: {{version: '2.8', url: 'https://b.org/x.tgz?c', sha256: {'0b' * 32}}}\nmatrix:\n"
            ),
        ),
        (
            "b and a have the same file name x.tgz",
            "47:28 tarballs.b.url",
            "both would be kept in one place: give another URL",
        ),
    ),
    "a tarball without a file's name": (
        (
            "matrix:\n",
            f"tarballs:\n  a: {{version: '2.7', url: 'https://a.org/?x.tgz', sha256: {'0a' * 32}}}\nmatrix:\n",
        ),
        (
            "the URL of a does not end with the name of a file",
            "46:28 tarballs.a.url",
            "give the tarball's own URL, such as …/name-1.0.tar.gz",
        ),
    ),
    "a digest in capital letters": (
        ("matrix:\n", f"tarballs:\n  a: {{version: '2.7', url: file:///x.tgz, sha256: '{'0A' * 32}'}}\nmatrix:\n"),
        (
            f"`sha256` must be a SHA-256: 64 digits and letters a to f, in lower case, got the string '{'0A' * 29}0…'",
            "46:51 tarballs.a.sha256",
            "sha256: As `sha256sum` prints it.",
        ),
    ),
    "a mirror": (
        ("matrix:\n", "mirrors: [https://a.org, ftp://b.org]\nmatrix:\n"),
        (
            (
                "`mirrors[1]` must be a URL with https://, http:// or file:// and no spaces or quotes, "
                "got the string 'ftp://b.org'"
            ),
            "45:26 mirrors[1]",
            "mirrors: Folders that are asked for tarballs before their own URLs.",
        ),
    ),
    "the default image": (
        ("  image: debian12", "  image: Debian-12"),
        ("there is no image 'Debian-12'", "50:10 defaults.image", "did you mean 'debian12'?"),
    ),
    "the image of the tools": (
        ("  tools: debian12", "  tools: el7"),
        ("there is no image 'el7'", "51:10 defaults.tools", "known are: debian12, ubuntu2204"),
    ),
    "packages of the product": (
        ("    debian: {build: [zlib", "    debiam: {build: [zlib"),
        ("there is no image or family 'debiam'", "9:5 product.packages.debiam", "did you mean 'debian'?"),
    ),
    "packages of an allocator": (
        ("{debian: {build: [libg", "{el: {build: [libg"),
        (
            "there is no image or family 'el'",
            "44:16 allocators.system.packages.el",
            "known are: debian, debian12, ubuntu2204",
        ),
    ),
    "a value of an axis": (
        ("{image: [all]}", "{model: [R62O], image: [all]}\n  include: [{model: R640}]"),
        ("there is no model 'R62O'", "46:18 matrix.axes.model[0]", "did you mean 'R620'?"),
    ),
    "an exclusion without effect": (
        ("{model: R64*, ", "{model: R63*, "),
        (
            "the exclude rule has no effect: no model of the matrix matches 'R63*'",
            "48:15 matrix.exclude[0].model",
            "known are: R620, R640",
        ),
    ),
    "an exclusion of what no axis has": (
        ("{image: [all]}", "{allocator: [none]}"),
        (
            "the exclude rule has no effect: no allocator of `matrix.axes` matches 'system'",
            "48:32 matrix.exclude[0].allocator",
            "known are: none",
        ),
    ),
    "an exclusion by the word of the axes": (
        ("{model: R64*, ", "{model: all, "),
        (
            "the exclude rule has no effect: no model of the matrix matches 'all'",
            "48:15 matrix.exclude[0].model",
            'for all of them leave the key out, or write "*"',
        ),
    ),
    "an inclusion without effect": (
        ("{image: [all]}", "{image: [all]}\n  include: [{image: el7}]"),
        (
            "the include rule has no effect: no image of the matrix matches 'el7'",
            "47:21 matrix.include[0].image",
            "known are: debian12, ubuntu2204",
        ),
    ),
    "the reserved name": (
        ("hardware:\n", "hardware:\n  all: {cpus: [zen]}\n"),
        ("`all` selects everything and cannot be a name", "26:3 hardware.all", "rename it"),
    ),
    "names equal but for case": (
        ("hardware:\n", "hardware:\n  r620: {cpus: [zen]}\n"),
        (
            "the names 'r620' and 'R620' differ only in capital letters",
            "27:3 hardware.R620",
            "rename one: people and some file systems mix them up",
        ),
    ),
    "an OS release given twice": (
        ('{id: ubuntu, version: "22.04"}', '{id: debian, version: "12"}'),
        (
            "the images 'debian12' and 'ubuntu2204' are both for debian 12",
            "36:5 images.ubuntu2204.os",
            "give each image an OS release of its own",
        ),
    ),
    "a check given twice": (
        ("check: list", "check: ping"),
        (
            "the check 'ping' is here twice; first in line 19",
            "22:14 product.smoke[1].check",
            "give each check a name of its own",
        ),
    ),
    "a placeholder of the command": (
        ('"{conf}"', '"--port={prt}"'),
        ("there is no placeholder '{prt}'", "11:25 product.server.command[1]", "did you mean '{port}'?"),
    ),
    "a placeholder of a setting": (
        ('"{data}"', '"{conf}"'),
        (
            "there is no placeholder '{conf}'",
            "16:23 product.server.conf.settings.dir",
            "known are: {data}, {port}",
        ),
    ),
    "a placeholder of the line": (
        ("{key} {value}", "{key} {value} {port}"),
        ("there is no placeholder '{port}'", "15:13 product.server.conf.line", "known are: {key}, {value}"),
    ),
    "a conf file that the recipe need not leave": (
        ("path: conf/demo.conf", "path: conf/other.conf"),
        (
            "'conf/other.conf' is not among `product.files`",
            "14:13 product.server.conf.path",
            "add it there, so that the recipe must leave it",
        ),
    ),
    "a port above the last": (
        ("port: 7000", "port: 65000\n    offsets: [0, 1000]"),
        (
            "the offset 1000 makes port 65000 into 66000",
            "13:18 product.server.offsets[1]",
            "ports are 1 to 65535",
        ),
    ),
    "a port below the first": (
        ("port: 7000", "port: 7000\n    offsets: [-7000]"),
        (
            "the offset -7000 makes port 7000 into 0",
            "13:15 product.server.offsets[0]",
            "ports are 1 to 65535",
        ),
    ),
    "the expression of the version": (
        ("match: demo", "match: '(demo'"),
        (
            "not a regular expression: missing ), unterminated subpattern at position 0",
            "17:47 product.server.version.match",
            "put a backslash before characters meant as themselves, such as . ( [ + ?",
        ),
    ),
    "the expression of a reply": (
        ("expect: PONG", "match: '*'"),
        (
            "not a regular expression: nothing to repeat at position 0",
            "21:33 product.smoke[0].steps[0].match",
            "put a backslash before characters meant as themselves, such as . ( [ + ?",
        ),
    ),
    "the expression of an error": (
        ("expect: PONG", "error: 'a{2,1}'"),
        (
            "not a regular expression: min repeat greater than max repeat at position 2",
            "21:33 product.smoke[0].steps[0].error",
            "put a backslash before characters meant as themselves, such as . ( [ + ?",
        ),
    ),
    "an expression that Python warns of": (
        ("expect: PONG", "match: '[[a]'"),
        (
            "not a regular expression: Possible nested set at position 1",
            "21:33 product.smoke[0].steps[0].match",
            "put a backslash before characters meant as themselves, such as . ( [ + ?",
        ),
    ),
    # What YAML itself is for; the rest of these is in test_yamltext.
    "a key given twice": (
        ("R640:", "R620:"),
        ("the key 'R620' is here twice; first in line 26", "27:3 hardware.R620", "remove one of them"),
    ),
}


def test_the_text_itself_is_right() -> None:
    spec = load.parse(TEXT, file="matrix.yaml")
    assert spec.hardware["R620"].cpus == ("sandybridge", "ivybridge")
    assert spec.product.smoke[1].steps[0].expect == ("a", ("b", 1))


@pytest.mark.parametrize(("change", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal(change: tuple[str, str], expected: tuple[str, str, str]) -> None:
    assert _single(_refusal(change)) == expected


def test_problems_are_told_together_and_in_the_order_of_the_file() -> None:
    error = _refusal(
        ('version: "22.04"', "version: 22.10"),
        ("    base: debian", "    bootstap: x\n    base: debian"),
        ("port: 7000", "port: 70000"),
    )
    assert error.lines() == [
        "error: `port` must be less than 65536, got the number 70000",
        "  where: matrix.yaml:12:11, product.server.port",
        "error: unknown key 'bootstap'",
        "  where: matrix.yaml:32:5, images.debian12.bootstap",
        "  hint: did you mean 'bootstrap'?",
        "error: `version` wants a string, got the number 22.1 (written 22.10)",
        "  where: matrix.yaml:37:31, images.ubuntu2204.os.version",
        '  hint: put it in quotes: "22.10"',
    ]


def test_references_are_told_together_and_in_the_order_of_the_file() -> None:
    error = _refusal(("  tools: debian12", "  tools: x"), ("[cascadelake]", "[x]"), ("match: demo", "match: ("))
    assert [one.where for one in (error, *error.also)] == [
        "matrix.yaml:17:47, product.server.version.match",
        "matrix.yaml:27:17, hardware.R640.cpus[0]",
        "matrix.yaml:51:10, defaults.tools",
    ]


@pytest.mark.parametrize(
    ("change", "last"),
    [
        (("[cascadelake]", str(["x"] * 21)), "1 more problem is not shown"),
        (("[cascadelake]", str(["x"] * 45)), "25 more problems are not shown"),
        (("[cascadelake]", str([1] * 45)), "25 more problems are not shown"),
    ],
)
def test_only_so_many_are_shown(change: tuple[str, str], last: str) -> None:
    error = _refusal(change)
    assert len(error.also) == diagnostics.SHOWN_PROBLEMS
    assert error.also[-1].lines() == [
        f"error: {last}",
        "  where: matrix.yaml",
        "  hint: put right the ones above first",
    ]


def test_cells_with_the_same_id() -> None:
    changes = (
        ("  R620:", "  a:"),
        ("  R640:", "  a-b:"),
        ("  debian12:", "  b-c:"),
        ("  ubuntu2204:", "  c:"),
    )
    text = _changed(TEXT, *changes).replace("R64*", "a*").replace("debian12", "c")
    error = _refusal(text=text)
    assert [one.message for one in (error, *error.also)] == [
        "the cells a, b-c, none and a-b, c, none have the same id a-b-c-none",
        "the cells a, b-c, system and a-b, c, system have the same id a-b-c-system",
    ]
    assert error.hint == "use '_' in place of '-' in one name"


def test_too_many_cells() -> None:
    models = "".join(f"  M{number}: {{cpus: [x86_64]}}\n" for number in range(cross_references.CELL_LIMIT // 4))
    error = _refusal(("  R640:", f"{models}  R640:"))
    message = f"the matrix has {cross_references.CELL_LIMIT + 8} cells, more than {cross_references.CELL_LIMIT}"
    assert _single(error) == (message, "25:1 hardware", "split it")


def test_a_regular_expression_too_deep_for_python() -> None:
    error = _refusal(("match: demo", f"match: '{'(' * 5000}{')' * 5000}'"))
    assert error.message.startswith("not a regular expression: ")


def test_known_microarchitectures() -> None:
    assert cross_references.known_microarchitectures() == microarch.known()
    assert {"sandybridge", "x86_64_v3"} <= cross_references.known_microarchitectures()


# Series.


def _series_refusal(*changes: tuple[str, str]) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        load.parse_series(_changed(SERIES, *changes), file="matrix.yaml")
    return _single(caught.value)


def test_series(tmp_path: Path) -> None:
    path = tmp_path / "series.yaml"
    path.write_text(SERIES, encoding="utf-8")
    series = load.load_series(path)
    assert [(entry.pull, entry.file, entry.quilt, entry.enabled) for entry in series.patches] == [
        (988, None, None, True),
        (None, "local/a.patch", None, True),
        (None, None, "debian", False),
    ]


def test_patch_files_that_are_missing_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "series.yaml"
    path.write_text("patches:\n  - {file: a.patch}\n  - {file: b.patch, enabled: false}\n  - {quilt: debian}\n")
    with pytest.raises(ConfigError) as caught:
        load.check_series_files(path)
    text = "\n".join(caught.value.lines())
    assert f"there is no file {tmp_path}/a.patch" in text
    assert f"there is no file {tmp_path}/debian/series" in text
    assert "b.patch" not in text
    assert f"{path}:2:12, patches[0].file" in text
    assert f"{path}:4:13, patches[2].quilt" in text
    for name in ("a.patch", "debian/series"):  # the control
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    load.check_series_files(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("{quilt: debian", "{quilts: debian"),
            ("unknown key 'quilts'", "4:6 patches[2].quilts", "did you mean 'quilt'?"),
        ),
        (
            ("file: local/a.patch", "{pull: 7, file: a.patch}"),
            ("give exactly one of `pull`, `file`, `quilt`", "3:5 patches[1]", ""),
        ),
        (("file: local/a.patch", "pull: 7"), ("`pull` and `url` go together", "3:5 patches[1]", "")),
        (
            ("https://", "git@"),
            (
                (
                    "`url` must be a URL with https://, http:// or file:// and no spaces or quotes, "
                    "got the string 'git@example.org/pull/988.patch'"
                ),
                "2:22 patches[0].url",
                "url: Its mailbox (.patch).",
            ),
        ),
        (
            ("file: local/a.patch", "{pull: 988, url: https://example.org/b}"),
            ("`pull: 988` is here twice; first in line 2", "3:12 patches[1].pull", "remove one of them"),
        ),
        (
            (SERIES, "patches: [{file: a}, {file: a}]"),
            ("`file: a` is here twice; first in line 1", "1:29 patches[1].file", "remove one of them"),
        ),
        (
            ("quilt: debian", "file: local/a.patch"),
            (
                "`file: local/a.patch` is here twice; first in line 3",
                "4:12 patches[2].file",
                "remove one of them",
            ),
        ),
    ],
)
def test_series_refusal(change: tuple[str, str], expected: tuple[str, str, str]) -> None:
    assert _series_refusal(change) == expected


# The files of this repository.


def test_matrix_yaml() -> None:
    started = time.process_time()
    spec = load.load(MATRIX)
    assert spec.hardware["R620"].cpus == ("sandybridge", "ivybridge")
    assert time.process_time() - started < 2


def test_load_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load.load(tmp_path / "matrix.yaml")
    assert caught.value.lines() == [
        "error: there is no such file",
        f"  where: {tmp_path / 'matrix.yaml'}",
        "  hint: run from the folder that has it, or name another file",
    ]


def _mutations(text: str, count: int) -> Iterator[str]:
    """`text` with one to four accidents each: characters, words and lines lost, doubled or replaced."""
    chance = random.Random(20240229)
    pieces = [
        "\t",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "'",
        '"',
        "&a ",
        "*a",
        "!x ",
        "<<: ",
        "#",
        "|",
        ">",
        "%",
        "@",
    ]
    pieces += [
        "null",
        "on",
        "1e9",
        "-1",
        "0x10",
        "22.10",
        "all",
        "*",
        "..",
        "/",
        "\x00",
        "\ud800",
        "é",
        "\ufeff",
    ]
    pieces += ["{conf}", "(", "a" * 300, "?" * 9, "\u2028", "\x85", "\r", "\n", "---\n"]
    for _ in range(count):
        mutant = text
        for _ in range(chance.randint(1, 4)):
            at, to = sorted(chance.randrange(len(mutant)) for _ in range(2))
            lines = mutant.split("\n")
            line = chance.randrange(len(lines))
            match chance.randrange(7):
                case 0:
                    mutant = mutant[:at] + chance.choice(pieces) + mutant[at:]
                case 1:
                    mutant = mutant[:at] + mutant[at + chance.randint(1, 9) :]
                case 2:
                    mutant = "\n".join([*lines[:line], *lines[line + 1 :]])
                case 3:
                    mutant = "\n".join([*lines[: line + 1], *lines[line:]])
                case 4:
                    lines[line] = " " * chance.randint(0, 9) + lines[line].strip()
                    mutant = "\n".join(lines)
                case 5:
                    words = list(re.finditer(r"[^\s:,\[\]{}]+|$", mutant))
                    word = chance.choice(words)
                    mutant = mutant[: word.start()] + chance.choice(pieces) + mutant[word.end() :]
                case _:
                    mutant = mutant[:at] + mutant[to:] if to - at < 2000 else mutant[: at + 1]
            mutant = mutant or " "
        yield mutant


def test_accidents_end_in_an_error_or_in_a_specification() -> None:
    refused = 0
    for number, mutant in enumerate(_mutations(MATRIX.read_text(encoding="utf-8"), 300)):
        started = time.process_time()
        try:
            load.parse(mutant, file="matrix.yaml")
        except ConfigError as error:
            refused += 1
            lines = error.lines()
            assert all(line and "\n" not in line and len(line) < 1000 for line in lines), (number, lines)
            assert error.where.startswith("matrix.yaml"), (number, lines)
        assert time.process_time() - started < 5, number
    assert 150 < refused < 300  # neither a test of the syntax alone, nor of nothing


def test_a_large_file_of_nonsense_is_refused_in_time() -> None:
    for text in ("".join(f"k{number}: 1\n" for number in range(90_000)), "hardware:\n" + "- 1\n" * 200_000):
        started = time.process_time()
        with pytest.raises(ConfigError):
            load.parse(text, file="matrix.yaml")
        assert time.process_time() - started < 30


# The schemas.


@pytest.mark.parametrize("path", sorted(upkeep.schema_texts()))
def test_schemas_are_those_of_the_models(path: str) -> None:
    """After a change of the models: `invoke schema`."""
    assert (ROOT / path).read_text(encoding="utf-8") == upkeep.schema_texts()[path]


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value)


@pytest.mark.parametrize("schema", [model.matrix_schema(), model.series_schema()], ids=["matrix", "series"])
def test_every_property_is_described(schema: dict[str, Any]) -> None:
    for part in [schema, *schema["$defs"].values()]:
        for name, entry in part["properties"].items():
            referred = schema["$defs"].get(entry.get("$ref", "").rpartition("/")[2], {})
            described = entry.get("description") or referred["description"]
            assert len(described) > 5, name


@pytest.mark.parametrize("schema", [model.matrix_schema(), model.series_schema()], ids=["matrix", "series"])
def test_every_pattern_has_words(schema: dict[str, Any]) -> None:
    patterns = {entry["pattern"] for entry in _objects(schema) if isinstance(entry.get("pattern"), str)}
    patterns |= {key for entry in _objects(schema) for key in entry.get("patternProperties", {})}
    assert patterns
    assert patterns <= diagnostics.PATTERN_WORDS.keys()


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def _fits(value: Any, schema: dict[str, Any], top: dict[str, Any]) -> bool:
    """Whether `value` is as `schema` says, for the keywords that ours use; any other fails."""
    checks: dict[str, Any] = {
        "$ref": lambda ref: _fits(value, top["$defs"][ref.rpartition("/")[2]], top),
        "anyOf": lambda members: any(_fits(value, member, top) for member in members),
        "type": lambda kind: isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)),
        "enum": lambda values: value in values,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minLength": lambda limit: not isinstance(value, str) or len(value) >= limit,
        "maxLength": lambda limit: not isinstance(value, str) or len(value) <= limit,
        "minItems": lambda limit: not isinstance(value, list) or len(value) >= limit,
        "minProperties": lambda limit: not isinstance(value, dict) or len(value) >= limit,
        "maxProperties": lambda limit: not isinstance(value, dict) or len(value) <= limit,
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "exclusiveMinimum": lambda limit: value > limit,
        "exclusiveMaximum": lambda limit: value < limit,
        "items": lambda item: not isinstance(value, list) or all(_fits(each, item, top) for each in value),
        "required": lambda keys: not isinstance(value, dict) or set(keys) <= value.keys(),
        "propertyNames": lambda part: not isinstance(value, dict) or all(_fits(key, part, top) for key in value),
        "additionalProperties": lambda part: all(
            part is not False and _fits(value[key], part, top) for key in _others(value, schema)
        ),
        "properties": lambda parts: all(_fits(value[key], part, top) for key, part in parts.items() if key in value),
        "patternProperties": lambda parts: all(
            _fits(value[key], part, top) for pattern, part in parts.items() for key in value if re.search(pattern, key)
        ),
    }
    silent = {"$schema", "$defs", "title", "description", "default"}
    if "type" in schema and not checks["type"](schema["type"]):
        return False
    return all(checks[keyword](argument) for keyword, argument in schema.items() if keyword not in silent)


def _others(value: Any, schema: dict[str, Any]) -> list[str]:
    patterns = schema.get("patternProperties", {})
    named = schema.get("properties", {})
    return [key for key in value if key not in named and not any(re.search(pattern, key) for pattern in patterns)]


def _schema_says(text: str) -> bool:
    data = json.loads(json.dumps(yaml_text.parse(text, file="matrix.yaml").data))  # lists for tuples
    schema = json.loads((ROOT / "matrix.schema.json").read_text(encoding="utf-8"))
    return _fits(data, schema, schema)


def test_the_schema_accepts_matrix_yaml() -> None:
    assert _schema_says(MATRIX.read_text(encoding="utf-8"))
    assert _schema_says(TEXT)


@pytest.mark.parametrize(
    "name",
    [
        "unknown key, close to one",
        "missing key",
        "number for a string",
        "string for a list",
        "a name's characters",
        "a path's beginning",
        "empty list",
        "too large a number",
        "one of a few words, close to one",
        "value deep in a reply",
    ],
)
def test_the_schema_refuses_what_the_models_refuse(name: str) -> None:
    assert not _schema_says(_changed(TEXT, REFUSALS[name][0]))


# Names that machines have of their own.


@pytest.mark.parametrize("name", ["ProLiant DL380 Gen9", "PowerEdge R740xd", "System x3650 M5: -[8871AC1]-", "X" * 128])
def test_dmi_names_are_taken_as_they_are(name: str) -> None:
    spec = load.parse(_changed(TEXT, ("  R640: {cpus", f'  R640: {{dmi: ["{name}"], cpus')), file="matrix.yaml")
    assert (spec.hardware["R640"].dmi, spec.hardware["R620"].dmi) == ((name,), ())


@pytest.mark.parametrize(
    "name",
    [
        "''", "' x'", "'x '", "'a  b'", "it''s", "'it''s'", r'"a\tb"', r'"a\nb"', r'"a\"b"', r"'a\b'", "a$b", "a`b",
        "ä", r'"\e[0m"',
    ],
)  # fmt: skip
def test_dmi_names_that_a_script_could_mistake_are_refused(name: str) -> None:
    error = _refusal(("  R640: {cpus", f"  R640: {{dmi: [{name}], cpus"))
    message, place, _ = _single(error)
    assert place == "27:16 hardware.R640.dmi[0]"
    assert "a DMI product name is written as /sys/class/dmi/id/product_name has it" in message


def test_dmi_names_have_a_length() -> None:
    message, place, _ = _single(_refusal(("  R640: {cpus", f"  R640: {{dmi: [{'X' * 129}], cpus")))
    assert (place, "must not be longer than 128 characters" in message) == ("27:16 hardware.R640.dmi[0]", True)
