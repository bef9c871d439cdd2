//! Masks: reading the mask of an image and checking that it fits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::warning::Warning;
use crate::filter::{Mask, Outside};
use crate::image_io::{
    Affine, Cause, FileId, Header, Image, ImageError, ImageReader, Probe, SAME_GRID_VOX, corner_distance_vox,
    probe,
};
use crate::images::{self, MaskChoice};
use crate::volume::{NoMemory, VoxelBuffer};

/// Number of mask voxels read at a time.
const PIECE_VOXELS: usize = 1 << 16;

/// Which voxels of each image are filtered, and the values of the result elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masking {
    /// The source of masks.
    pub choice: MaskChoice,
    /// The values of the result outside, if they were given.
    pub outside: Option<Outside>,
}

/// Where the voxels of an image or mask lie.
struct Placement {
    shape: Vec<usize>,
    affine: Affine,
}

impl Placement {
    fn of(header: &Header) -> Self {
        Placement {
            shape: header.shape().to_vec(),
            affine: header.affine(),
        }
    }

    fn of_probe(probe: &Probe) -> Self {
        Placement {
            shape: probe.shape.clone(),
            affine: probe.affine,
        }
    }

    /// Lengths of x, y and z.
    fn spatial(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }

    /// The reason why the mask at `path` does not fit an image.
    fn fault(&self, path: &Path, image: &Placement) -> Option<String> {
        let lengths = |shape: &[usize]| {
            let lengths: Vec<String> = shape.iter().map(ToString::to_string).collect();
            lengths.join("×")
        };
        let path = path.display();
        let is_3d = self.shape.iter().skip(3).all(|&length| length == 1);
        if !is_3d || self.spatial() != image.spatial() {
            return Some(format!(
                "its mask {path} has {} voxels, the image {}; give a mask with the x, y and z of the image",
                lengths(&self.shape),
                lengths(&image.shape)
            ));
        }
        let apart_vox = corner_distance_vox(self.spatial(), &self.affine, &image.affine);
        // NaN counts as different.
        let is_same = apart_vox <= SAME_GRID_VOX;
        (!is_same).then(|| {
            format!(
                "its mask {path} lies elsewhere: by the affines, corners are up to {apart_vox:.4} voxels \
                 apart, and at most {SAME_GRID_VOX} is accepted; resample the mask to the image"
            )
        })
    }
}

/// A mask after reading.
pub(super) struct ReadMask {
    path: PathBuf,
    place: Placement,
    pub(super) mask: Arc<Mask>,
    /// The mask's files, with absolute paths.
    pub(super) files: Vec<FileId>,
    pub(super) warnings: Vec<Warning>,
}

impl ReadMask {
    /// The reason why the mask does not fit an image.
    pub(super) fn fault(&self, image: &Header) -> Option<String> {
        self.place.fault(&self.path, &Placement::of(image))
    }
}

/// Reads masks and keeps the last one, because often all images have the same mask.
#[derive(Default)]
pub(super) struct MaskReader {
    reader: Option<ImageReader>,
    last: Option<Arc<ReadMask>>,
}

impl MaskReader {
    /// The mask in this file, whose voxels may take so many bytes.
    pub(super) fn read(
        &mut self,
        path: &Path,
        limit_bytes: Option<u64>,
    ) -> Result<Arc<ReadMask>, ImageError> {
        if let Some(last) = self.last.take_if(|last| last.path == path) {
            return Ok(Arc::clone(self.last.insert(last)));
        }
        self.last = None;
        let reader = self.reader.get_or_insert_default();
        reader.set_memory_limit(limit_bytes);
        let read = Arc::new(read(reader, path)?);
        Ok(Arc::clone(self.last.insert(read)))
    }

    /// Bytes of the last mask.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.last
            .as_ref()
            .map_or(0, |last| last.mask.voxels().len() as u64)
    }

    pub(super) fn release_memory(&mut self) {
        self.last = None;
    }
}

/// Reads a mask piece by piece, so that it needs only one byte per voxel.
fn read(reader: &mut ImageReader, path: &Path) -> Result<ReadMask, ImageError> {
    let mut image = Image::default();
    let mut mask = Mask::default();
    let mut is_binary = true;
    let read = reader.read_with(path, None, &mut image, &mut |header, volume, next| {
        let of_one = volume.shape.iter().take(3).product();
        let no_memory = |error: NoMemory| Cause::OutOfMemory {
            needed: error.len_bytes as u64,
        };
        mask = Mask::of_len(of_one).map_err(no_memory)?;
        let mut piece = VoxelBuffer::default();
        let voxel_bytes = header.datatype().size_bytes();
        let mut found = 0;
        // The rest of a file with several volumes is skipped, because it does not fit.
        for first in (0..volume.len()).step_by(PIECE_VOXELS) {
            let end = volume.len().min(first + PIECE_VOXELS);
            piece
                .try_resize_for_overwrite((end - first) * voxel_bytes)
                .map_err(no_memory)?;
            let len = next(piece.as_bytes_mut())?;
            found += len;
            if len < piece.as_bytes().len() {
                break;
            }
            if header.is_big_endian() {
                piece.swap_bytes(voxel_bytes);
            }
            if let Some(inside) = mask.voxels_mut().get_mut(first..end.min(of_one)) {
                is_binary &= Mask::mark_above_zero(header.datatype(), header.scaling(), &piece, inside);
            }
        }
        // Its pages were never touched and will not be.
        volume.voxels.truncate(0);
        Ok(found)
    })?;
    let mut files = read.files;
    for file in &mut files {
        file.path = images::absolute(&file.path);
    }
    let mut warnings = Vec::new();
    if !is_binary {
        let text = format!(
            "its mask {} has values other than 0 and 1; all above 0 are inside",
            path.display()
        );
        warnings.push(Warning::new("mask_values", text));
    }
    if mask.voxels().iter().all(|&inside| inside == 0) {
        let text = format!("its mask {} has no voxel inside", path.display());
        warnings.push(Warning::new("mask_empty", text));
    }
    Ok(ReadMask {
        path: path.to_owned(),
        place: Placement::of(&image.header),
        mask: Arc::new(mask),
        files,
        warnings,
    })
}

/// The reason why an image cannot be masked, as far as both headers show it; `None` also if the image's own
/// header is wrong.
pub(crate) fn fault_by_headers(image: &Path, mask: &Path) -> Option<String> {
    let image_probe = probe(image).ok()?;
    let fault = match probe(mask) {
        Ok(probe) => Placement::of_probe(&probe).fault(mask, &Placement::of_probe(&image_probe))?,
        Err(error) => format!("its mask {error}"),
    };
    Some(format!("{}: {fault}", image.display()))
}
