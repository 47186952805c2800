"""Check the references between the parts of a specification: what they name must exist and fit together."""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from pikaforge.config import compilers, product, scalars, schema, smoke_checks, yaml_words
from pikaforge.config.diagnostics import PLACEHOLDER, Diagnostics, closest_or_all
from pikaforge.config.registry import PROBES, SITES
from pikaforge.config.yaml_words import KeyPath
from pikaforge.host import download

CELL_LIMIT = 100_000
"""Cells in a matrix: far above any fleet, far below what would keep a planner busy for minutes."""

COMMAND_PLACEHOLDERS = ("conf", "port", "data")
SETTING_PLACEHOLDERS = ("port", "data")
PROBE_PLACEHOLDERS = ("tree", "data", "port")
LINE_PLACEHOLDERS = ("key", "value")


def check(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    """Add to `diagnostics` all that does not fit together."""
    _check_names(spec, diagnostics)
    _check_images(spec, diagnostics)
    _check_cpus(spec, diagnostics)
    _check_runners(spec, diagnostics)
    _check_packages(spec, diagnostics)
    _check_tarballs(spec, diagnostics)
    _check_compilers(spec.product, diagnostics)
    _check_matrix(spec.matrix, spec, diagnostics)
    _check_server(spec.product, diagnostics)
    _check_smoke(spec.product, diagnostics)
    _check_publish(spec, diagnostics)


def known_microarchitectures() -> frozenset[str]:
    """Return the names that `cpus` may hold: those of the x86-64 family that archspec knows."""
    from pikaforge.cpu import microarch  # noqa: PLC0415  (archspec reads its tables on import)

    return microarch.known()


def _check_names(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    axes: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("hardware", spec.hardware),
        ("images", spec.images),
        ("allocators", spec.allocators),
    )
    for axis, names in axes:
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(name.lower(), name)
            if name == scalars.EVERYTHING:
                diagnostics.add((axis, name), "`all` selects everything and cannot be a name", "rename it", key=True)
            elif first != name:
                message = f"the names {first!r} and {name!r} differ only in capital letters"
                diagnostics.add((axis, name), message, "rename one: people and some file systems mix them up", key=True)
    cells = len(spec.hardware) * len(spec.images) * len(spec.allocators)
    if cells > CELL_LIMIT:
        diagnostics.add(("hardware",), f"the matrix has {cells} cells, more than {CELL_LIMIT}", "split it", key=True)
    elif any("-" in name for _, names in axes for name in names):
        _check_ids(spec, diagnostics)


def _check_ids(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    """Report cells with the same id: names may hold the dash that also joins them."""
    seen: dict[str, tuple[str, str, str]] = {}
    for hardware in spec.hardware:
        for image in spec.images:
            for allocator in spec.allocators:
                cell = (hardware, image, allocator)
                first = seen.setdefault("-".join(cell), cell)
                if first != cell:
                    same = f"{', '.join(first)} and {', '.join(cell)}"
                    message = f"the cells {same} have the same id {'-'.join(cell)}"
                    diagnostics.add(("hardware", hardware), message, "use '_' in place of '-' in one name", key=True)


def _check_images(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    releases: dict[tuple[str, str], str] = {}
    for name, image in spec.images.items():
        if image.allocator not in spec.allocators and "allocator" in image.model_fields_set:
            diagnostics.unknown(("images", name, "allocator"), "allocator", image.allocator, spec.allocators)
        release = (image.os.id, image.os.version)
        first = releases.setdefault(release, name)
        if first != name:
            message = f"the images {first!r} and {name!r} are both for {release[0]} {release[1]}"
            diagnostics.add(("images", name, "os"), message, "give each image an OS release of its own")
    silent = [image for image in spec.images.values() if "allocator" not in image.model_fields_set]
    if silent and silent[0].allocator not in spec.allocators:
        message = f"there is no allocator {silent[0].allocator!r}, which images take that name none"
        diagnostics.add(("allocators",), message, "define it, or give every image its `allocator`", key=True)
    for use in ("image", "tools", "emulator"):
        named = getattr(spec.defaults, use)
        if named is not None and named not in spec.images:
            diagnostics.unknown(("defaults", use), "image", named, spec.images)


def _check_cpus(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    known = known_microarchitectures()
    for name, hardware in spec.hardware.items():
        for index, cpu in enumerate(hardware.cpus):
            if cpu not in known:
                diagnostics.unknown(("hardware", name, "cpus", index), "x86-64 microarchitecture", cpu, known)
    for name, image in spec.images.items():
        if image.baseline not in known:
            diagnostics.unknown(("images", name, "baseline"), "x86-64 microarchitecture", image.baseline, known)


def _check_runners(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    known = {*known_microarchitectures(), *spec.hardware}
    for name in spec.runners:
        if name not in known:
            diagnostics.unknown(("runners", name), "model or x86-64 microarchitecture", name, known, key=True)


def _check_packages(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    known = {*spec.images, *(image.family for image in spec.images.values())}
    tables: list[tuple[tuple[str, ...], Mapping[str, object]]] = [(("product", "packages"), spec.product.packages)]
    tables += [(("allocators", name, "packages"), each.packages) for name, each in spec.allocators.items()]
    tables += [(("allocators", name, "tarballs"), each.tarballs) for name, each in spec.allocators.items()]
    for path, table in tables:
        for name in table:
            if name not in known:
                diagnostics.unknown((*path, name), "image or family", name, known, key=True)


def _check_tarballs(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    for name, allocator in spec.allocators.items():
        named: dict[tuple[str, ...], str | None] = {
            ("tarball",): allocator.tarball,
            ("libunwind",): allocator.libunwind,
            **{("tarballs", image): other for image, other in allocator.tarballs.items()},
        }
        for path, wanted in named.items():
            if wanted is not None and wanted not in spec.tarballs:
                diagnostics.unknown(("allocators", name, *path), "tarball", wanted, spec.tarballs)
    files: dict[str, str] = {}
    for name, tarball in spec.tarballs.items():
        if not re.fullmatch(download.FILE_PATTERN, tarball.file):
            message = f"the URL of {name} does not end with the name of a file"
            diagnostics.add(("tarballs", name, "url"), message, "give the tarball's own URL, such as …/name-1.0.tar.gz")
        elif files.setdefault(tarball.file, name) != name:
            message = f"{name} and {files[tarball.file]} have the same file name {tarball.file}"
            diagnostics.add(("tarballs", name, "url"), message, "both would be kept in one place: give another URL")


def _check_compilers(product: product.Product, diagnostics: Diagnostics) -> None:
    for number, entry in enumerate(product.compilers):
        path = ("product", "compilers", number)
        if compilers.is_empty(entry.gcc):
            diagnostics.add((*path, "gcc"), f"no version is in the range {entry.gcc}", "put the lower one first")
        for name, words in (("cflags", entry.cflags), ("cxxflags", entry.cxxflags)):
            for index, message, hint in compilers.faults(words, cxx=name == "cxxflags"):
                diagnostics.add((*path, name, index), message, hint)


def _check_publish(spec: schema.Spec, diagnostics: Diagnostics) -> None:
    if spec.defaults.publish is not None and spec.defaults.publish not in spec.publish:
        diagnostics.unknown(("defaults", "publish"), "destination", spec.defaults.publish, spec.publish)
    seen: dict[str, str] = {}
    for name, destination in spec.publish.items():
        place = SITES.get(destination.kind).place(destination)
        first = seen.setdefault(posixpath.normpath(place), name)
        if first != name:
            message = f"{name!r} is the same place as {first!r}: {yaml_words.shorten(place)}"
            field = "path" if destination.path else "url" if destination.url else "kind"
            diagnostics.add(("publish", name, field), message, "give each destination a place of its own")


def _check_matrix(matrix: schema.Matrix, spec: schema.Spec, diagnostics: Diagnostics) -> None:
    axes: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("model", spec.hardware),
        ("image", spec.images),
        ("allocator", spec.allocators),
    )
    for axis, names in axes:
        values: tuple[str, ...] = getattr(matrix.axes, axis)
        for index, value in enumerate(values):
            if value not in names and value != scalars.EVERYTHING:
                known = [scalars.EVERYTHING, *names]
                diagnostics.unknown(("matrix", "axes", axis, index), axis, value, known)
        selected = tuple(names) if scalars.EVERYTHING in values else values
        if not set(selected) <= names.keys():
            selected = tuple(names)  # reported above; no rule is reported because of it
        for kind, rules, scope in (
            ("exclude", matrix.exclude, selected),
            ("include", matrix.include, tuple(names)),
        ):
            for index, rule in enumerate(rules):
                glob: str = getattr(rule, axis)
                if not any(fnmatchcase(name, glob) for name in scope):
                    place = "`matrix.axes`" if glob in names else "the matrix"
                    shown = yaml_words.shorten(glob)
                    message = f"the {kind} rule has no effect: no {axis} of {place} matches {shown}"
                    diagnostics.add(("matrix", kind, index, axis), message, _glob_hint(glob, scope))


def _glob_hint(glob: str, scope: Sequence[str]) -> str:
    if glob == scalars.EVERYTHING:
        return 'for all of them leave the key out, or write "*"'
    return closest_or_all(glob, scope)


def _check_server(product: product.Product, diagnostics: Diagnostics) -> None:
    server, top = product.server, ("product", "server")
    if server is None:
        if not any(check.required for check in product.smoke):
            message = "a product without `server` has no smoke check that is required, so nothing shows that it runs"
            hint = "give `smoke` a check with a step such as {probe: {kind: command, argv: [bin/tool, --version]}}"
            diagnostics.add(("product",), message, hint, key=True)
        return
    known = [name for name in COMMAND_PLACEHOLDERS if name != "conf" or server.conf is not None]
    for index, argument in enumerate(server.command):
        _check_placeholders((*top, "command", index), argument, known, diagnostics)
    if server.conf is not None:
        for key, value in server.conf.settings.items():
            _check_placeholders((*top, "conf", "settings", key), value, SETTING_PLACEHOLDERS, diagnostics)
        _check_placeholders((*top, "conf", "line"), server.conf.line, LINE_PLACEHOLDERS, diagnostics)
        if server.conf.path not in product.files:
            message = f"{yaml_words.shorten(server.conf.path)} is not among `product.files`"
            diagnostics.add((*top, "conf", "path"), message, "add it there, so that the recipe must leave it")
    _check_probe((*top, "ready"), server.ready, product, diagnostics)
    for index, offset in enumerate(server.offsets):
        if not 0 < server.port + offset < 65536:
            message = f"the offset {offset} makes port {server.port} into {server.port + offset}"
            diagnostics.add((*top, "offsets", index), message, "ports are 1 to 65535")
    _check_expression((*top, "version", "match"), server.version.match, diagnostics)


def _check_probe(path: KeyPath, probe: smoke_checks.Probe, product: product.Product, diagnostics: Diagnostics) -> None:
    if product.server is None and not PROBES.get(probe.kind).serverless:
        message = f"a probe of the kind {probe.kind} asks a server, and the product has none"
        diagnostics.add((*path, "kind"), message, "describe `product.server`, or run a command: kind command")
    for index, word in enumerate(probe.argv or ()):
        known = [name for name in PROBE_PLACEHOLDERS if name != "port" or product.server is not None]
        _check_placeholders((*path, "argv", index), word, known, diagnostics)
    _check_expression((*path, "match"), probe.match, diagnostics)


def _check_kind(path: KeyPath, step: smoke_checks.Step, product: product.Product, diagnostics: Diagnostics) -> None:
    """Report a step that the product's server, if it has one, cannot be asked."""
    if step.probe is not None:
        _check_probe((*path, "probe"), step.probe, product, diagnostics)
    elif step.kind in smoke_checks.SPOKEN and not product.speaks_resp:
        said = f"its `ready` is {product.server.ready.kind}" if product.server is not None else "there is none"
        message = f"`{step.kind}` asks a server that speaks RESP: {said}"
        diagnostics.add((*path, step.kind), message, "ask by a `probe`")


def _check_placeholders(path: KeyPath, text: str, known: Sequence[str], diagnostics: Diagnostics) -> None:
    for name in PLACEHOLDER.findall(text):
        if name not in known:
            braced = [f"{{{each}}}" for each in known]
            diagnostics.unknown(path, "placeholder", f"{{{name}}}", braced)


def _check_smoke(product: product.Product, diagnostics: Diagnostics) -> None:
    seen: dict[str, int] = {}
    for number, check in enumerate(product.smoke):
        path = ("product", "smoke", number)
        first = seen.setdefault(check.check, number)
        if first != number:
            line = diagnostics.document.position(("product", "smoke", first, "check"))[0]
            message = f"the check {check.check!r} is here twice; first in line {line}"
            diagnostics.add((*path, "check"), message, "give each check a name of its own")
        for index, step in enumerate(check.steps):
            _check_expression((*path, "steps", index, "match"), step.match, diagnostics)
            _check_expression((*path, "steps", index, "error"), step.error, diagnostics)
            if step.refused is not None:
                _check_expression((*path, "steps", index, "refused", "match"), step.refused.match, diagnostics)
            _check_kind((*path, "steps", index), step, product, diagnostics)
        _check_instances(check, path, product, diagnostics)
        _check_needs(check, path, product.smoke[:number], diagnostics)


def _check_instances(
    check: smoke_checks.Check, path: KeyPath, product: product.Product, diagnostics: Diagnostics
) -> None:
    if check.instances and product.server is None:
        message = "`instances` are servers, and the product has none"
        diagnostics.add((*path, "instances"), message, "describe `product.server`, or leave them out", key=True)
    for name, instance in check.instances.items():
        if instance.settings and product.server is not None and product.server.conf is None:
            message = "`settings` change a configuration file, and the server has none"
            diagnostics.add((*path, "instances", name, "settings"), message, "see `product.server.conf`", key=True)
        for key, value in instance.settings.items():
            _check_placeholders((*path, "instances", name, "settings", key), value, SETTING_PLACEHOLDERS, diagnostics)


def _check_needs(
    check: smoke_checks.Check, path: KeyPath, before: Sequence[smoke_checks.Check], diagnostics: Diagnostics
) -> None:
    earlier = {other.check: other for other in before}
    for index, name in enumerate(check.needs):
        if name not in earlier:
            diagnostics.unknown((*path, "needs", index), "check before this one", name, earlier)
        elif check.shared and not earlier[name].shared:
            message = f"the check {name!r} has instances of its own, and such checks are made last"
            diagnostics.add((*path, "needs", index), message, "leave it out")


def _check_expression(path: KeyPath, expression: str | None, diagnostics: Diagnostics) -> None:
    try:
        with warnings.catch_warnings():
            # Python warns of what a later version will read in another way, such as a set within a set.
            warnings.simplefilter("error")
            re.compile(expression or "")
    except (re.error, OverflowError, RecursionError, Warning) as error:
        message = f"not a regular expression: {error}"
        diagnostics.add(path, message, "put a backslash before characters meant as themselves, such as . ( [ + ?")
