"""Images for the tests: NIfTI files of every kind, written byte by byte to control every field."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float32", "float64")
DATATYPES = INTEGERS + FLOATS
ORDERS = {"little": "<", "big": ">"}


def random_array(rng, shape, datatype):
    """Voxels over the range of the type in which scipy's cast from double is defined."""
    kind = np.dtype(datatype)
    if kind.kind == "f":
        return (rng.standard_normal(shape) * 1000).astype(kind)
    limits = np.iinfo(kind)
    low, high = limits.min, limits.max
    if kind.itemsize == 8:
        low, high = low // 2, high // 2
    return rng.integers(low, high, shape, dtype=kind, endpoint=True)


def header_for(array, order="<", version=1, zooms=None, affine=None, slope=None, inter=None):
    """A header for `array`. Without an affine, qform_code and sform_code are 0."""
    kind = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version]
    header = kind(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    header.set_data_shape(array.shape)
    if zooms is not None:
        header["pixdim"][1 : len(zooms) + 1] = zooms
    if affine is not None:
        header.set_sform(affine, code=2)
    if slope is not None:
        header["scl_slope"] = slope
    if inter is not None:
        header["scl_inter"] = inter
    return header


def extension(code, content, order="<"):
    """A header extension, padded to a multiple of 16 bytes as the standard requires."""
    size = -(-(8 + len(content)) // 16) * 16
    return struct.pack(f"{order}ii", size, code) + content.ljust(size - 8, b"\0")


def image_bytes(array, header, extensions=b"", vox_offset=None):
    """A single-file image: header, extensions, gap up to vox_offset, voxels. A vox_offset of 0 is written as
    0."""
    order = header.endianness
    header = header.copy()
    first = header.sizeof_hdr + 4 + len(extensions)
    offset = first if vox_offset is None else vox_offset
    header["vox_offset"] = offset
    header["magic"] = header.single_magic
    extender = b"\1\0\0\0" if extensions else b"\0\0\0\0"
    voxels = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    return (header.binaryblock + extender + extensions).ljust(max(offset, first), b"\0") + voxels


def write(path, array, header=None, extensions=b"", vox_offset=None, **header_options):
    """Writes a single-file image, compressed if its name ends in .gz. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = header if header is not None else header_for(array, **header_options)
    content = image_bytes(array, header, extensions, vox_offset)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_pair(path, array, header=None, extensions=b"", vox_offset=0, **header_options):
    """Writes a pair. `path` is the .hdr or .hdr.gz. Returns it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (header if header is not None else header_for(array, **header_options)).copy()
    order = header.endianness
    header["vox_offset"] = vox_offset
    header["magic"] = header.pair_magic
    head = header.binaryblock
    if extensions:
        head += b"\1\0\0\0" + extensions
    voxels = b"\0" * vox_offset + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    pack = (lambda content: gzip.compress(content, 1, mtime=0)) if path.suffix == ".gz" else bytes
    path.write_bytes(pack(head))
    path.with_name(path.name.replace(".hdr", ".img")).write_bytes(pack(voxels))
    return path


def diagonal(*sizes):
    """An affine with these voxel sizes and an origin."""
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = (-10.0, 12.5, 7.0)
    return affine


def series(folder, count, shape=(8, 9, 7), datatype="uint8", seed=0):
    """Writes sample_1.nii.gz … sample_<count>.nii.gz. Returns their paths."""
    rng = np.random.default_rng(seed)
    return [
        write(
            Path(folder) / f"sample_{index}.nii.gz",
            random_array(rng, shape, datatype),
            affine=diagonal(2, 2, 2),
        )
        for index in range(1, count + 1)
    ]


def results(folder):
    """Every path below an output folder except the journals, sorted."""
    return [
        path for path in sorted(Path(folder).rglob("*")) if ".niimpi" not in path.relative_to(folder).parts
    ]


def tree(folder):
    """Relative path → size and time of everything below a folder, to check that nothing was written."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_size if path.is_file() else None,
            path.lstat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }
