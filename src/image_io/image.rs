//! An image in memory: header and voxels.

use super::header::Header;
use super::header_layout::Version;
use crate::volume::Volume;

/// An image: its header and its voxels. Reading another image into it reuses its memory.
///
/// ```
/// use niimpi::image_io::Image;
/// use niimpi::volume::{Datatype, Volume};
///
/// let image = Image::new(Volume::zeros(&[9, 8, 7], Datatype::Float32));
/// assert_eq!(image.header.shape(), [9, 8, 7]);
/// ```
#[derive(Default)]
pub struct Image {
    /// Everything except the voxels; copied to the output.
    pub header: Header,
    /// The voxels with shape, datatype and scaling.
    pub volume: Volume,
}

impl Image {
    /// A new image with these voxels: NIfTI-1, or NIfTI-2 if an axis is too long for that, and voxel 0 at the
    /// origin.
    pub fn new(volume: Volume) -> Self {
        let long = volume.shape.iter().any(|&len| len > i16::MAX as usize);
        let version = if long { Version::Nifti2 } else { Version::Nifti1 };
        let header = Header::new(version, &volume.shape, volume.datatype, volume.voxel_size_mm);
        Image { header, volume }
    }
}
