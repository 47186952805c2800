"""Templates of texts, and what of `formats/` is part of a package's key."""

from __future__ import annotations

import hashlib

import jinja2
import pytest
from unit.product_packages import package

from pikaforge.formats import packing, templates
from pikaforge.formats.layout import PackingError
from pikaforge.formats.product_package import ChangelogEntry
from pikaforge.formats.rpm import product, spec_file


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'product' is undefined"):
        templates.render("deb/client.list.jinja")


def test_a_value_is_no_template() -> None:
    text = templates.render(
        "deb/client.list.jinja",
        product="{{ 7 * 6 }}", image="{% raw %}", model="{# x", folder="<&>", keyring=None,
    )  # fmt: skip
    assert text.startswith("# {{ 7 * 6 }} for {% raw %}, {# x\n")
    assert "[arch=amd64] <&> ./" in text


def test_an_error_of_a_function_passes_through() -> None:
    def refuse(_: object) -> str:
        raise PackingError("refused")

    with pytest.raises(PackingError, match="refused"):
        templates.render(
            "deb/copyright.jinja",
            functions={"indented": refuse},
            name="x", url="", top="/x", holders=["x"], licence="x", body=[], others=[],
        )  # fmt: skip


def test_entries_of_the_changelog_are_apart() -> None:
    changes = (ChangelogEntry(epoch=0, lines=("old",)), ChangelogEntry(epoch=86400, lines=("new", "newer")))
    made = product.product(package(changes=changes), requires=(), profile=spec_file.OLD)
    assert spec_file.spec_text(made.rpm).endswith(
        "\n%changelog\n"
        "* Fri Jan 02 1970 pikaforge <pikaforge@users.noreply.github.com> - 1.0-1.R620.el9\n- new\n- newer\n\n"
        "* Thu Jan 01 1970 pikaforge <pikaforge@users.noreply.github.com> - 1.0-1.R620.el9\n- old\n"
    )
    none = product.product(package(changes=()), requires=(), profile=spec_file.OLD)
    assert spec_file.spec_text(none.rpm).endswith("\n\n%changelog\n")


def test_the_key_has_all_that_gets_into_packages() -> None:
    found = packing.sources()
    assert {
        "wheel/runtime/cli.py", "rpm/package.spec.jinja", "deb/deb-preinst.sh", "assets/scriptlet-pre.sh",
        "assets/tmpfiles.conf", "layout.py",
    } <= set(found)  # fmt: skip
    assert not [name for name in found if name.endswith(".pyc")]
    script = packing.FOLDER / "assets/scriptlet-pre.sh"
    assert found["assets/scriptlet-pre.sh"] == hashlib.sha256(script.read_bytes()).hexdigest()
