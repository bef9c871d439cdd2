"""The content of written files: header fields, extensions (byte for byte), gzip, names."""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

import images
import reference
from program import smooth

# Fields that the program sets, because voxels or byte order may differ from the input's.
SET_BY_THE_PROGRAM = {"datatype", "bitpix", "scl_slope", "scl_inter", "vox_offset", "magic"}
# Fields unused since Analyze, and bounds of the voxel values, which smoothing changes.
FREE = {"data_type", "db_name", "extents", "session_error", "regular", "glmax", "glmin", "cal_max", "cal_min"}


def full_header(array, order, version):
    """A header with a distinct value in every field that a program could lose."""
    affine = np.array([[-1.9, 0.1, 0.2, 80], [0.1, 2.1, -0.3, -110], [-0.2, 0.3, 2.4, -60], [0, 0, 0, 1]])
    header = images.header_for(array, order, version, affine=affine)
    header["pixdim"] = [-1, 1.9123, 2.1456, 2.4789, 1.25, 7, 8, 9]
    header["qform_code"], header["sform_code"] = 1, 4
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0.1, 0.2, -0.3
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = 80.5, -110.25, -60.125
    header["xyzt_units"] = 2 + 8
    header["descrip"] = b"a description of eighty bytes at most, \xc3\xa9"
    header["aux_file"] = b"other.txt"
    header["intent_code"] = 1005
    header["intent_p1"], header["intent_p2"], header["intent_p3"] = 1.5, 2.5, 3.5
    header["intent_name"] = b"F statistic"
    header["dim_info"] = 1 + (2 << 2) + (3 << 4)
    header["slice_code"], header["slice_start"], header["slice_end"] = 3, 1, 5
    header["slice_duration"], header["toffset"] = 0.0625, 12.5
    return header


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(input, output) of one run over files of both versions, byte orders and forms, with and without
    scaling."""
    folder = tmp_path_factory.mktemp("outputs")
    source = folder / "in"
    rng = np.random.default_rng(41)
    paths = []
    for version in (1, 2):
        for order_name, order in images.ORDERS.items():
            for datatype in ("uint8", "int16", "uint32", "float32", "float64"):
                for scaled in (False, True):
                    array = images.random_array(rng, (8, 9, 7, 2), datatype)
                    header = full_header(array, order, version)
                    header["scl_slope"], header["scl_inter"] = (0.5, -3) if scaled else (1, 0)
                    name = f"{datatype}_{'scaled' if scaled else 'plain'}"
                    here = source / f"nifti{version}_{order_name}"
                    extensions = images.extension(6, b"kept as it is", order) + images.extension(
                        40, bytes(range(256)), order
                    )
                    paths.append(images.write(here / f"{name}.nii.gz", array, header, extensions))
                    paths.append(images.write(here / f"{name}_bare.nii", array, header))
                    paths.append(images.write_pair(here / f"{name}_pair.hdr", array, header))
                    paths.append(images.write_pair(here / f"{name}_pairz.hdr.gz", array, header, extensions))
    finished = smooth(source, folder / "out", "--sigma=1.0", threads=2)
    done = reference.outputs(finished.report)
    return source, folder / "out", [(path, Path(done[reference.stem(path)])) for path in paths]


def content(path):
    raw = Path(path).read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def header_path(path):
    """The file that contains the header of an image."""
    return Path(str(path).replace(".img", ".hdr"))


def extensions_of(path):
    """(code, bytes) of each extension in a file."""
    raw = content(header_path(path))
    little = raw[0] in (348 & 255, 540 & 255) and raw[1] in (348 >> 8, 540 >> 8)
    order = "<" if little else ">"
    size = struct.unpack_from(f"{order}i", raw)[0]
    if len(raw) < size + 4 or raw[size] == 0:
        return []
    single = raw[4:8] == b"n+2\0" if size == 540 else raw[344:348] == b"n+1\0"
    end = len(raw)
    if single:
        end = (
            struct.unpack_from(f"{order}q", raw, 168)[0]
            if size == 540
            else int(struct.unpack_from(f"{order}f", raw, 108)[0])
        )
    found, at = [], size + 4
    while at + 8 <= end:
        length, code = struct.unpack_from(f"{order}ii", raw, at)
        if length < 8:
            break
        found.append((code, raw[at + 8 : at + length]))
        at += length
    return found


def test_nibabel_opens_every_output(written):
    _, _, pairs = written
    assert len(pairs) == 160
    for source, output in pairs:
        a, image = nibabel.load(source), nibabel.load(output)
        voxels = np.asarray(image.dataobj)
        assert voxels.shape == a.shape, output
        assert type(image) is type(a), f"{output}: version or form differs from the input's"


def test_header_fields_are_the_inputs(written):
    _, _, pairs = written
    for source, output in pairs:
        before, after = nibabel.load(source).header, nibabel.load(output).header
        for field in before.keys():
            if field in SET_BY_THE_PROGRAM | FREE or field == "sizeof_hdr":
                continue
            one, other = before[field], after[field]
            assert np.array_equal(one, other), f"{output}: {field} was {one}, is {other}"


def test_geometry_as_nibabel_sees_it_is_the_inputs(written):
    _, _, pairs = written
    for source, output in pairs:
        before, after = nibabel.load(source), nibabel.load(output)
        assert before.affine.tobytes() == after.affine.tobytes(), output
        for form in ("get_qform", "get_sform"):
            one, code = getattr(before.header, form)(coded=True)
            other, other_code = getattr(after.header, form)(coded=True)
            assert code == other_code and np.array_equal(one, other), f"{output}: {form}"
        assert before.header.get_zooms() == after.header.get_zooms(), output
        assert before.header.get_xyzt_units() == after.header.get_xyzt_units() == ("mm", "sec"), output
        assert before.header.get_intent() == after.header.get_intent(), output
        assert before.header["descrip"] == after.header["descrip"], output


def test_extensions_are_kept_byte_for_byte(written):
    _, _, pairs = written
    kept = 0
    for source, output in pairs:
        before, after = extensions_of(source), extensions_of(output)
        assert before == after, output
        kept += len(after)
    assert kept == 160, "every other file has two extensions"


def test_little_endian_without_scaling(written):
    _, _, pairs = written
    for source, output in pairs:
        raw = content(header_path(output))
        assert struct.unpack_from("<i", raw)[0] in (348, 540), f"{output}: not little-endian"
        kind = type(nibabel.load(output).header)
        kind = type(nibabel.load(output).header)
        again = kind(raw[: kind.sizeof_hdr], check=False)
        assert (again["scl_slope"], again["scl_inter"]) == (1, 0), output
        a, image = reference.array_of(source)
        same = np.dtype("float32") if reference.is_scaled(image) else a.dtype.newbyteorder("<")
        assert again.get_data_dtype() == same, output
        assert again["bitpix"] == same.itemsize * 8, output


def test_files_have_the_size_that_their_headers_say(written):
    _, _, pairs = written
    for _, output in pairs:
        image = nibabel.load(output)
        voxels = Path(str(output).replace(".hdr", ".img"))
        length = len(content(voxels))
        expected = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        assert length == expected, f"{voxels} has {length} bytes, its header says {expected}"
        if str(output).endswith((".nii", ".nii.gz")):
            assert image.dataobj.offset >= image.header.single_vox_offset
            assert image.dataobj.offset % 16 == 0, f"{output}: voxels start at byte {image.dataobj.offset}"


def test_compressed_files_are_reproducible(written):
    """The gzip header has no time and no name, and there is only one member, for readers that expect one."""
    _, _, pairs = written
    seen = 0
    for _, output in pairs:
        for path in {header_path(output), Path(str(output).replace(".hdr", ".img"))}:
            raw = path.read_bytes()
            assert (raw[:2] == b"\x1f\x8b") == path.name.endswith(".gz"), f"{path}: its name says otherwise"
            if path.name.endswith(".gz"):
                flags, mtime = raw[3], struct.unpack_from("<I", raw, 4)[0]
                assert (flags, mtime) == (0, 0), path
                member = zlib.decompressobj(wbits=31)
                member.decompress(raw)
                assert member.eof and not member.unused_data, f"{path}: more than one member"
                seen += 1
    assert seen == 40 + 2 * 40


def test_the_output_folder_mirrors_the_input_and_holds_nothing_else(written):
    source, output, _ = written
    names = lambda folder: sorted(str(path.relative_to(folder)) for path in images.results(folder))
    assert names(output) == names(source)


def test_compression_levels_hold_the_same_voxels(tmp_path):
    path = images.write(
        tmp_path / "in" / "a.nii.gz", images.random_array(np.random.default_rng(1), (20, 21, 22), "int16")
    )
    seen = set()
    for level in range(10):
        finished = smooth(path, tmp_path / f"out{level}", "--sigma=1.5", f"--compression={level}")
        seen.add(content(finished.report["images"][0]["output"]))
    assert len(seen) == 1


def test_input_files_are_untouched(tmp_path):
    images.series(tmp_path / "in", 3)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    times = images.tree(tmp_path / "in")
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1")
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert images.tree(tmp_path / "in") == times
