"""Checks that the pictures and captions of docs/filters.md are the output of docs/filters/pictures.py."""

import importlib.util
import zlib
from pathlib import Path

import program

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(path):
    """The uncompressed rows of a picture, because other versions of zlib write other bytes."""
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    return zlib.decompress(content[start : start + int.from_bytes(content[start - 8 : start - 4])])


def test_pictures_and_captions_are_what_the_commands_make(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "filters" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    monkeypatch.setenv("NIIMPI_BIN", program.NIIMPI)
    captions = pictures.make(tmp_path)
    page = " ".join((DOCS / "filters.md").read_text().split())
    for caption in captions:
        assert caption in page, caption
    for name in pictures.COMMANDS:
        stored = DOCS / "filters" / f"{name}.png"
        assert f"](filters/{name}.png)" in page and stored.stat().st_size < 60_000
        assert rows(stored) == rows(tmp_path / f"{name}.png"), f"{stored}: make it with pictures.py"
    for name, noise in (("noisy", 8), ("clean", 0)):
        assert pictures.SYNTH.format(name, noise) in page
