//! Probing: reads the header of an image, a few KiB of its file.

use std::path::Path;

use super::affine::Affine;
use super::error::ImageError;
use super::files::{ImageFiles, OpenFile};
use super::gzip::Decoder;
use super::header::Header;
use super::header_layout::{Layout, Version};
use super::input_stream::InputStream;
use super::read_header::{check_size, read_header};
use super::voxel_size::VoxelSizeDisagreement;
use super::warning::Warning;
use crate::volume::{Datatype, Geometry};

/// Bytes of a compressed file read at a time.
const INPUT_LEN: usize = 4 << 10;

/// Information from the header of an image.
///
/// ```
/// use niimpi::image_io::{Image, ImageWriter, probe};
/// use niimpi::volume::{Datatype, Volume};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("image.nii.gz");
/// let image = Image::new(Volume::zeros(&[1], Datatype::Uint8));
/// ImageWriter::new().write(&path, &image)?;
///
/// let probe = probe(&path)?;
/// assert_eq!(probe.shape, [1]);
/// assert!(probe.warnings.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The NIfTI version.
    pub version: Version,
    /// Lengths of the axes, x first; 1 to 7 of them, none 0.
    pub shape: Vec<usize>,
    /// The type of the voxels in the file.
    pub datatype: Datatype,
    /// Whether the stored numbers have a slope or an intercept.
    pub scaled: bool,
    /// Distance between voxel centres along x, y and z, in mm.
    pub voxel_size_mm: [f64; 3],
    /// Where the voxels lie, in mm.
    pub affine: Affine,
    /// The fields that give the voxel size.
    pub geometry: Geometry,
    /// Both voxel sizes, if pixdim and the affine disagree.
    pub voxel_size_disagreement: Option<VoxelSizeDisagreement>,
    /// Bytes of the file before compression; in a pair, those of the `.img`.
    pub raw_bytes: u64,
    /// Bytes of the file on the disk, or of both halves of a pair.
    pub file_bytes: u64,
    /// Oddities of the header and, as far as file sizes show them, of the voxels.
    pub warnings: Vec<Warning>,
    /// The header itself.
    pub(crate) header: Header,
}

/// Reads only the header of the image at `path`. A file is refused if its size shows that it is too short for
/// what its header declares.
///
/// # Errors
/// See [`Cause`](super::Cause).
pub fn probe(path: &Path) -> Result<Probe, ImageError> {
    let files = ImageFiles::of(path)?;
    let layout = files.layout();
    let mut decoder = Decoder::new(INPUT_LEN);
    let mut header = Header::default();
    let opened = OpenFile::open(&files.header)?;
    let mut file_bytes = opened.id.bytes;
    let mut stream = InputStream::new(opened, &mut decoder);
    let at_header = |cause: super::error::Cause| cause.at(&files.header);
    read_header(&mut stream, &mut header, layout).map_err(at_header)?;
    let raw_bytes = match layout {
        Layout::SingleFile => check_size(&stream, &mut header, layout).map_err(at_header)?,
        Layout::Pair => {
            drop(stream);
            let voxels = files.voxels()?;
            let opened = OpenFile::open(&voxels)?;
            file_bytes += opened.id.bytes;
            let stream = InputStream::new(opened, &mut decoder);
            check_size(&stream, &mut header, layout).map_err(|cause| cause.at(&voxels))?
        }
    };
    Ok(Probe {
        version: header.version(),
        shape: header.shape().to_vec(),
        datatype: header.datatype(),
        scaled: header.scaling().is_some(),
        voxel_size_mm: header.voxel_size_mm(),
        affine: header.affine(),
        geometry: header.geometry(),
        voxel_size_disagreement: header.voxel_size_disagreement(),
        raw_bytes,
        file_bytes,
        warnings: header.warnings().to_vec(),
        header,
    })
}
