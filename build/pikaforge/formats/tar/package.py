"""The format `tar`: tarballs. See `format.Format`."""

from __future__ import annotations

import shlex

from pikaforge.config.schema import Spec
from pikaforge.formats import debuginfo
from pikaforge.formats.client_lines import base_of, checked, file_name
from pikaforge.formats.format import BaseFormat, InstallOffer
from pikaforge.formats.packing import Packed, Packing
from pikaforge.host.archives import TAR_SUFFIXES
from pikaforge.host.job import Input, files
from pikaforge.plan.cells import Cell


def tarball_name(spec: Spec, cell: Cell, what: str = "") -> str:
    """Return `PRODUCT-VERSION-MODEL.tar.gz`. After the model come an allocator that is not the default, and `what`."""
    variant = "" if cell.allocator == spec.images[cell.image].allocator else cell.allocator
    parts = (spec.product.name, spec.product.version, cell.model, variant, what)
    return f"{'-'.join(filter(None, parts))}.tar.gz"


class TarFormat(BaseFormat):
    """A gzipped tarball of the product, and one of its debug information."""

    name = "tar"
    folder = "tarballs"
    suffixes = TAR_SUFFIXES
    scripts = ("package.sh", "debuginfo.sh", "layout.sh")

    def pack(self, work: Packing) -> list[Packed]:
        """Make the tarballs in the tools image."""
        tree = Input(folder="tree", archive=work.inputs.tree)
        [path] = work.run(
            "package",
            "tarball",
            guest=("package.sh",),
            inputs=(tree, Input(folder="extra", archive=work.extra)),
            outputs=("package.tar.gz",),
        )
        made = [Packed(format=self.name, role="main", name=tarball_name(work.spec, work.cell), path=path)]
        entries = work.debug()
        if entries:
            entries += debuginfo.own_licences(work.entries(), top=work.top, name=work.spec.product.name)
            [path] = work.run(
                "debuginfo",
                "debug information",
                guest=("debuginfo.sh", "layout.sh"),
                inputs=(
                    Input(folder="pack", archive=files(debuginfo.debug_tarball(entries))),
                    Input(folder="debug", archive=work.inputs.debug),
                    tree,
                ),
                outputs=("debuginfo.tar.gz",),
            )
            name = tarball_name(work.spec, work.cell, "debuginfo")
            made.append(Packed(format=self.name, role="debug", name=name, path=path))
        return made

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return lines that download, check and unpack it, and deploy a server."""
        base = base_of(offer)
        deploy = shlex.quote(f"/opt/{offer.product}/utils/deploy.sh")
        lines = checked(base, offer.path, f"tar xf {file_name(offer.path)} -C /opt/")
        if not offer.port:
            return lines
        return (*lines, f"bash {deploy} {shlex.quote(offer.port)} /data")


FORMAT = TarFormat()
