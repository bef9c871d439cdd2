"""Makes the pictures of docs/filters.md: a slice before and after each filter, and what the filter took away.

usage: pictures.py FOLDER    writes a picture for each filter there and prints the captions

Needs NumPy and nibabel, and niimpi on the PATH or in NIIMPI_BIN. The image is one of `niimpi synth`, so
everybody gets the same pictures.
"""

import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import nibabel
import numpy as np

SYNTH = "niimpi synth {} --count 1 --datatype float32 --noise {}"
# The commands as a user types them, and the folders of their results.
COMMANDS = {
    "smooth": ("niimpi smooth noisy --output smoothed --fwhm 4", "smoothed"),
    "median": ("niimpi median noisy --output filtered --size 3", "filtered"),
    "denoise": ("niimpi denoise noisy --output denoised", "denoised"),
    "gaussian": ("niimpi denoise noisy --output gaussian --noise-model gaussian", "gaussian"),
}
SLICE = 50
# Intensities that are shown black and white, and the difference that is.
SHOWN = (0.0, 1250.0)
LARGEST_DIFFERENCE = 400.0
# Each voxel is so many pixels high and wide.
ZOOM = 2


def run(command, folder):
    program = os.environ.get("NIIMPI_BIN", "niimpi")
    words = [program, *command.split()[1:]]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def image_of(folder):
    return nibabel.load(folder / "sample_1.nii.gz").get_fdata(dtype=np.float32)


def psnr_db(image, clean):
    """Peak signal-to-noise ratio within the head, by the largest intensity without noise."""
    head = clean > 0
    error = np.mean((image[head].astype(float) - clean[head]) ** 2)
    return 10 * np.log10(float(clean.max()) ** 2 / error)


def grey(image, low, high):
    """A slice in bytes, the front of the head above."""
    levels = np.rint((image[:, ::-1, SLICE].T - low) / (high - low) * 255)
    return np.clip(levels, 0, 255).astype(np.uint8).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def write_png(path, pixels):
    """An 8-bit grey picture. Each row is stored as its difference from the row above."""
    above = np.vstack([np.zeros_like(pixels[:1]), pixels[:-1]])
    rows = np.pad(pixels - above, ((0, 0), (1, 0)), constant_values=2)
    height, width = pixels.shape
    parts = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


def make(folder):
    """Writes the pictures; returns their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, noise in (("noisy", 8), ("clean", 0)):
            run(SYNTH.format(name, noise), scratch)
        clean, noisy = image_of(scratch / "clean"), image_of(scratch / "noisy")
        for name, (command, output) in COMMANDS.items():
            run(command, scratch)
            result = image_of(scratch / output)
            difference = grey(noisy - result, -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
            gap = np.full((difference.shape[0], 4), 255, np.uint8)
            panels = [grey(noisy, *SHOWN), gap, grey(result, *SHOWN), gap, difference]
            write_png(folder / f"{name}.png", np.hstack(panels))
            before, after = psnr_db(noisy, clean), psnr_db(result, clean)
            captions.append(f"`{command}`: PSNR {before:.1f} dB before, {after:.1f} dB after")
    return captions


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(make(Path(sys.argv[1]))))
