"""The report's page in headless Chromium: no request, no error, sorting by keyboard, contrast, narrow
screens.

NIIMPI_REQUIRE_BROWSER=1 fails instead of skipping without Chromium or axe-core. NIIMPI_SCREENSHOTS=FOLDER
keeps a picture of each page at 1280 and 400 pixels.
"""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from program import run
from webdriver import Browser

AXE = Path(__file__).parents[2] / ".axe-core" / "package" / "axe.min.js"
TAB, ENTER, SPACE = "\ue004", "\ue007", " "
KINDS = ["400", "40000", "failed", "merged", "quality"]


def missing(what):
    if os.environ.get("NIIMPI_REQUIRE_BROWSER"):
        pytest.fail(f"{what} is missing: run .ci/install browser")
    pytest.skip(f"{what} is missing; .ci/install browser installs it")


@pytest.fixture(scope="session")
def browser():
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        missing("Chromium or chromedriver")
    browser = Browser(chromedriver, chromium)
    yield browser
    browser.close()


def niimpi(*words, codes=(0,)):
    finished = run([str(word) for word in words])
    assert finished.code in codes, finished
    return finished.stdout


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """The page of each kind of report, by name."""
    folder = tmp_path_factory.mktemp("pages")
    images = folder / "images"
    niimpi("synth", images, "--count", 400, "--shape", "8,8,8", "--seed", 1)

    def smooth(name, *options, output=None, codes=(0,)):
        report, page = folder / f"{name}.json", folder / f"{name}.html"
        words = ["smooth", images, "--output", folder / (output or f"out-{name}"), "--sigma", 1]
        words += ["--threads", 2, "--no-sync", "--report", report, "--report-html", page]
        niimpi(*words, *options, codes=codes)
        return report

    report = json.loads(smooth("400").read_text())
    many = synthetic(report, 40_000)
    (folder / "40000.json").write_text(json.dumps(many))
    shards = [smooth(f"{part}", "--shard", f"{part}/2", output="out-shards") for part in (1, 2)]
    niimpi("report", "merge", *shards, "--output", folder / "merged.json")
    for name in ("40000", "merged"):
        page = niimpi("report", "show", folder / f"{name}.json", "--format", "html")
        (folder / f"{name}.html").write_text(page)
    smooth("quality", "--qc", "--limit", 60)
    (images / '"><img src=x onerror=alert(1)>.nii').write_bytes(b"no image")
    (images / "empty.nii").write_bytes(b"")
    (images / "annexed.nii").symlink_to(".git/annex/objects/absent")
    (images / "cut.nii.gz").write_bytes((images / "sample_1.nii.gz").read_bytes()[:-20])
    smooth("failed", codes=(1,))
    return {name: folder / f"{name}.html" for name in KINDS}


def synthetic(report, count):
    """A report of `count` images on 16 ranks with 4 workers."""
    many = copy.deepcopy(report)
    ranks, workers = 16, 4
    each = count // (ranks * workers)
    image, rank = report["images"][0], report["ranks"][0]
    stages = {"read_s": 0.1, "filter_s": 0.4, "write_s": 0.2, "publish_s": 0.1}
    many["images"] = [
        image
        | stages
        | {"index": place + 1, "rank": place % ranks, "worker": place // ranks % workers}
        | {"start_s": 0.8 * (place // (ranks * workers))}
        for place in range(count)
    ]
    sums = {name: seconds * each * workers for name, seconds in stages.items()}
    sums |= {"elapsed_s": 0.8 * each, "idle_s": 0.1 * each * workers, "threads": workers}
    many["ranks"] = [
        rank | sums | {"rank": number, "images": each * workers, "done": each * workers}
        for number in range(ranks)
    ]
    many["totals"] |= {"images": count, "done": count}
    return many


@pytest.fixture(params=KINDS)
def page(request, pages, browser):
    return pages[request.param]


def test_it_loads_at_once_without_requests_and_errors(page, browser):
    seconds = browser.open(page)
    size = page.stat().st_size
    print(f"{page.name}: {size / 1e3:.0f} kB, loaded in {seconds:.2f} s")
    pictures = browser.run("return document.images.length")
    assert (pictures > 20) == (page.stem == "quality")
    assert browser.run("return [...document.images].every(it => it.complete && it.naturalWidth > 100)")
    assert size < 400_000 + pictures * 60_000
    requests = [it for it in browser.requests() if not it.startswith("data:")]
    assert requests in ([page.as_uri()], [])
    assert browser.console() == []
    assert browser.run("return document.scripts.length") == 1


def test_the_keyboard_sorts_the_ranks(pages, browser):
    browser.open(pages["40000"])
    browser.resize(1280)
    cells = "document.querySelectorAll('table.sortable tbody td:first-child')"
    first = f"return [...{cells}].map(it => +it.textContent)"
    assert browser.run(first) == list(range(16))
    browser.run("document.querySelector('.sortable').closest('.wide').focus()")
    browser.press(TAB)
    assert browser.run("return document.activeElement.textContent") == "rank"
    browser.press(ENTER)
    assert browser.run("return document.activeElement.parentNode.ariaSort") == "ascending"
    browser.press(SPACE)
    assert browser.run("return document.activeElement.parentNode.ariaSort") == "descending"
    # By number, not by text: 15, 14, … 10, 9.
    assert browser.run(first) == list(range(15, -1, -1))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_accessibility_and_contrast(page, browser, dark):
    if not AXE.exists():
        missing("axe-core")
    browser.open(page)
    browser.resize(1280, dark)
    browser.run(AXE.read_text())
    found = browser.run_async("const done = arguments[0]; axe.run().then(found => done(found))")
    checked = {rule["id"] for rule in found["passes"]}
    assert "color-contrast" in checked
    problems = [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]]
    assert problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_screen(page, browser, width, dark):
    browser.open(page)
    browser.resize(width, dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.images].every(it => it.getBoundingClientRect().right <= innerWidth)"
    assert browser.run(wide)
    if folder := os.environ.get("NIIMPI_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{page.stem}-{width}{'-dark' * dark}.png")


def test_it_is_readable_without_javascript_and_on_paper(pages, browser):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["400"])
        printed = browser.command("Page.printToPDF")["data"]
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert len(printed) > 10_000
    source = pages["400"].read_text()
    assert "<button" not in source and "400 of 400" in source and "<svg" in source


def test_the_failed_run_names_cause_and_cure(pages):
    source = pages["failed"].read_text()
    assert "&#60;img src=x" in source and "<img" not in source
    assert "is empty (0 bytes)" in source and "--resume" in source
    rows = [row for row in source.split("<tr>") if 'class="path"' in row]
    for name, cure in [
        ("empty.nii", "Replace the file by an intact copy"),
        ("cut.nii.gz", "Replace the file by an intact copy"),
        ("annexed.nii", "Fetch the content"),
        ("&#60;img src=x", "Leave the file out with --exclude"),
    ]:
        (row,) = [row for row in rows if name in row and "<td>read</td>" in row]
        assert cure in row, row


def test_a_rank_of_a_merged_run_begins_with_its_run(pages, browser):
    browser.open(pages["merged"])
    idle = "[...document.querySelectorAll('#timeline ~ .wide g rect.idle')]"
    begins = browser.run(f"return {idle}.map(it => it.x.baseVal.value)")
    ends = browser.run(f"return {idle}.map(it => it.x.baseVal.value + it.width.baseVal.value)")
    assert len(begins) == 4 and begins[0] == begins[1] == 0
    # The browser has single precision.
    assert begins[2] == begins[3] >= ends[0] > 0 and max(ends) < 860.001
