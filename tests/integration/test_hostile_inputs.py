"""Mutated inputs for every reader: no traceback, no control of a terminal, no file elsewhere, little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from thorough import whole

import pikaforge

INPUTS, ALL_INPUTS = 2000, 10_000
READERS = {"rpm", "deb", "tar", "wheel", "nested", "elf", "json", "yaml", "patches", "resp", "http"}
MEMORY = 256 << 10
"""KiB, of which Python and the modules of all readers take a quarter."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pikaforge.__file__).parents[1])}
PROGRAM = Path(__file__).parents[1] / "hostile.py"


def test_no_input_does_harm(tmp_path: Path) -> None:
    """The seed is fixed, so that a failure can be repeated: `python tests/hostile.py SEED COUNT FOLDER`."""
    folder = tmp_path / "inner"
    folder.mkdir()
    count = ALL_INPUTS if whole("fuzz") else INPUTS
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "1", str(count), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bad"] == []
    assert sum(found["ends"].values()) == count
    assert {name.split()[0] for name in found["ends"]} == READERS
    # It proves nothing if all of them are refused at their first byte, or none is refused.
    assert READERS - {"wheel"} <= {name.split()[0] for name in found["ends"] if name.endswith(" read")}
    refused = {name.split()[0] for name in found["ends"] if name.endswith(" refused")}
    assert refused >= READERS - {"elf", "json", "patches"}
    assert found["left"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert found["peak"] < MEMORY


JSON = """
import sys
from pathlib import Path
from pikaforge.attest.claims import ClaimError, parse, parse_statement
from pikaforge.formats.manifest import Manifest
for part, times in (("0,", 1 << 21), ("[],", 1 << 20), ("{},", 1 << 20), ("[", 1 << 22)):
    for text in ("[" + part * times + "0]", '{"contents":[' + part * times + "0]}"):
        try:
            parse(Manifest, text.encode())
            print("read")
        except ClaimError as error:
            print(error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_json_of_some_mib_takes_no_memory() -> None:
    """Each wrong value of a model is an error of 2 kB: 4 MiB of JSON took 3 GB."""
    done = subprocess.run([sys.executable, "-c", JSON], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    *said, peak = done.stdout.splitlines()
    assert set(said) == {"it cannot be read: it has more than 80000 values"}
    assert int(peak) < MEMORY
