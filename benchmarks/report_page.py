"""Measure the page of a build report: bytes, seconds to write it, and milliseconds to open it in a real browser.

python benchmarks/report_page.py [CELLS…]   (default: 130 520 1000)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build"), str(HERE / "tests")]

from browser import Browser, Page, browser  # noqa: E402
from sample_reports import big  # noqa: E402

from pikaforge.pipeline import report_file  # noqa: E402
from pikaforge.pipeline.report_page import page  # noqa: E402
from pikaforge.pipeline.report_record import BuildReport  # noqa: E402

ROUNDS = 5
SIZES = {130: (26, 5, 1), 520: (26, 5, 4), 1000: (50, 5, 4)}
"""Models, images and allocators by the number of cells."""
OPENED = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const entry = performance.getEntriesByType("navigation")[0];
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  done([entry.domContentLoadedEventEnd, paint ? paint.startTime : NaN, performance.now()]);
})))"""
"""Milliseconds since the navigation: until the script has ended, until something is seen, until all is drawn."""
TURNED = """new Promise((done) => { const start = performance.now(); location.hash = HASH;
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start))); })"""


def main(sizes: list[int]) -> None:
    """Print a line for each size."""
    print("cells    bytes   written  script ended  first paint  all drawn  CPU ms  a cell  back  (ms; medians)")
    with browser() as running, tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            # Read from its file, as each page's report is: facts that cells share are shared in memory, too.
            report = report_file.parsed(report_file.text(big(*SIZES[size])))
            assert report is not None
            measure(running, report, Path(folder) / f"{size}.html")


def measure(running: Browser, report: BuildReport, target: Path) -> None:
    """Write one page, and open it several times."""
    start = time.perf_counter()
    page.write(target, report, page.sources(target, report))
    written = (time.perf_counter() - start) * 1000
    opened, busy, cells, backs = [], [], [], []
    for _ in range(ROUNDS):
        tab = running.page()
        tab.send("Performance.enable", timeDomain="threadTicks")
        tab.open(target.as_uri())
        opened.append(tab.evaluate(OPENED))
        busy.append(_busy(tab))
        cells.append(tab.evaluate(TURNED.replace("HASH", repr(report.cells[-1].id))))
        backs.append(tab.evaluate(TURNED.replace("HASH", "''")))
        tab.close()
    ended, paint, drawn = (statistics.median(column) for column in zip(*opened, strict=True))
    print(
        f"{len(report.cells):5} {target.stat().st_size:8} {written:9.0f} {ended:13.0f} {paint:12.0f} {drawn:10.0f} "
        f"{statistics.median(busy):8.0f} "
        f"{statistics.median(cells):7.0f} {statistics.median(backs):5.0f}"
    )


def _busy(tab: Page) -> float:
    """Milliseconds of CPU that the page's main thread has used: on a busy machine the others say little."""
    metrics = {each["name"]: each["value"] for each in tab.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"]) * 1000


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or list(SIZES))
