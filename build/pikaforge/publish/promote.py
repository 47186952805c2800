"""Promotion: packages of one root are published in another, without building or packing them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import PublishError
from pikaforge.host.leftovers import temporary_folder
from pikaforge.pipeline.report_record import CellRecord
from pikaforge.publish.diff import Item
from pikaforge.publish.publisher import Source, moment
from pikaforge.publish.root_report import REPORT, REPORT_LIMIT, records
from pikaforge.publish.sites.site import Site
from pikaforge.publish.state import CATALOGUE, STATE, STATE_LIMIT, Artifact, File, read_catalogue, read_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Packages of another site, to be published as they are."""

    items: tuple[Item, ...]
    records: tuple[CellRecord, ...]
    """What the other site's build report has of their cells."""
    origin: Site

    @contextmanager
    def source(self) -> Iterator[Source]:
        """Yield a source that fetches files from the other site when they are needed."""
        with temporary_folder("promote") as scratch:

            def fetch(place: str, file: File) -> Path:
                into = Path(scratch) / file.sha256
                if not into.exists():
                    self.origin.fetch(file, place, into)
                return into

            yield fetch


def promotion(origin: Site, wanted: Callable[[Artifact], bool]) -> Promotion:
    """Return the wanted packages of another site's current generations.

    Raises:
        PublishError: there are none.
    """
    catalogue = read_catalogue(origin.read(CATALOGUE, limit=STATE_LIMIT), where=f"{origin.where}: {CATALOGUE}")
    if catalogue is None:
        raise PublishError("there is nothing to promote", where=origin.where, hint="publish to it first")
    now = moment()
    items = []
    for repository in catalogue.repositories:
        # The state decides: the catalogue may be behind, if a publisher was killed between the two.
        path = f"{repository.path}/{STATE}"
        state = read_state(origin.read(path, limit=STATE_LIMIT), where=f"{origin.where}: {path}")
        items += [
            Item(
                product=catalogue.product,
                image=repository.image,
                model=repository.model,
                artifact=artifact.model_copy(update={"published": now}),
            )
            for artifact in (state.listed() if state else ())
            if wanted(artifact)
        ]
    if not items:
        raise PublishError(
            "nothing that is published there is selected", where=origin.where, hint="see its index page, or repo.json"
        )
    cells = {item.artifact.cell for item in items}
    known = records(origin.read(REPORT, limit=REPORT_LIMIT))
    return Promotion(items=tuple(items), records=tuple(each for each in known if each.id in cells), origin=origin)
