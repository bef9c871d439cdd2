"""The list of filters, for tests that all filters must pass. A new filter needs an entry here."""

from dataclasses import dataclass, replace

import pytest

from program import HAS_RANKS, smooth


@dataclass(frozen=True)
class Filter:
    """The command of a filter with options, and options that give other results."""

    name: str
    command: str
    options: tuple
    other: tuple
    # The exit code for images that are thinner than the search for patches.
    thin_code: int = 0
    # Whether voxels that are NaN count as 0 in any case, and --nan is refused.
    zeroes_nan: bool = False

    @property
    def words(self):
        """The command line up to the images."""
        return [self.command, *self.options]

    @property
    def ranks(self):
        """Ranks of a test: two for smooth, none for the others, because starting ranks takes long."""
        return 2 if HAS_RANKS and self is FILTERS[0] else None

    @property
    def changed(self):
        """The same filter with the other options."""
        return replace(self, name=f"{self.name}-changed", options=self.other, other=self.options)

    def run(self, inputs, output, *options, **others):
        """Runs the filter. See `program.smooth`."""
        return smooth(inputs, output, *self.options, *options, command=self.command, **others)


BLOCKWISE = "--method=nlm-blockwise"
LIKE = "--like=nilearn"
FILTERS = (
    Filter("smooth", "smooth", ("--sigma=1",), ("--sigma=2",)),
    # Both methods often give the same float32 values, so another sigma gives other results.
    Filter("fft", "smooth", ("--sigma=2", "--method=fft"), ("--sigma=1", "--method=fft")),
    Filter("median", "median", ("--size=3",), ("--size=5",)),
    Filter("denoise", "denoise", ("--noise-model=rician",), ("--noise-model=gaussian",)),
    Filter("nlm", "denoise", ("--method=nlm", "--block-radius=2"), ("--method=nlm", "--block-radius=3"), 1),
    Filter("like", "smooth", (LIKE, "--fwhm=4"), (LIKE, "--fwhm=8"), zeroes_nan=True),
    Filter("blockwise", "denoise", (BLOCKWISE,), (BLOCKWISE, "--block-radius=1"), 1),
)

each_filter = pytest.mark.parametrize("filter", FILTERS, ids=lambda filter: filter.name)
