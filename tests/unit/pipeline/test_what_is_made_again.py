"""What a change makes anew: counts of the nodes that run, with the keys that the stages really have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import FACTS
from unit.helpers import FakeEngine, make_matrix, make_workspace

from pikaforge.config import load
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image import image
from pikaforge.pipeline.image.base_image import Base
from pikaforge.pipeline.outcomes import Events
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.stage import Material, Request
from pikaforge.plan.cells import extended
from pikaforge.plan.plan import EMULATOR, TOOLS, Node, expand
from pikaforge.plan.selectors import Selection, select

ROOT = Path(__file__).resolve().parents[3]
SHARED: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "system": {"kind": "system", "packages": {"debian": {"build": ["libtc-dev"]}}},
}
"""Allocators of which one has packages of its own."""


class Recorded(Pipeline):
    """A pipeline with the real keys, whose stages only note that they ran. Source and bases are pinned as given."""

    def __init__(self, workspace: Workspace, text: str) -> None:
        self.spec = load.parse(text, file="matrix.yaml")
        origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
        request = Request(spec=self.spec, origin=origin, series=None)
        super().__init__(workspace, request)
        self.place = workspace
        self.made: list[str] = []

    def _material(self, node: Node, *, offline: bool) -> Material:
        if node.stage == "source":
            return Material(facts={"commit": "1"})
        if node.stage == "image":
            base = Base(image="base", suite="suite")
            return Material(facts=image.material(self.spec, node.label, base, ROOT))
        return super()._material(node, offline=offline)

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        assert set(inputs) == set(node.needs)
        self.made.append(node.id)
        identity = digest(f"result of {key}")
        facts = FACTS[node.stage].model_dump(mode="json")
        return self.place.store.put(node.stage, key, identity=identity, facts=facts, files={})


@pytest.fixture
def place(tmp_path: Path, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in which results of all runs of a test are kept; images are never lost."""
    monkeypatch.setattr(image, "usable", lambda *_: True)
    return make_workspace(tmp_path, fake)


def run(place: Workspace, text: str, *selectors: str) -> list[str]:
    """Build; return the ids of the nodes that were made."""
    pipeline = Recorded(place, text)
    cells = select(pipeline.spec, Selection(selectors=selectors or ("*-debian12-*",)))
    done = pipeline.execute(expand(pipeline.spec, cells), Events())
    assert not done.errors
    return pipeline.made


def stages(made: list[str]) -> Counter[str]:
    return Counter(id_.partition(":")[0] for id_ in made)


def test_nothing_changed(place: Workspace) -> None:
    assert stages(run(place, make_matrix(allocators=SHARED)))["compile"] > 2
    assert run(place, make_matrix(allocators=SHARED)) == []


@pytest.mark.parametrize(
    "text", [{"product__summary": "Another line"}, {"product__description": "More."}, {"product__release": "7"}]
)
def test_texts_of_packages_only_pack_again(place: Workspace, text: Mapping[str, Any]) -> None:
    packed = stages(run(place, make_matrix(allocators=SHARED)))["package"]
    assert stages(run(place, make_matrix(allocators=SHARED, **text))) == {"package": packed}


def test_a_comment_in_matrix_yaml_makes_nothing(place: Workspace) -> None:
    text = make_matrix(allocators=SHARED)
    run(place, text)
    assert run(place, "# why\n" + text.replace("\nhardware:", "\n# these are old\nhardware:   # all of them")) == []


def test_a_comment_in_the_recipe_makes_nothing(place: Workspace) -> None:
    text = make_matrix(allocators=SHARED)
    run(place, text)
    recipe = place.base / "recipe.sh"
    old = recipe.read_text()
    recipe.write_text(f"# builds it\n\n{old.rstrip()}   # all\n")
    assert run(place, text) == []
    recipe.write_text(f"{old}make more\n")
    assert stages(run(place, text))["compile"] > 2


def test_a_script_of_packages_only_packs_again(place: Workspace) -> None:
    text = make_matrix(allocators=SHARED)
    packed = stages(run(place, text))["package"]
    (place.home / "docker" / "guest" / "package.sh").write_text("# another\n")
    assert stages(run(place, text)) == {"package": packed}


@pytest.mark.parametrize("purpose", ["build", "runtime"])
def test_packages_of_an_allocator_concern_nobody_else(place: Workspace, purpose: str) -> None:
    """What is built without an allocator does not see its packages, and so is not compiled or packed anew."""
    run(place, make_matrix(allocators=SHARED))
    more = {**SHARED["system"], "packages": {"debian": {"build": ["libtc-dev"], purpose: ["libtc-dev", "another"]}}}
    made = run(place, make_matrix(allocators={**SHARED, "system": more}))
    assert extended("image:debian12", "system") in made
    assert any(id_.startswith("compile:") for id_ in made)
    assert [id_ for id_ in made if not id_.endswith("system")] == []


def test_an_allocator_without_packages_shares_the_image(place: Workspace) -> None:
    run(place, make_matrix(allocators={"none": {"kind": "none"}, "system": {"kind": "system"}}))
    made = run(place, make_matrix(allocators=SHARED))
    assert [id_ for id_ in made if not id_.endswith("system")] == [], "packages that are new to it"
    assert extended("image:debian12", "system") in made


def test_packages_of_the_product_concern_all(place: Workspace) -> None:
    before = stages(run(place, make_matrix(allocators=SHARED)))
    again = stages(run(place, make_matrix(allocators=SHARED, product__packages__debian__build=["another"])))
    assert again["compile"] == before["compile"]
    assert again["image"] == 2, "not those of the tool"


def test_the_tools_own_images_have_no_allocator(place: Workspace) -> None:
    spec = load.parse(make_matrix(allocators=SHARED), file="matrix.yaml")
    nodes = expand(spec, select(spec, Selection(selectors=("*-debian12-system",)))).nodes
    needs = {node.label: node.needs for node in nodes if node.stage == "image"}
    assert needs[extended("debian12", "system")] == ("image:debian12",)
    assert set(needs) - {TOOLS, EMULATOR} == {"debian12", extended("debian12", "system")}
