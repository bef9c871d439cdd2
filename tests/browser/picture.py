"""Makes docs/report.png: the top of the page of a run over sample images.

usage: picture.py FILE.png

Needs niimpi in NIIMPI_BIN, and Chromium and chromedriver (.ci/install browser). Times differ from run to run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from webdriver import Browser

IMAGES = "400"
OPTIONS = ["--fwhm", "6", "--threads", "2", "--qc"]
WIDTH, HEIGHT = 1000, 1130


def main(picture):
    program = os.environ["NIIMPI_BIN"]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "run.html"
        for words in (
            ["synth", "data", "--count", IMAGES],
            ["smooth", "data", "--output", "out", *OPTIONS, "--report-html", page],
        ):
            subprocess.run([program, *words], cwd=folder, check=True)
        browser = Browser(shutil.which("chromedriver"), shutil.which("chromium"))
        try:
            browser.open(page)
            browser.resize(WIDTH)
            browser.screenshot(picture, HEIGHT)
        finally:
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
