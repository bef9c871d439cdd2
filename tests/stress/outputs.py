"""The images of the stress tests, and the comparison of what is there with what should be."""

import hashlib

import numpy as np

import images
from program import smooth

COUNT = 12
# Tens of milliseconds per image: rivals and kills meet most images half done.
SIGMAS = (200, 250)


def make_source(folder, suffix):
    """Images, and what undisturbed runs make of them with each sigma: {sigma: {name: digest}}."""
    source = folder / "in"
    array = images.random_array(np.random.default_rng(5), (56, 56, 56), "float32")
    for number in range(1, COUNT + 1):
        write = images.write_pair if suffix == ".hdr" else images.write
        write(source / f"sample_{number}{suffix}", array + number)
    whole = {}
    for sigma in SIGMAS:
        out = folder / f"whole-{sigma}"
        smooth(source, out, f"--sigma={sigma}")
        whole[sigma] = digests(out)
    return source, whole


def digests(folder):
    """Name → digest of every file that is not hidden."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".niimpi") for part in name.parts):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def stem(name):
    return name.partition(".")[0]


def check_whole(found, whole):
    """Every image that has its header, or its one file, is all of one sigma; returns {stem: sigma}."""
    kinds = {}
    names = {name for name in found if not name.endswith(".img")}
    for name in names:
        halves = [name, name[: -len(".hdr")] + ".img"] if name.endswith(".hdr") else [name]
        # Headers of two sigmas may be the same bytes: the voxels tell.
        fits = [s for s, files in whole.items() if all(found.get(half) == files[half] for half in halves)]
        assert fits, f"{name} is a mixture or damaged: {[found.get(half) for half in halves]}"
        kinds[stem(name)] = fits[0]
    return kinds
