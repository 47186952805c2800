"""The examples of clusters: they start what docs/farm.md says."""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "farm"
PRELOAD = "pikaforge.farm.preload"


def test_the_page_names_each() -> None:
    page = (ROOT / "docs" / "farm.md").read_text(encoding="utf-8")
    names = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert names == {"ssh.py", "slurm.py", "kubernetes.yaml"}
    assert all(f"(../examples/farm/{name})" in page for name in names)


def test_each_loads_what_finds_resources() -> None:
    for path in FOLDER.glob("*.py"):
        words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert PRELOAD in words, path.name
    cluster = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    worker, engine = cluster["spec"]["worker"]["spec"]["containers"]
    assert worker["args"][-3:] == ["--preload", PRELOAD, "--no-dashboard"]
    address = next(item["value"] for item in worker["env"] if item["name"] == "DOCKER_HOST")
    assert f"--host={address}" in engine["args"]
    shared = [{mount["name"]: mount["mountPath"] for mount in each["volumeMounts"]} for each in (worker, engine)]
    assert [mounts["socket"] for mounts in shared] == ["/engine", "/engine"]
    assert address == "unix:///engine/docker.sock"
