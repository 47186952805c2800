"""Audit every program and library that Debian's packages put into a machine, and compare with objdump, file by file.

    python benchmarks/sweep_debian.py [--target T] [--only TEXT] [--every N] [--no-objdump] [--cache FOLDER]
                                      [--json FILE] [--table FILE] [FOLDER ...]

Each ELF file for x86-64 is audited alone, without waivers, as `pikaforge audit FILE` does it. The script prints which
files are refused and why, and what was accepted as dispatched. Then `objdump -d` disassembles the file, and a table of
patterns over its text, which is for sandybridge and shares nothing with the audit's decoder, counts the instructions
beyond the target. Where the audit counted fewer of a kind, the difference is printed with the addresses that are in no
finding, and with what the audit makes of the first ones. The exit status is 1 if more than 1 % of the files are
refused, or if objdump alone has seen an instruction that is not explained.

Most of the time is objdump's. `--cache` keeps what it has shown, by the digest of each file, for the next sweep.
`--table` writes the results as docs/debian.md has them.
"""

# a script: it prints, and it runs objdump
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build"))

from pikaforge.audit.allowed_features import Allowed, free, from_gcc
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.elf.executable import executable
from pikaforge.audit.elf.layout import EM_X86_64, ET_DYN, ET_EXEC, Buffer, is_elf, mapped, read_layout
from pikaforge.audit.isa.decode import code_regions
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.ranges import NOWHERE, TABLE, CodeMap, read_map
from pikaforge.errors import ForgeError

FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/gcc", "/usr/libexec")
PACKAGED = Path("/var/lib/dpkg/info")
SHARE = 0.01
"""Share of the files that may be refused."""
SHOWN = 6
LINE = 200
"""Letters of a reason in the table."""
FIRST = "; first at 0x"
"""What lines about instructions have in them."""
EXPLAINED = 4
"""Instructions of one kind in one file that are looked at, if objdump alone has seen them."""
OUT_OF_STEP = "objdump is out of step: no instruction begins there"
OTHER = "the audit decodes it, and the target has it"
OPEN = "not explained"
EACH = 20
"""Results after which they are written: the work may take half an hour."""

# ---- objdump: for each kind of instruction beyond sandybridge a pattern of mnemonics, and one of operands
EVEX = r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])|\{1to"
VECTORS = "avx2 and avx512"
"""One kind: the text of some instructions does not say whether their code is VEX or EVEX."""
KINDS: tuple[tuple[str, str, str], ...] = (
    (VECTORS, r"[a-z0-9]+", EVEX),
    ("bmi", r"andn|bextr|blsi|blsr|blsmsk|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx", ""),
    (VECTORS, r"vpdp[a-z]+|vpmadd52[a-z]+", ""),
    ("lzcnt", "lzcnt", ""),
    ("tzcnt", "tzcnt", ""),
    ("fma", r"vfn?m(add|sub|addsub|subadd)[a-z0-9]+", ""),
    ("f16c", r"vcvtph2ps|vcvtps2ph", ""),
    ("aes", r"v?aes(enc|dec|imc|keygen)[a-z]*", ""),
    ("gfni", r"v?gf2p8[a-z]+", ""),
    ("vpclmul", r"vpclmul[a-z]+", "%ymm"),
    ("sha", r"sha(1|256)[a-z0-9]+", ""),
    (VECTORS, (r"vpbroadcast[a-z0-9]+|vbroadcasti128|vps[lr][la]v[dq]|v(p?)gather[a-z]+|vpmaskmov[dq]|vpblendd|"
             r"vperm2i128|vinserti128|vextracti128|vperm(q|d|ps|pd)"), ""),
    (VECTORS, r"vbroadcasts[sd]", r"^%xmm"),
    ("", r"vptest|vperm2f128|vpermilp[sd]|vpermil2p[sd]", ""),
    (VECTORS, r"vp[a-z0-9]+|vmpsadbw|vmovntdqa", "%ymm"),
    ("movbe", r"movbe[wlq]?", ""),
    ("adx", r"ad[co]x[lq]?", ""),
    ("rdrand", r"rdrand|rdseed", ""),
    ("fsgsbase", r"(rd|wr)[fg]sbase[lq]?", ""),
    ("tsx", r"xbegin[lq]?|xend|xabort|xtest", ""),
    ("shadow stacks", r"incssp[dq]|rstorssp|saveprevssp|wruss[dq]|wrss[dq]|setssbsy|clrssbsy", ""),
    ("xsaves", r"xsave[cs](64)?|xrstors(64)?", ""),
    ("cache", r"clflushopt|clwb|clzero", ""),
    ("amd", (r"llwpcb|slwpcb|lwp[a-z]+|vpcom[a-z]+|vprot[bwdq]|vpsh[al][bwdq]|vpcmov|vpperm|vfrcz[a-z]+|extrq|insertq|"
            r"movnts[sd]|femms|pf[a-z0-9]+|pi2f[dw]|monitorx|mwaitx|rdpru|bl(cfill|ci|cic|cmsk|cs|sfill|sic)|t1mskc|"
            r"tzmsk"), ""),
    ("others", (r"rdpid|rdpkru|wrpkru|umwait|umonitor|tpause|movdiri|movdir64b|serialize|enqcmds?|ptwrite[lq]?|"
               r"clui|stui|testui|senduipi|uiret|tdp[a-z0-9]+|ldtilecfg|sttilecfg|tile[a-z0-9]+"), ""),
)  # fmt: skip
ALIKE = {
    "bmi1": "bmi", "bmi2": "bmi", "rdseed": "rdrand", "rtm": "tsx", "hle_or_rtm": "tsx", "cet_ss": "shadow stacks",
    "xsavec": "xsaves", "clflushopt": "cache", "clwb": "cache", "clzero": "cache", "vaes": "aes",
    "vpclmulqdq": "vpclmul", "d3now": "amd", "d3nowext": "amd", "xop": "amd", "lwp": "amd", "sse4a": "amd",
    "fma4": "fma", "tbm": "amd", "monitorx": "amd", "rdpru": "amd",
    "rdpid": "others", "pku": "others", "waitpkg": "others", "movdiri": "others",
    "movdir64b": "others", "serialize": "others", "enqcmd": "others", "ptwrite": "others", "uintr": "others",
    "amx_tile": "others", "amx_int8": "others", "amx_bf16": "others", "avx_vnni": VECTORS, "avx_ifma": VECTORS,
}  # fmt: skip
"""Our names of kinds, by the audit's features."""
PREFIX = re.compile(r"^((\{[a-z0-9]+\}|rep[nz]*|lock|notrack|bnd|data16|addr32|[c-gs]s|rex[.A-Z]*) )*")


@dataclass
class Result:
    """The result for one file."""

    path: str
    refused: list[str] = field(default_factory=list)
    dispatched: list[str] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    """Instructions beyond the target by kind, as the audit counted them."""
    places: set[tuple[str, str]] = field(default_factory=set)
    """Functions with such instructions, and the kind."""
    seen: dict[str, list[int]] = field(default_factory=dict)
    """Addresses of the instructions that objdump shows, by kind."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Their number, by kind."""
    explained: dict[str, list[str]] = field(default_factory=dict)
    """What the audit makes of the first ones that are in no finding, by kind."""
    size: int = 0
    executable: int = 0
    """All executable bytes; `decoded`, `data` and `unclassified` are a part of them each."""
    decoded: int = 0
    data: int = 0
    unclassified: int = 0
    unproven: int = 0
    seconds: float = 0.0
    problem: str = ""


def elves(folders: Iterable[str], only: str) -> Iterator[Path]:
    """Yield the ELF files for x86-64 below some folders that are in Debian's packages, each once."""
    tops = tuple(f"{folder}/" for folder in folders)
    seen: set[tuple[int, int]] = set()
    lines = {line for info in PACKAGED.glob("*.list") for line in info.read_text(errors="replace").split("\n")}
    for name in sorted(os.path.realpath(line) for line in lines if "/" in line):
        path = Path(name)
        if not name.startswith(tops) or only not in name or not path.is_file():
            continue
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen or status.st_size < 64:
            continue
        seen.add((status.st_dev, status.st_ino))
        with path.open("rb") as stream:
            if not is_elf(stream.read(4)):
                continue
        with mapped(path) as data:
            try:
                layout = read_layout(data, name)
            except ForgeError:
                continue
        if layout.machine == EM_X86_64 and layout.bits == 64 and layout.type in (ET_DYN, ET_EXEC):
            yield path


@lru_cache(maxsize=1)
def _allowed(target: str) -> Allowed:
    return from_gcc(target)


def audit(path: Path, target: str) -> Result:
    """Audit one file in this process."""
    start = time.process_time()
    out = Result(path=str(path))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            [found] = audit_paths(
                [path], Path(scratch), target=target, today=date.today(), allowed=_allowed(target), workers=1
            )
        except ForgeError as error:
            out.problem = error.message
            return out
    out.refused = [f"{line.what}" for line in found.violations]
    out.unproven = len(found.isa.unproven)
    out.dispatched = [entry.line() for entry in found.isa.dispatched]
    counted: Counter[str] = Counter()
    for finding in found.isa.findings:
        for name, count in finding.features:
            counted[_kind(name)] += count
            out.places.add((finding.function, _kind(name)))
    out.counted, out.size = dict(counted), found.isa.size
    for each in found.summaries:
        out.decoded, out.data = out.decoded + each.decoded, out.data + sum(each.data.values())
        out.unclassified += each.unclassified
    out.executable = sum(region.size for region in code_regions(path, str(path)))
    out.seconds = time.process_time() - start
    return out


def _kind(feature: str) -> str:
    return VECTORS if feature.startswith(("avx512", "avx2")) else ALIKE.get(feature, feature)


@lru_cache(maxsize=1)
def _kinds() -> tuple[tuple[str, re.Pattern[str], re.Pattern[str]], ...]:
    return tuple((kind, re.compile(names), re.compile(operands)) for kind, names, operands in KINDS)


def kind_of(shown: str) -> str:
    """Return the kind of an instruction in AT&T syntax; empty for one that sandybridge has."""
    name, _, operands = PREFIX.sub("", shown).partition(" ")
    operands = operands.partition("#")[0].partition("<")[0].strip()
    found = (kind for kind, names, wanted in _kinds() if names.fullmatch(name) and wanted.search(operands))
    return next(found, "")


def disassemble(path: Path, result: Result) -> None:
    """Add what objdump shows of a file."""
    # grep leaves out nine of ten lines, in C; the mnemonic follows the address and its prefixes.
    names = "|".join(mnemonics for kind, mnemonics, operands in KINDS if kind and (not operands or operands == "%ymm"))
    coarse = rf"[\t ]({names})( |$)|vbroadcasts|{EVEX}"
    with (
        subprocess.Popen(["objdump", "-d", "-w", "--no-show-raw-insn", str(path)], stdout=subprocess.PIPE) as dump,
        subprocess.Popen(
            ["grep", "-P", coarse], stdin=dump.stdout, stdout=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
        ) as lines,
    ):
        assert lines.stdout is not None
        for raw in lines.stdout:
            address, _, shown = raw.decode("ascii", "replace").strip().partition(":\t")
            kind = kind_of(shown) if shown else ""
            if kind:
                result.numbers[kind] = result.numbers.get(kind, 0) + 1
                result.seen.setdefault(kind, []).append(int(address, 16))


def outside(path: Path, result: Result, target: str) -> None:
    """Keep those addresses that are in no function with a finding of their kind, and explain the first ones."""
    with mapped(path) as data:
        layout = read_layout(data, str(path))
        code = read_map(data, layout, executable(data, layout, str(path)), str(path))
        result.seen = {
            kind: [at for at in places if (code.name(code.at(at)), kind) not in result.places]
            for kind, places in result.seen.items()
        }
        for kind, places in result.seen.items():
            if places:
                result.explained[kind] = [_explained(data, code, at, target) for at in places[:EXPLAINED]]


def _explained(data: Buffer, code: CodeMap, address: int, target: str) -> str:
    """Return what the audit makes of an address at which objdump shows an instruction."""
    from iced_x86 import Decoder  # noqa: PLC0415

    piece = code.at(address)
    if piece == NOWHERE:
        return "in what the file claims to be data"
    if code.kinds[piece] == TABLE:
        return "in a table before a function, to which no code leads"
    start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
    for step in Decoder(64, bytes(data[offset : offset + end - start]), ip=start):
        if step.ip == address:
            beyond = {*features_by_code()[step.code]} - _allowed(target).sure - free()
            return OPEN if beyond else OTHER
        if step.ip > address:
            break
    return OUT_OF_STEP


def _kept(path: Path, folder: Path) -> Path:
    with path.open("rb") as stream:
        return folder / f"{hashlib.file_digest(stream, 'sha256').hexdigest()}.json"


def _one(path: Path, target: str, objdump: bool, cache: Path | None) -> Result:
    result = audit(path, target)
    if not objdump or result.problem:
        return result
    kept = _kept(path, cache) if cache else None
    if kept is not None and kept.is_file():
        result.numbers, result.seen = json.loads(kept.read_text(encoding="utf-8"))
    else:
        disassemble(path, result)
        if kept is not None:
            kept.write_text(json.dumps([result.numbers, result.seen]), encoding="utf-8")
    outside(path, result, target)
    return result


def main() -> int:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--target", default="sandybridge")
    parser.add_argument("--only", default="", help="only files whose path holds this text")
    parser.add_argument("--no-objdump", action="store_true")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write the results of all files there")
    parser.add_argument("--every", type=int, default=1, help="only each n-th file")
    parser.add_argument("--cache", type=Path, help="keep what objdump shows there")
    parser.add_argument("--table", type=Path, help="write the results as a document there")
    given = parser.parse_args()
    if given.cache:
        given.cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # The largest ones first, so that none is left alone at the end.
    paths = sorted(elves(given.folders, given.only), key=lambda p: -p.stat().st_size)[:: given.every]
    results: list[Result] = []
    with ProcessPoolExecutor(given.workers) as pool:
        tasks = [pool.submit(_one, p, given.target, not given.no_objdump, given.cache) for p in paths]
        for number, task in enumerate(as_completed(tasks), 1):
            results.append(task.result())
            if sys.stderr.isatty():
                print(f"\r{number}/{len(tasks)}", end="", file=sys.stderr)
            if given.json and number % EACH in (0, len(tasks) % EACH):
                given.json.write_text(json.dumps([{**vars(r), "places": sorted(r.places)} for r in results]))
    minutes = (time.monotonic() - began) / 60
    if given.table:
        given.table.write_text(table(results, given.target, minutes), encoding="utf-8")
    return report(results, given.target)


def alone(result: Result) -> dict[str, tuple[int, int, list[str]]]:
    """Return what objdump alone has seen in a file: by kind the number, how many it has seen at all, and what it is."""
    found = {}
    for kind, number in sorted(result.numbers.items()):
        left = max(number - result.counted.get(kind, 0), len(result.seen[kind]))
        if left > 0:
            why = result.explained.get(kind, ["counted fewer in a function with findings"])
            found[kind] = (left, number, list(dict.fromkeys(why)))
    return found


def table(results: list[Result], target: str, minutes: float) -> str:
    """Return the results as a document."""
    refused = sorted((r for r in results if r.refused), key=lambda r: r.path)
    differing = [(r, found) for r in sorted(results, key=lambda r: r.path) if (found := alone(r))]
    pairs = [(r.numbers, r.counted) for r in results] or [({}, {})]
    seen, counted = (sum(sum(held.values()) for held in each) for each in zip(*pairs, strict=True))
    lines = [
        "# Debian's own files",
        "",
        f"`benchmarks/sweep_debian.py` writes this table. Each program and library of the packages of {_release()} was",
        f"audited alone for {target}, without waivers, and compared with `objdump -d`, in {minutes:.0f} minutes.",
        "",
        "| | |",
        "| --- | --- |",
        f"| files | {len(results):,} |",
        f"| MB of code | {sum(r.size for r in results) / 1e6:,.0f} |",
        f"| executable bytes | {sum(r.executable for r in results):,} |",
        f"| decoded | {_part(results, 'decoded')} |",
        f"| data, with evidence | {_part(results, 'data')} |",
        f"| unclassified | {_part(results, 'unclassified')} |",
        f"| files in which these three are not all executable bytes | {sum(1 for r in results if _lost(r))} |",
        f"| refused | {len(refused)} ({len(refused) / max(len(results), 1):.2%}) |",
        f"| with dispatched functions | {sum(1 for r in results if r.dispatched):,} |",
        f"| with something that is not proven | {sum(1 for r in results if r.unproven):,} |",
        f"| not judged | {sum(1 for r in results if r.problem)} |",
        f"| instructions beyond the target, by objdump | {seen:,} |",
        f"| the same, by the audit | {counted:,} |",
        f"| by objdump alone | {sum(n for _, found in differing for n, _, _ in found.values()):,} |",
        "",
        "## Refused",
        "",
    ]
    for result in refused:
        lines += [f"- `{result.path}`:"] + [f"  - {_plain(line)}" for line in result.refused[:SHOWN]]
        if len(result.refused) > SHOWN:
            lines.append(f"  - and {len(result.refused) - SHOWN} more")
    lines += ["None.", ""] if not refused else [""]
    lines += ["## By objdump alone", ""]
    groups: dict[str, list[str]] = defaultdict(list)
    for result, found in differing:
        for kind, (left, number, reasons) in found.items():
            groups["; ".join(reasons)].append(f"`{result.path}` ({left} of {number} {kind})")
    for why, places in sorted(groups.items()):
        lines += [f"- {why}:"] + [f"  - {place}" for place in places]
    lines += [] if groups else ["Nothing."]
    return "\n".join(lines) + "\n"


def _part(results: list[Result], name: str) -> str:
    """Return a sum of bytes, with its share of all executable bytes."""
    size = sum(getattr(r, name) for r in results)
    return f"{size:,} ({size / max(sum(r.executable for r in results), 1):.4%})"


def _lost(result: Result) -> int:
    """Return how many executable bytes of a file are not accounted for."""
    return 0 if result.problem else result.executable - result.decoded - result.data - result.unclassified


def _plain(line: str) -> str:
    return line[:LINE].replace("|", "/").replace("`", "'")


def _release() -> str:
    found = re.search(r'PRETTY_NAME="([^"]*)"', Path("/etc/os-release").read_text(encoding="utf-8"))
    return found[1] if found else "this machine"


def report(results: list[Result], target: str) -> int:
    """Print the results; return the exit status."""
    refused = [r for r in results if r.refused]
    missing = 0
    for result in sorted(refused, key=lambda r: r.path):
        print(f"refused {result.path}: {len(result.refused)} reasons")
        for line in result.refused[:SHOWN]:
            print(f"    {line[:300]}")
    for result in results:
        missing += abs(_lost(result))
        if _lost(result):
            print(f"bytes not accounted for in {result.path}: {_lost(result)}")
        if result.problem:
            print(f"not judged {result.path}: {result.problem}")
        for kind, (left, number, why) in alone(result).items():
            missing += left if OPEN in why or kind not in result.explained else 0
            places = " ".join(f"{at:#x}" for at in result.seen[kind][:SHOWN])
            print(f"objdump alone {result.path}: {left} of {number} {kind}; in no finding: {places}; {'; '.join(why)}")
    print(f"{len(results)} files, {sum(r.size for r in results) / 1e6:.0f} MB of code, target {target}")
    bytes_ = ", ".join(f"{name} {_part(results, name)}" for name in ("decoded", "data", "unclassified"))
    print(f"executable bytes: {sum(r.executable for r in results):,}; {bytes_}")
    share = len(refused) / max(len(results), 1)
    code = sum(1 for r in refused if any(FIRST in line for line in r.refused))
    print(f"refused for instructions: {code} ({code / max(len(results), 1):.2%})")
    print(f"refused: {len(refused)} ({share:.2%}); dispatched: {sum(1 for r in results if r.dispatched)}")
    seen = sum(sum(r.numbers.values()) for r in results)
    print(f"instructions beyond the target: objdump {seen}, audit {sum(sum(r.counted.values()) for r in results)}; "
          f"not explained: {missing}")  # fmt: skip
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"CPU: {sum(u.ru_utime + u.ru_stime for u in used):.0f} s; audit {sum(r.seconds for r in results):.0f} s")
    return int(share > SHARE or missing > 0)


if __name__ == "__main__":
    sys.exit(main())
