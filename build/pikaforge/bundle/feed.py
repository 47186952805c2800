"""Fills the caches of a build from an unpacked bundle, each by its own interface. What is there already stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pikaforge.bundle.contents import BundledImage, Contents, contents_of
from pikaforge.bundle.listing import DAMAGED
from pikaforge.bundle.reader import is_whole, read_listing
from pikaforge.errors import BundleError, ConfigError
from pikaforge.host import image_archive
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import Downloads, PinnedFile
from pikaforge.host.git_cache import Cache
from pikaforge.host.store import Store
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.base_image import REPOSITORY
from pikaforge.pipeline.image.building import OWN, STAGE_NAME
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.plan.cells import Cell


def check_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Raise ConfigError if cells are not among those that an unpacked bundle serves."""
    served = read_listing(folder).cells
    missing = [cell.id for cell in cells if cell.id not in served]
    if missing:
        raise ConfigError(
            f"the bundle does not have what these cells need: {', '.join(missing[:20])}",
            where=str(folder),
            hint=f"it serves {', '.join(served[:20])}{' and more' if len(served) > 20 else ''}\n"
            "make one for them where there is a network: nox -s bundle -- SELECTOR",
        )


def fill(folder: Path, workspace: Workspace, cells: Sequence[Cell], notice: Callable[[str], None]) -> None:
    """Fill the caches of a workspace.

    Args:
        folder: of the unpacked bundle.
        workspace: its out/ and its engine get what the bundle has.
        cells: what is to be built: images of others are not loaded.
        notice: gets, in one line, what is done.

    Raises:
        BundleError: a file is not what the manifest says.
        HostError: the engine cannot take an image.
    """
    listing = read_listing(folder)
    if not is_whole(folder, listing):
        raise BundleError(
            "files of the unpacked bundle are not what its manifest says", where=str(folder), hint=DAMAGED
        )
    contents = contents_of(listing, str(folder))
    names = {member.name for member in listing.members}
    _downloads(folder, names, contents, workspace)
    cache = Cache(workspace.out / "git", notice=notice)
    for each in contents.commits:
        cache.add(each.url, each.commit, _member(folder, names, f"git/{each.pack}"), each.ends)
    engine = workspace.engine
    if isinstance(engine, DockerEngine):
        labels = {*OWN, *(cell.image for cell in cells)}
        _images(folder, names, [image for image in contents.images if image.label in labels], engine, notice)
        _results(folder, names, contents, labels, workspace)


def _member(folder: Path, names: Collection[str], name: str) -> Path:
    """Return the path of a member; the manifest says of no other file what it has to be."""
    if name not in names:
        raise BundleError(f"the bundle lacks {name!r:.200}", where=str(folder), hint=DAMAGED)
    return folder / name


def _downloads(folder: Path, names: Collection[str], contents: Contents, workspace: Workspace) -> None:
    downloads = Downloads(workspace.out / "downloads")
    for each in contents.downloads:
        path = _member(folder, names, f"downloads/{each.name}")
        downloads.get(PinnedFile(name=each.name, url=path.absolute().as_uri(), sha256=each.sha256))


def _images(
    folder: Path,
    names: Collection[str],
    images: Sequence[BundledImage],
    engine: DockerEngine,
    notice: Callable[[str], None],
) -> None:
    wanted: dict[str, image_archive.SavedImage] = {}
    for image in images:
        if not image.tag.startswith(f"{REPOSITORY}/"):
            raise BundleError(
                f"the bundle has an image for the name {image.tag!r:.100}, which is not one of this tool",
                where=str(folder),
            )
        for digest in (image.config, *image.layers):
            _member(folder, names, f"images/{digest}")
        saved = image_archive.SavedImage(config=image.config, layers=image.layers)
        image_archive.check(saved, folder / "images")
        held = engine.image(image.tag)
        if held is None or held.id != f"sha256:{image.config}":
            wanted[image.tag] = saved
    if wanted:
        notice(f"loads {len(wanted)} of {len(images)} images of the bundle into the engine")
        engine.load(image_archive.put_together(wanted, folder / "images"))


def _results(
    folder: Path, names: Collection[str], contents: Contents, labels: Collection[str], workspace: Workspace
) -> None:
    """Put the results of the image stage into the store.

    They name images by the engine's id. Some engines have other ids than docker for the same image.
    """
    engine = workspace.engine
    assert isinstance(engine, DockerEngine)
    given = Store(folder / "store")
    for each in contents.results:
        _member(folder, names, f"store/{STAGE_NAME}/{each.key}/result.json")
        found, bad = given.get(STAGE_NAME, each.key)
        if found is None:
            raise BundleError(
                f"the result of the image {each.label} is damaged: {bad}", where=str(folder), hint=DAMAGED
            )
        if each.label not in labels:
            continue
        facts = found.read(ImageStageFacts)
        here = {tag: engine.image(tag) for tag in facts.ids}
        ids = {tag: image.id for tag, image in here.items() if image is not None}
        stored, _ = workspace.store.get(STAGE_NAME, each.key)
        if stored is not None and stored.read(ImageStageFacts).ids == ids:
            continue
        workspace.store.drop(STAGE_NAME, each.key)
        with workspace.store.scratch() as scratch:
            copies = {name: Path(shutil.copy2(path, scratch / name)) for name, path in found.files.items()}
            changed = facts.model_copy(update={"ids": ids})
            workspace.store.put(STAGE_NAME, each.key, identity=found.identity, facts=changed, files=copies)
