"""The images of the stress tests, and the comparison of results with the expected ones."""

import hashlib

import numpy as np

import images
from filters import Filter

COUNT = 12
# Images take tens of milliseconds, so that other runs and kills usually interrupt an image in progress.
BROAD, BROADER = (Filter(f"sigma-{sigma}", "smooth", (f"--sigma={sigma}",), ()) for sigma in (200, 250))


def make_source(folder, suffix, filters=(BROAD, BROADER), length=56):
    """Images, and what undisturbed runs of each filter make of them: {filter: {name: digest}}."""
    source = folder / "in"
    array = images.random_array(np.random.default_rng(5), (length,) * 3, "float32")
    for number in range(1, COUNT + 1):
        write = images.write_pair if suffix == ".hdr" else images.write
        write(source / f"sample_{number}{suffix}", array + number)
    whole = {}
    for filter in filters:
        out = folder / f"whole-{filter.name}"
        filter.run(source, out)
        whole[filter] = digests(out)
    # Otherwise no test could say which filter an image is of. (Headers of pairs may be equal.)
    for name in next(iter(whole.values())):
        kinds = {files[name] for files in whole.values()}
        assert name.endswith(".hdr") or len(kinds) == len(filters), f"{name} does not depend on the filter"
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
    """Every image that has its header, or its one file, is all of one filter; returns {stem: filter}."""
    kinds = {}
    names = {name for name in found if not name.endswith(".img")}
    for name in names:
        halves = [name, name[: -len(".hdr")] + ".img"] if name.endswith(".hdr") else [name]
        # Headers of two filters may be the same bytes: the voxels tell.
        own = {half: found.get(half) for half in halves}
        fits = [filter for filter, files in whole.items() if own.items() <= files.items()]
        assert fits, f"{name} is a mixture or damaged: {own}"
        kinds[stem(name)] = fits[0]
    return kinds
