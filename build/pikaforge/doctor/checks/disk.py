"""Whether there is room for results, packages and images."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.figures import IMAGE, PACKAGES, RESULT, TOOLS
from pikaforge.doctor.finding import Diagnosis
from pikaforge.host.disk import LEAST, Space
from pikaforge.host.text import size_text
from pikaforge.plan.matrix import all_cells

STOPS = {
    "results": "every stage: it ends with `no space left`",
    "packages": "the end of a build: packages are written there",
    "images": "the image stage, and every job: containers are there, too",
}
MEND = {
    "results": "`nox -s tool -- cache clean` removes stored results and downloads; --out names another folder",
    "packages": "--dist names another folder",
    "images": "`invoke images.remove` removes this tool's images; `docker system df` shows what else takes space",
}


class DiskCheck:
    """Free room, against what the wanted images and their cells need."""

    name = "disk"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield a finding for each folder. Folders of one file system must fit into its room together."""
        wanted = _wanted(facts)
        for room in facts.rooms:
            if room.free is None:
                continue
            there = [other for other in facts.rooms if other.device == room.device and other.free is not None]
            need = sum(wanted[other.what] for other in there)
            yield self._finding(room, need, sorted(other.what for other in there if other is not room))

    def _finding(self, room: Space, need: int, others: list[str]) -> Diagnosis:
        assert room.free is not None
        where = f"{room.folder}: {size_text(room.free)} free"
        shared = f", together with {' and '.join(others)}" if others else ""
        wants = f"a first build of what is wanted takes about {size_text(need)}{shared}"
        if not room.writable:
            state, says, mend = (
                "lacking",
                f"{room.folder} cannot be written by this user",
                "--out and --dist name others",
            )
        elif room.free < LEAST:
            state, says, mend = "lacking", where, MEND[room.what]
        elif room.free < need:
            state, says, mend = "warning", f"{where}; {wants}", MEND[room.what]
        else:
            return Diagnosis(check=self.name, subject=room.what, state="ok", says=f"{where}; {wants}")
        return Diagnosis.model_validate(
            {
                "check": self.name,
                "subject": room.what,
                "state": state,
                "says": says,
                "stops": STOPS[room.what],
                "mend": (mend,),
            }
        )


def _wanted(facts: Facts) -> dict[str, int]:
    """Return how many bytes a build of the wanted images takes, by what a folder is for."""
    if facts.spec is None:
        return dict.fromkeys(STOPS, LEAST)
    cells = [
        cell
        for cell in all_cells(facts.spec)
        if cell.image in facts.images and cell.allocator == facts.spec.images[cell.image].allocator and not cell.problem
    ]
    return {
        "results": RESULT * len({cell.group for cell in cells}),
        "packages": PACKAGES * len(cells),
        "images": TOOLS + IMAGE * len(facts.images),
    }


CHECK = DiskCheck()
