"""The index page of a published root: `index.html`, for people.

The same catalogue and lines give the same bytes: there is no clock in it.
"""

from __future__ import annotations

from pikaforge.pages.notation import moment, natural
from pikaforge.pages.page import render
from pikaforge.pipeline.report_page import page as report_page
from pikaforge.publish.page_data import SHOWN, Fleet, Install, formats, page_data
from pikaforge.publish.state import CATALOGUE, Catalogue


def page(catalogue: Catalogue, install: Install, fleet: Fleet) -> str:
    """Return the text of `index.html`.

    Args:
        catalogue: what is published.
        install: returns the lines to copy for an artifact.
        fleet: returns the lines to copy for all models of an image.

    Raises:
        HostError: Jinja2 is missing.
    """
    repositories = catalogue.repositories
    data = page_data(catalogue, install, fleet)
    present = {artifact.format for repository in repositories for artifact in repository.artifacts}
    return render(
        "index",
        {"data": data.model_dump(mode="json", by_alias=True, exclude_none=True)} if present else {},
        catalogue=catalogue,
        data=data,
        data_file=CATALOGUE,
        older=any(each.older for image in data.images for each in image.repositories),
        shown=SHOWN,
        report_page=report_page.NAME,
        files=sum(len(repository.artifacts) for repository in repositories),
        repositories=len(repositories),
        newest=max((moment(repository.published) for repository in repositories), default=""),
        models=sorted({repository.model for repository in repositories}, key=natural),
        images=sorted({repository.image for repository in repositories}, key=natural),
        formats=[kind.name for kind in formats() if kind.name in present],
    )
