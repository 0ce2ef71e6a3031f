"""Time the runs explorer in Chromium over a large generated database: its data, until it is ready, and filters.

    python -m benchmarks.explorer [--runs 100000] [--rounds 20] [--write]

The page lies in files, as a report's does. A filter is timed inside the page, from the event of a typed letter until
the table has laid out its rows; processor time is that of the page's main thread, over all rounds, clearing the filter
in between. Needs chromium and chromedriver.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from analysis import files
from analysis.site.html import assets
from analysis.site.pages import Site
from benchmarks.lines import RESULTS, arguments_of, show
from benchmarks.report import generate
from sweeps.database.opening import open_database
from tests.analysis.site.browser import Browser, programs

OUTPUT = RESULTS / "explorer.txt"
STUDIES = 25
FILTERS = {
    "filter by a word": "large1",
    "filter by three words": "0.1 length done",
    "filter by study and seed": "study=large3 seed=0",
    "filter by an option and a number": "mask.ratio>0.1 ridge/digit_top1>60",
    "filter that all runs meet": "state=done",
    "filter that no run meets": "nothing",
}
TARGETS = {
    "filter by a word": "at most 200 ms",
    "filter by three words": "at most 200 ms",
    "filter by study and seed": "at most 200 ms",
    "filter by an option and a number": "at most 200 ms",
    "filter that all runs meet": "at most 200 ms",
    "filter that no run meets": "at most 200 ms",
}
NOTE_READY = """
new MutationObserver(() => { if (document.documentElement.dataset.explorer) window.readyAt ??= performance.now(); })
  .observe(document, { attributes: true, subtree: true, attributeFilter: ["data-explorer"] });
"""
TIME_FILTER = """
const table = Tabulator.findTable("#runs-table")[0], box = document.getElementById("filter"), found = [];
const answered = (text) => new Promise((done) => {
  const rendered = () => {
    table.off("renderComplete", rendered);
    document.body.offsetHeight;  // laid out
    done(performance.now() - start);
  };
  table.on("renderComplete", rendered);
  const start = performance.now();
  box.value = text;
  box.dispatchEvent(new Event("input"));
});
return (async (text, rounds) => {
  for (let n = 0; n < rounds; n += 1) { await answered(""); found.push(await answered(text)); }
  return [found, document.getElementById("count").textContent];
})(...arguments);
"""


def write_page(folder: Path, num_runs: int) -> Iterator[str]:
    """Write the explorer of a generated database; says how much it is."""
    engine = open_database(f"sqlite:///{folder / 'large.sqlite'}")
    generate(engine, num_runs=num_runs, num_points=4 * num_runs, num_studies=STUDIES)
    start = time.process_time()
    made = Site(engine).explorer_files()
    spent = time.process_time() - start
    engine.dispose()
    files.write(made | assets(), folder / "report")
    first = made.pop("explore/runs.js")
    sizes = [len(content) for name, content in made.items() if name.startswith("explore/")]
    yield (
        f"data of {num_runs:,} runs   {len(first) / 1e6:.2f} MB at first, {max(sizes) / 1e6:.2f} MB for a metric at "
        f"most; made in {spent:.1f} s of CPU"
    )


def measure(folder: Path, num_runs: int, rounds: int) -> Iterator[str]:
    found = programs()
    assert found is not None, "chromium and chromedriver are not installed"
    yield from write_page(folder, num_runs)
    browser = Browser(*found, folder / "profile")
    try:
        browser.command("Performance.enable", {"timeDomain": "threadTicks"})
        browser.command("Page.addScriptToEvaluateOnNewDocument", {"source": NOTE_READY})
        browser.open((folder / "report/explore.html").as_uri())
        browser.until("return window.readyAt > 0", seconds=100)
        ready, heap = browser.js("return window.readyAt"), metric(browser, "JSHeapUsedSize")
        version = browser.js("return navigator.userAgent.match(/Chrome.([0-9]+)/)[1]")
        yield f"page ready to be used   {ready:.0f} ms; {heap / 1e6:.0f} MB of script's memory; Chromium {version}"
        for name, text in FILTERS.items():
            before = metric(browser, "TaskDuration")
            times, said = browser.js(TIME_FILTER, text, rounds)
            spent = (metric(browser, "TaskDuration") - before) / (2 * rounds)
            yield (
                f"{name}   {median(times):.0f} ms (median of {rounds}; {min(times):.0f} the shortest; "
                f"{1e3 * spent:.0f} of processor), {said}"
            )
    finally:
        browser.close()


def metric(browser: Browser, name: str) -> float:
    found: list[dict[str, Any]] = browser.command("Performance.getMetrics", {})["metrics"]
    return float(next(one["value"] for one in found if one["name"] == name))


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20, help="of each filter")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        output = OUTPUT if options.write else None
        show(measure(folder, options.runs, options.rounds), output, benchmark=__file__, targets=TARGETS)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
