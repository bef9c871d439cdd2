"""Headers that violate the standard are read with a warning, or refused if voxels would be shifted."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import scipy.ndimage

import images
from filters import FILTERS, each_filter
from program import smooth
from test_ranks import sums

RNG = np.random.default_rng(13)
ARRAY = images.random_array(RNG, (9, 8, 7), "int16")


def patched(array, *changes, version=1):
    """The bytes of a single-file image with changed header values: (format, offset, values…)."""
    content = bytearray(images.image_bytes(array, images.header_for(array, version=version)))
    for form, at, *values in changes:
        struct.pack_into(form, content, at, *values)
    return bytes(content)


# nibabel reads these, too, except the offset of 0: name, bytes, text of the warning.
ODD = {
    "bitpix_0": (patched(ARRAY, ("<h", 72, 0)), "0 bits per voxel"),
    "bitpix_8": (patched(ARRAY, ("<h", 72, 8)), "8 bits per voxel"),
    "bitpix_32": (patched(ARRAY, ("<h", 14, 32), version=2), "32 bits per voxel"),
    "offset_0": (patched(ARRAY, ("<f", 108, 0)), "vox_offset is 0"),
    "offset_0_nifti2": (patched(ARRAY, ("<q", 168, 0), version=2), "vox_offset is 0"),
    "size_540": (patched(ARRAY, ("<i", 0, 540)), "sizeof_hdr is 540"),
    "size_0": (patched(ARRAY, ("<i", 0, 0)), "sizeof_hdr is 0"),
    "surplus": (patched(ARRAY) + bytes(2 * 1008), "2016 more bytes follow"),
    "one_line": (patched(ARRAY.reshape(-1, 1, 1)), "504×1×1 is one line of voxels"),
}


@each_filter
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", ODD)
def test_odd_headers_are_read_as_nibabel_reads_them(tmp_path, name, ending, filter):
    content, warning = ODD[name]
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    if name == "one_line" and filter.thin_code:
        filter.run(path, tmp_path / "out", expect=filter.thin_code)
        return
    finished = filter.run(path, tmp_path / "out")
    assert warning in finished.stderr, finished
    # With an offset of 0, nibabel reads the header as voxels.
    array = ARRAY if name.startswith("offset_0") else np.asarray(nibabel.load(path).dataobj)
    # The result is that of the same voxels under a usual header.
    usual = images.write(tmp_path / "usual" / path.name, array, version=2 if content[344:346] != b"n+" else 1)
    filter.run(usual, tmp_path / "expected")
    assert sums(tmp_path / "out") == sums(tmp_path / "expected")
    result = tmp_path / "out" / path.name
    if filter is FILTERS[0]:
        expected = scipy.ndimage.gaussian_filter(array, 1)
        np.testing.assert_array_equal(np.asarray(nibabel.load(result).dataobj), expected)
    # The written header is regular, apart from the shape.
    again = filter.run(result, tmp_path / "again")
    assert name == "one_line" or warning not in again.stderr, again


def test_an_axis_of_length_0_is_read_as_1(tmp_path):
    """nibabel returns an empty array. FSL, AFNI and ITK read one volume."""
    path = tmp_path / "a.nii"
    path.write_bytes(patched(ARRAY, ("<h", 40, 4), ("<h", 48, 0)))
    finished = smooth(path, tmp_path / "out", "--sigma=1")
    assert "dim[4] is 0" in finished.stderr, finished
    result = nibabel.load(tmp_path / "out" / "a.nii")
    assert result.shape == (9, 8, 7, 1)
    np.testing.assert_array_equal(np.asarray(result.dataobj)[..., 0], scipy.ndimage.gaussian_filter(ARRAY, 1))


def surface(tmp_path):
    values = np.arange(163842, dtype="f4").reshape(-1, 1, 1)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "ico7.nii")
    return (tmp_path / "ico7.nii").read_bytes()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_offsets_inside_the_header_and_surfaces_are_refused(tmp_path, ending):
    """Each cause describes the problem. nibabel refuses these offsets, too."""
    offsets = {f"at_{offset}": patched(ARRAY, ("<f", 108, offset)) for offset in (1, 16, 340, 348, 351)}
    offsets["at_543"] = patched(ARRAY, ("<q", 168, 543), version=2)
    vector = images.random_array(RNG, (40, 1, 1), "float32")
    surfaces = {
        "ico7": surface(tmp_path),
        "glmin": patched(vector, ("<h", 42, -1), ("<i", 144, 40)),
    }
    source = tmp_path / "in"
    source.mkdir()
    for name, content in {**offsets, **surfaces}.items():
        (source / f"{name}{ending}").write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    images.series(source, 1)
    finished = smooth(source, tmp_path / "out", "--sigma=1", expect=1)
    failed = {r["input"]: r["error"] for r in finished.report["images"] if r["status"] == "failed"}
    assert len(failed) == len(offsets) + len(surfaces), failed
    for path, error in failed.items():
        name = path.rpartition("/")[2].partition(".")[0]
        if name in surfaces:
            assert "FreeSurfer surface overlay" in error and "mri_surf2surf" in error
        else:
            assert f"byte {name[3:]} (vox_offset), inside the header" in error
            with pytest.raises(nibabel.spatialimages.HeaderDataError):
                nibabel.load(path)


def test_many_images_with_one_problem_are_one_line(tmp_path):
    """Voxel sizes of pixdim and affine differ in forty images. The report contains the warning of each."""
    header = images.header_for(ARRAY, zooms=(2, 2, 2), affine=images.diagonal(3, 2, 2))
    for number in range(40):
        images.write(tmp_path / "in" / f"image_{number}.nii", ARRAY, header)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--fwhm=4", threads=2)
    lines = [line for line in finished.stderr.splitlines() if "by pixdim but" in line]
    assert len(lines) == 1 and "40 images, first" in lines[0] and "image_0.nii" in lines[0], finished
    assert "3×2×2 mm by the affine" in lines[0], lines
    for record in finished.report["images"]:
        assert [warning["kind"] for warning in record["warnings"]] == ["voxel_size"]
    # A width in voxels does not depend on the voxel size.
    finished = smooth(tmp_path / "in", tmp_path / "again", "--sigma=1", threads=2)
    assert "by pixdim" not in finished.stderr
