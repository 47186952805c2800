"""Dates of metadata: never after now, and with an end where a destination says so."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from publishing import EPOCH, Root, in_folder

from pikaforge.publish import publisher
from pikaforge.publish.publisher import PublishRequest, PublishResult, from_folder

FUTURE = 1_900_000_000
"""In the year 2030."""
DAYS = 30


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return in_folder(tmp_path)


def publish(root: Root, *epochs: int, valid_days: int | None = None) -> PublishResult:
    items = tuple(root.shelf.item(f"1.{n}", format="deb", epoch=epoch) for n, epoch in enumerate(epochs))
    return root.publisher().publish(
        PublishRequest(items=items, valid_days=valid_days), from_folder(dict(root.shelf.sources))
    )


def field(root: Root, name: str) -> datetime | None:
    text = (Path(root.site.where) / "debian12/R620/debs/Release").read_text()
    found = re.search(rf"^{name}: (.*) UTC$", text, re.MULTILINE)
    return parsedate_to_datetime(f"{found[1]} +0000") if found else None


def at(monkeypatch: pytest.MonkeyPatch, days: float) -> datetime:
    """It is some days later."""
    now = datetime.now(timezone.utc) + timedelta(days=days)
    monkeypatch.setattr(publisher, "moment", lambda: now.isoformat(timespec="seconds"))
    return now


def test_control_the_date_is_that_of_the_source(root: Root) -> None:
    publish(root, EPOCH)
    assert field(root, "Date") == datetime.fromtimestamp(EPOCH, timezone.utc)
    assert field(root, "Valid-Until") is None
    assert publish(root, EPOCH).diffs[0].nothing


def test_a_source_from_the_future_does_not_date_the_metadata(root: Root) -> None:
    publish(root, EPOCH, FUTURE)
    date = field(root, "Date")
    assert date is not None
    assert date <= datetime.now(timezone.utc)
    assert publish(root, EPOCH, FUTURE).diffs[0].nothing, "and that is all"


def test_a_repository_that_was_dated_in_the_future_is_mended(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, 1000)
    publish(root, FUTURE)
    at(monkeypatch, 0)
    assert publish(root, FUTURE).diffs[0].redated
    date = field(root, "Date")
    assert date is not None
    assert date <= datetime.now(timezone.utc)


def test_valid_until_is_written_and_renewed_in_time(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    first = at(monkeypatch, 0)
    publish(root, EPOCH, valid_days=DAYS)
    assert field(root, "Valid-Until") == first.replace(microsecond=0) + timedelta(days=DAYS)
    at(monkeypatch, DAYS / 3)
    assert publish(root, EPOCH, valid_days=DAYS).diffs[0].nothing
    later = at(monkeypatch, DAYS * 2 / 3)
    assert publish(root, EPOCH, valid_days=DAYS).diffs[0].redated
    assert field(root, "Valid-Until") == later.replace(microsecond=0) + timedelta(days=DAYS)
    assert publish(root, EPOCH).diffs[0].redated, "the destination says so no longer"
    assert field(root, "Valid-Until") is None
