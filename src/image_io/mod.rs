//! Image files: reading, writing and probing NIfTI images.
//!
//! | file | contents |
//! |---|---|
//! | `file_name` | which names are images, their stems and suffixes, the two halves of a pair |
//! | `files` | the files of an image: finding, opening and watching them |
//! | `identity` | detecting changed files |
//! | `not_fetched` | names of files whose content git-annex, DataLad or git-lfs has not fetched |
//! | `image` | a volume with its header |
//! | `header`, `header_layout`, `voxel_size` | NIfTI-1 and NIfTI-2 headers: meaning and bytes |
//! | `affine` | where the voxels lie in space, and whether two grids are the same |
//! | `gzip` | gzip files, over ISA-L or flate2 |
//! | `itk_grid` | where the voxels lie in space, as ITK reads a header |
//! | `input_stream` | the content of a file, compressed or not |
//! | `read_header`, `read`, `probe` | reading a header, an image, or only the header's information |
//! | `write` | writing an image |
//! | `in_place` | several processes write to one file |
//! | `publish` | syncing and renaming complete files |
//! | `verify` | checking that written files are intact |
//! | `error`, `warning` | messages for all failures and oddities |
//!
//! An [`ImageReader`] and an [`ImageWriter`] belong to one thread and keep the codec's state and a few small
//! buffers. Voxels are inflated straight into the buffer of a [`Volume`](crate::volume::Volume) and deflated
//! straight out of it, so that an image needs little more memory than its decompressed size.
//!
//! ```
//! use niimpi::image_io::{Image, ImageReader, ImageWriter};
//! use niimpi::volume::{Datatype, Volume};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("image.nii.gz");
//! let volume = Volume::zeros(&[20, 30, 10], Datatype::Int16).with_voxel_size_mm([2.0, 2.0, 3.0]);
//! ImageWriter::new().write(&path, &Image::new(volume))?;
//!
//! let mut image = Image::default();
//! ImageReader::new().read(&path, &mut image)?;
//! assert_eq!(image.volume.shape, [20, 30, 10]);
//! assert_eq!(image.header.voxel_size_mm(), [2.0, 2.0, 3.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(target_endian = "big")]
compile_error!("image_io writes voxels directly from memory and needs a little-endian processor");

mod affine;
mod error;
pub mod file_name;
mod files;
mod gzip;
mod header;
mod header_layout;
mod identity;
mod image;
mod in_place;
mod input_stream;
mod itk_grid;
mod not_fetched;
mod probe;
mod publish;
mod read;
mod read_header;
mod read_slices;
mod verify;
mod voxel_size;
mod warning;
mod write;

pub use crate::atomic_file::Folders;
pub use affine::{Affine, SAME_GRID_VOX, corner_distance_vox};
pub use error::{Cause, ImageError};
pub(crate) use files::OpenedInput;
pub use files::identify;
pub use gzip::CompressionLevel;
pub(crate) use gzip::{Chunk, ChunkEncoder, Written};
pub use header::Header;
pub use header_layout::Version;
pub(crate) use identity::path_text;
pub use identity::{Crc32, FileId};
pub use image::Image;
pub(crate) use in_place::{InPlace, Place};
pub use probe::{Probe, probe};
pub(crate) use publish::Existing;
pub use publish::StagedFile;
pub use read::{ImageReader, ReadSummary};
pub(crate) use read_slices::SliceReader;
pub(crate) use verify::verify_sidecar;
pub use verify::{Verifier, input_crc32, pair_seems_intact, seems_intact};
pub use voxel_size::{LengthUnit, VoxelSizeDisagreement};
pub use warning::Warning;
pub use write::ImageWriter;
pub(crate) use write::{ChunkedWriter, WriteOptions, stage_sidecar};
