"""Archives of images are taken apart by digest, and put together again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pikaforge.errors import FullDiskError, HostError
from pikaforge.host import image_archive
from pikaforge.host.image_archive import SavedImage, check, put_together, take_apart


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LAYERS = [b"one" * 1000, b"two", b"two"]
"""The last one is there twice, as a layer without files often is."""
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(layer)}" for layer in LAYERS]}}).encode()
IMAGE = SavedImage(config=sha(CONFIG), layers=tuple(map(sha, LAYERS)))


def saved(*, packed: bool = False, config: bytes = CONFIG, layers: list[bytes] = LAYERS) -> bytes:
    """An archive as docker writes it."""
    stream = io.BytesIO()
    names: list[str] = []
    with tarfile.open(fileobj=stream, mode="w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))

        for number, layer in enumerate(layers):
            names.append(f"{number}/layer.tar")
            add(f"{number}/VERSION", b"1.0")
            if layer in layers[:number]:
                link = tarfile.TarInfo(names[-1])
                link.type, link.linkname = tarfile.SYMTYPE, f"../{layers.index(layer)}/layer.tar"
                tar.addfile(link)
            else:
                add(names[-1], gzip.compress(layer) if packed else layer)
        add(f"{sha(config)}.json", config)
        add(
            "manifest.json",
            json.dumps([{"Config": f"{sha(config)}.json", "RepoTags": ["x/a:1", "x/b:1"], "Layers": names}]).encode(),
        )
    return stream.getvalue()


def blocks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1000] for at in range(0, len(data), 1000))


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_taken_apart_and_put_together(tmp_path: Path, packed: bool) -> None:
    assert take_apart(blocks(saved(packed=packed)), tmp_path) == {"x/a:1": IMAGE, "x/b:1": IMAGE}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({IMAGE.config, *IMAGE.layers})
    check(IMAGE, tmp_path)
    made = b"".join(put_together({"x/a:1": IMAGE, "x/b:1": IMAGE}, tmp_path))
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        assert len(tar.getnames()) == 1 + 2 + 1
        listed = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert [entry["RepoTags"] for entry in listed] == [["x/a:1"], ["x/b:1"]]
        for layer, name in zip(LAYERS, listed[0]["Layers"], strict=True):
            assert tar.extractfile(name).read() == layer  # type: ignore[union-attr]
        assert tar.extractfile(listed[0]["Config"]).read() == CONFIG  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text" * 1000,
        saved()[:2000],
        saved(config=b"{}"),
        saved(config=b"[" * 1000),
        saved(config=json.dumps({"rootfs": {"diff_ids": ["sha256:../../x"] * 3}}).encode()),
        saved(config=json.dumps({"rootfs": {"diff_ids": [f"sha256:{'0' * 64}"] * 3}}).encode()),
        saved(layers=LAYERS[:2]),
    ],
)
def test_what_is_not_one_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HostError):
        take_apart(blocks(data), tmp_path)


def test_other_layers_than_the_configuration_names(tmp_path: Path) -> None:
    take_apart(blocks(saved()), tmp_path)
    with pytest.raises(HostError, match="other layers"):
        check(SavedImage(config=IMAGE.config, layers=IMAGE.layers[:2]), tmp_path)
    with pytest.raises(HostError, match="cannot be read"):
        check(SavedImage(config="0" * 64, layers=()), tmp_path)


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    image_archive.check_room(tmp_path, 1)
    with pytest.raises(FullDiskError, match="an image needs"):
        image_archive.check_room(tmp_path, 1 << 60)
