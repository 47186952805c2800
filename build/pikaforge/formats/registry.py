"""The formats of a package: what each is called, and how it is made from the same tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pikaforge.config.schema import FOREIGN, Format, Image, Spec
from pikaforge.formats import debuginfo
from pikaforge.formats.deb import product as debian
from pikaforge.formats.deb.control_files import Described as DescribedDeb
from pikaforge.formats.layout import Entry, tree_entries
from pikaforge.formats.parts import Parts
from pikaforge.formats.payload import Rendered
from pikaforge.formats.rpm import allocator, spec_file
from pikaforge.formats.rpm import product as house
from pikaforge.formats.wheel import wheel
from pikaforge.host.job import Input, Job, files
from pikaforge.host.workspace import Workshop, run_job
from pikaforge.plan.plan import Cell

STAGE = "package"
Role = Literal["main", "debug", "allocator"]
SCRIPTS: Mapping[Format, tuple[str, ...]] = {
    "tar": ("package.sh", "debuginfo.sh", "layout.sh"),
    "rpm": ("rpm.sh", "layout.sh"),
    "deb": ("deb.sh", "layout.sh"),
    "wheel": (),
}
"""Guest scripts that make each format."""
GPERFTOOLS_LICENCE = "BSD-3-Clause"
"""gperftools' COPYING."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One file that was made."""

    format: Format
    role: Role
    name: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What all formats of a cell's package are made from."""

    workshop: Workshop
    spec: Spec
    cell: Cell
    parts: Parts
    manifest: Mapping[str, Any]
    rendered: Rendered
    extra: bytes
    """What goes in beside the tree, manifest included, as a tar archive."""
    tools: str
    """The tools image."""
    scratch: Path

    @property
    def image(self) -> Image:
        """The cell's image."""
        return self.spec.images[self.cell.image]

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH."""
        return int(self.parts.source.facts["epoch"])

    @property
    def variant(self) -> str:
        """The allocator, unless it is the image's default."""
        return _variant(self.spec, self.cell)

    @property
    def top(self) -> str:
        """Where the tree is on a host."""
        return f"/opt/{self.spec.product.name}"

    def entries(self) -> tuple[Entry, ...]:
        """The tarball's contents, as packages install them."""
        return (
            *tree_entries(self.parts.compiled.files["tree.tar"], folder="tree", prefix=self.top),
            *tree_entries(self.extra, folder="extra", prefix=self.top),
        )

    def debug(self) -> tuple[Entry, ...]:
        """Debug information, where debuggers look for it; none if the tree has none."""
        ids = {str(f["name"]): str(f["build_id"]) for f in self.parts.audited.facts["files"]}
        archive = self.parts.compiled.files["debug.tar"]
        return debuginfo.debug_entries(archive, folder="debug", prefix=self.top, build_ids=ids)

    def run(
        self, script: str, what: str, *, guest: Sequence[str], inputs: Sequence[Input], outputs: Sequence[str]
    ) -> list[Path]:
        """Run a packer in the tools image; its files, in the order of `outputs`, which are below out/."""
        job = Job(
            label=f"{STAGE}-{self.cell.id}",
            image=self.tools,
            argv=("sh", "guest/run.sh", script),
            env={"FORGE_PRODUCT": self.spec.product.name, "SOURCE_DATE_EPOCH": str(self.epoch)},
            inputs=(self.workshop.guest(*guest), *inputs),
            outputs=tuple(f"out/{name}" for name in outputs),
            log=self.workshop.log_path(self.cell.id, f"{STAGE}-{what}"),
        )
        failed = f"the {what} could not be made"
        done = run_job(self.workshop, job, self.scratch, stage=STAGE, label=self.cell.id, failed=failed)
        return [done.outputs[f"out/{name}"] for name in outputs]


def _variant(spec: Spec, cell: Cell) -> str:
    return "" if cell.allocator == spec.images[cell.image].allocator else cell.allocator


def tarball_name(spec: Spec, cell: Cell, what: str = "") -> str:
    """`PRODUCT-VERSION-MODEL.tar.gz`; an allocator that is not the image's default follows the model, then `what`."""
    parts = (spec.product.name, spec.product.version, cell.model, _variant(spec, cell), what)
    return f"{'-'.join(filter(None, parts))}.tar.gz"


def pack(work: Packing) -> list[Packed]:
    """Every format that the image asks for, in its order."""
    makers: dict[Format, Callable[[Packing], list[Packed]]] = {"tar": _tar, "rpm": _rpm, "deb": _deb, "wheel": _wheel}
    return [packed for name in work.image.formats for packed in makers[name](work)]


def _tar(work: Packing) -> list[Packed]:
    tree = Input(folder="tree", archive=work.parts.compiled.files["tree.tar"])
    [path] = work.run(
        "package",
        "tarball",
        guest=("package.sh",),
        inputs=(tree, Input(folder="extra", archive=work.extra)),
        outputs=("package.tar.gz",),
    )
    made = [Packed(format="tar", role="main", name=tarball_name(work.spec, work.cell), path=path)]
    entries = work.debug()
    if entries:
        [path] = work.run(
            "debuginfo",
            "debug information",
            guest=("debuginfo.sh", "layout.sh"),
            inputs=(
                Input(folder="pack", archive=files(debuginfo.debug_tarball(entries))),
                Input(folder="debug", archive=work.parts.compiled.files["debug.tar"]),
            ),
            outputs=("debuginfo.tar.gz",),
        )
        made.append(Packed(format="tar", role="debug", name=tarball_name(work.spec, work.cell, "debuginfo"), path=path))
    return made


def _wheel(work: Packing) -> list[Packed]:
    tree = wheel.read_tree(work.parts.compiled.files["tree.tar"], work.extra)
    made = wheel.build(tree, product=work.spec.product, variant=work.variant)
    path = work.scratch / made.name
    path.write_bytes(made.content)
    return [Packed(format="wheel", role="main", name=made.name, path=path)]


# ---- RPM and DEB


def _about(work: Packing) -> house.About:
    product = work.spec.product
    return house.About(
        name=product.name,
        version=product.version,
        release=product.release,
        dist=spec_file.dist_tag(work.image.family, work.image.os),
        profile=spec_file.profile(work.image.family, work.image.os),
        summary=product.summary or product.name,
        description=product.description or product.name,
        licence=product.licence,
        url=product.url,
    )


def _changes(work: Packing) -> tuple[spec_file.Change, ...]:
    source = work.manifest["source"]
    ref = source["version"] or source["ref"] or source["commit"]
    if source["kind"] in FOREIGN:
        ref += f"{f' of {url}' if (url := source['url']) else ''} ({source['commit']})"
    return house.changes(source["patches"], epoch=work.epoch, version=work.spec.product.version, ref=ref)


def _product(work: Packing) -> house.ProductRpm:
    return house.ProductRpm(
        about=_about(work),
        model=work.cell.model,
        target=work.cell.target,
        tree=work.entries(),
        conf=(work.spec.product.server.conf.path,),
        payload=work.rendered.contents,
        requires=(*house.needs(work.parts.audited.facts["library_versions"]), *_programs(work)),
        changes=_changes(work),
        variant=work.variant,
        debug=work.debug(),
    )


def _programs(work: Packing) -> tuple[str, ...]:
    """Packages with programs that the product runs."""
    return work.spec.packages_for(work.cell.image, purpose="runtime")


def _inputs(work: Packing) -> dict[str, Path | bytes]:
    """What the layouts of RPM and DEB take files from."""
    files_ = work.parts.compiled.files
    return {"tree": files_["tree.tar"], "debug": files_["debug.tar"], "extra": work.extra}


def _by_role(name: Format, made: Sequence[tuple[str, Path]]) -> list[Packed]:
    """The packages of a product: itself, and its debug information."""
    roles: tuple[Role, ...] = ("main", "debug")
    return [Packed(format=name, role=role, name=n, path=p) for role, (n, p) in zip(roles, made, strict=False)]


def _rpm(work: Packing) -> list[Packed]:
    made = _build(work, "rpm", "RPM", house.product(_product(work)), _inputs(work))
    return [*_by_role("rpm", made), *_allocator_rpms(work)]


def _deb(work: Packing) -> list[Packed]:
    described = debian.product(
        _product(work),
        depends=debian.depends(work.parts.audited.facts["library_versions"], _programs(work)),
        licences=debian.licence_texts(work.parts.compiled.files["tree.tar"], prefix=work.top),
        maintainer=work.spec.product.maintainer,
    )
    return _by_role("deb", _build(work, "deb", "DEB", described, _inputs(work)))


def _allocator_rpms(work: Packing) -> list[Packed]:
    built = work.parts.allocator
    if built is None:
        return []
    prefix = built.files["prefix.tar"]
    about = _about(work)
    version = str(built.facts["version"])
    described = allocator.gperftools(
        house.About(
            name=about.name,
            version=version,
            release=about.release,
            dist=about.dist,
            profile=about.profile,
            summary=about.summary,
            description=about.description,
            licence=GPERFTOOLS_LICENCE,
            url="https://github.com/gperftools/gperftools",
        ),
        unwinder=str(built.facts["unwinder"]["asked"]),
        target=work.cell.target,
        prefix=tree_entries(prefix, folder="prefix", prefix=allocator.allocator_top(about.name)),
        requires=house.needs(built.facts["needs"]),
        changes_=(spec_file.Change(epoch=int(built.facts["epoch"]), lines=(f"gperftools {version}",)),),
    )
    made = _build(work, "rpm", "allocator RPM", described, {"prefix": prefix})
    return [Packed(format="rpm", role="allocator", name=name, path=path) for name, path in made]


def _build(
    work: Packing,
    script: Format,
    what: str,
    described: house.Described | DescribedDeb,
    inputs: Mapping[str, Path | bytes],
) -> list[tuple[str, Path]]:
    """Names and files of what a run of rpm.sh or deb.sh makes."""
    paths = work.run(
        script,
        what,
        guest=SCRIPTS[script],
        inputs=(
            Input(folder="pack", archive=files(described.pack())),
            Input(folder="made", archive=files(described.extra)),
            *(Input(folder=folder, archive=archive) for folder, archive in inputs.items()),
        ),
        outputs=described.names,
    )
    return list(zip(described.names, paths, strict=True))
