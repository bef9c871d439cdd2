//! Reading: from a path to an image in memory.

use std::path::Path;

use super::error::{Cause, ImageError};
use super::files::{OpenFile, OpenedInput};
use super::gzip::Decoder;
use super::header::Header;
use super::header_layout::Layout;
use super::identity::FileId;
use super::image::Image;
use super::input_stream::InputStream;
use super::read_header::{check_size, read_extensions, read_header, truncated, warn_of_surplus};
use super::read_slices::SliceReader;
use crate::volume::Volume;

/// Bytes of a compressed file read at a time.
const INPUT_LEN: usize = 1 << 20;

/// Facts about an image that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Bytes of the file on the disk, or of both halves of a pair.
    pub bytes_in: u64,
    /// The file, or both halves of a pair, the header first.
    pub files: Vec<FileId>,
    /// Bytes of the voxels in memory.
    pub voxel_bytes: u64,
}

/// Fills a buffer with the next content of a file and returns the number of bytes, less than requested only
/// at the end.
pub(crate) type NextBytes<'a> = dyn FnMut(&mut [u8]) -> Result<usize, Cause> + 'a;

/// Reads the voxels of an image into the volume's buffer and returns the number of bytes. The other fields of
/// the volume are set, and the buffer has its final size. The bytes keep the byte order of the file.
pub(crate) type TakeVoxels<'a> =
    dyn FnMut(&Header, &mut Volume, &mut NextBytes<'_>) -> Result<usize, Cause> + 'a;

/// The memory limit of images, and the memory that an image needs according to its header.
struct MemoryLimit {
    bytes: Option<u64>,
    need: Box<dyn Fn(&Header) -> u64 + Send>,
}

impl MemoryLimit {
    fn check(&self, header: &Header) -> Result<(), Cause> {
        let voxel_bytes = header.voxel_bytes().unwrap_or(u64::MAX);
        match self.bytes {
            Some(limit) => {
                let needed = (self.need)(header).max(voxel_bytes);
                match needed > limit {
                    true => Err(Cause::OverMemoryLimit { needed, limit }),
                    false => Ok(()),
                }
            }
            None => Ok(()),
        }
    }
}

/// Reads images, one after another. It keeps the codec's state and its buffers.
///
/// ```
/// use niimpi::image_io::{Image, ImageReader, ImageWriter};
/// use niimpi::volume::{Datatype, Volume};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("image.nii");
/// let image = Image::new(Volume::zeros(&[1], Datatype::Uint8));
/// ImageWriter::new().write(&path, &image)?;
///
/// let mut reader = ImageReader::new().memory_limit(1 << 30);
/// let mut image = Image::default();
/// let summary = reader.read(&path, &mut image)?;
/// assert_eq!(summary.bytes_in, 353);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ImageReader {
    decoder: Decoder,
    extensions: Vec<u8>,
    memory: MemoryLimit,
}

impl Default for ImageReader {
    fn default() -> Self {
        ImageReader::new()
    }
}

impl ImageReader {
    /// A reader without a memory limit. It needs about 1 MB.
    pub fn new() -> Self {
        ImageReader {
            decoder: Decoder::new(INPUT_LEN),
            extensions: Vec::new(),
            memory: MemoryLimit {
                bytes: None,
                need: Box::new(|_| 0),
            },
        }
    }

    /// Refuses images whose voxels need more than `limit_bytes`, before memory is allocated for them.
    #[must_use]
    pub fn memory_limit(mut self, limit_bytes: u64) -> Self {
        self.memory.bytes = Some(limit_bytes);
        self
    }

    pub(crate) fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.memory.bytes = limit_bytes;
    }

    /// Sets the memory that an image needs according to its header, if that is more than its voxels.
    pub(crate) fn set_memory_need(&mut self, need: impl Fn(&Header) -> u64 + Send + 'static) {
        self.memory.need = Box::new(need);
    }

    /// Reads the image at `path` into `image`, whose memory is reused. `path` can be either file of a pair.
    ///
    /// The voxels are the numbers of the file in its own type, in native byte order. The checksum and length
    /// of a gzip file are verified to the end of the file, also if more data follow the voxels.
    ///
    /// # Errors
    /// See [`Cause`]. The content of `image` is then unspecified; it can be read into again.
    pub fn read(&mut self, path: &Path, image: &mut Image) -> Result<ReadSummary, ImageError> {
        self.read_opened(path, None, image)
    }

    /// Opens the image at `path`, to read some of its slices; `None` if it is a pair of files.
    ///
    /// # Errors
    /// See [`Cause`].
    pub(crate) fn open_slices(&mut self, path: &Path) -> Result<Option<SliceReader<'_>>, ImageError> {
        SliceReader::open(path, &mut self.decoder)
    }

    /// [`ImageReader::read`] from files that [`OpenedInput::open_ahead`] has opened for the same path.
    pub(crate) fn read_opened(
        &mut self,
        path: &Path,
        opened: Option<OpenedInput>,
        image: &mut Image,
    ) -> Result<ReadSummary, ImageError> {
        self.read_with(path, opened, image, &mut |_header, volume, next| {
            next(volume.voxels.as_bytes_mut())
        })
    }

    /// [`ImageReader::read_opened`], but `take` reads the voxels and can use the first ones before the last
    /// are read. Their checksum is verified only when this returns.
    pub(crate) fn read_with(
        &mut self,
        path: &Path,
        opened: Option<OpenedInput>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        let opened = match opened {
            Some(opened) => opened.refresh(path)?,
            None => OpenedInput::open(path)?,
        };
        let files = match opened {
            OpenedInput::SingleFile(file) => vec![self.read_single(file, image, take)?],
            OpenedInput::Pair(header, voxels) => self.read_pair(header, voxels, image, take)?,
        };
        Ok(ReadSummary {
            bytes_in: files.iter().map(|file| file.bytes).sum(),
            files,
            voxel_bytes: image.header.voxel_bytes().unwrap_or_default(),
        })
    }

    fn read_single(
        &mut self,
        file: OpenFile,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<FileId, ImageError> {
        let mut watch = file.watch();
        let read = || {
            let layout = Layout::SingleFile;
            let stream = &mut InputStream::new(file, &mut self.decoder);
            let header = &mut image.header;
            read_header(stream, header, layout)?;
            // Do not read the extensions of a header with a false size.
            check_size(stream, header, layout)?;
            let offset = header.voxel_offset();
            read_extensions(stream, header, Some(offset), &mut self.extensions)?;
            stream.skip_to(offset)?;
            self.memory.check(header)?;
            read_voxels(stream, layout, image, take)?;
            watch.id.crc32 = stream.crc32()?;
            watch.check_file(stream.file())
        };
        read().map_err(|cause| cause.at(&watch.id.path))?;
        Ok(watch.id)
    }

    /// Both halves are open before either is read, and both paths must still name the same files at the end.
    /// A pair that is replaced meanwhile would otherwise yield the old header with the new voxels.
    fn read_pair(
        &mut self,
        header_file: OpenFile,
        voxel_file: Result<OpenFile, ImageError>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<Vec<FileId>, ImageError> {
        let layout = Layout::Pair;
        let mut header_watch = header_file.watch();
        let read = || {
            let stream = &mut InputStream::new(header_file, &mut self.decoder);
            read_header(stream, &mut image.header, layout)?;
            read_extensions(stream, &mut image.header, None, &mut self.extensions)?;
            stream.finish()?;
            header_watch.id.crc32 = stream.crc32()?;
            Ok(())
        };
        read().map_err(|cause: Cause| cause.at(&header_watch.id.path))?;
        let voxel_file = voxel_file?;
        let mut voxel_watch = voxel_file.watch();
        let read = || {
            let stream = &mut InputStream::new(voxel_file, &mut self.decoder);
            check_size(stream, &mut image.header, layout)?;
            stream.skip_to(image.header.voxel_offset())?;
            self.memory.check(&image.header)?;
            read_voxels(stream, layout, image, take)?;
            voxel_watch.id.crc32 = stream.crc32()?;
            Ok(())
        };
        read().map_err(|cause: Cause| cause.at(&voxel_watch.id.path))?;
        header_watch.check_path()?;
        voxel_watch.check_path()?;
        Ok(vec![header_watch.id, voxel_watch.id])
    }
}

/// Reads the voxels, which come next, into the volume's buffer and converts them to native byte order.
fn read_voxels(
    stream: &mut InputStream<'_>,
    layout: Layout,
    image: &mut Image,
    take: &mut TakeVoxels<'_>,
) -> Result<(), Cause> {
    let Image { header, volume } = image;
    let needed = header
        .voxel_bytes()
        .ok_or(Cause::OutOfMemory { needed: u64::MAX })?;
    let len = usize::try_from(needed).map_err(|_| Cause::OutOfMemory { needed })?;
    volume
        .voxels
        .try_resize_for_overwrite(len)
        .map_err(|_| Cause::OutOfMemory { needed })?;
    volume.shape.clear();
    volume.shape.extend_from_slice(header.shape());
    volume.voxel_size_mm = header.voxel_size_mm();
    volume.grid = Some(header.itk_grid());
    volume.geometry = Some(header.geometry());
    volume.datatype = header.datatype();
    volume.scaling = header.scaling();
    let found = take(header, volume, &mut |out| stream.read(out))?;
    if found < len {
        return Err(truncated(header, layout, stream.position()));
    }
    let surplus = stream.finish()?;
    warn_of_surplus(header, surplus);
    if header.is_big_endian() {
        volume.voxels.swap_bytes(header.datatype().size_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image_io::header_layout::Version;
    use crate::volume::Datatype;

    /// Puts a pair of one voxel into the folder, each file by renaming.
    fn put_pair(folder: &Path, voxel: u8) {
        let mut volume = Volume {
            shape: vec![1],
            ..Volume::default()
        };
        volume.voxels.resize_for_overwrite(1);
        let header = Header::new(Version::Nifti1, &[1], Datatype::Uint8, [1.0; 3]);
        let mut bytes = Vec::new();
        header.serialise(&volume, Layout::Pair, &mut bytes).unwrap();
        for (name, bytes) in [("a.hdr", bytes), ("a.img", vec![voxel])] {
            fs::write(folder.join("new"), bytes).unwrap();
            fs::rename(folder.join("new"), folder.join(name)).unwrap();
        }
    }

    #[test]
    fn a_pair_is_read_from_one_version_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = folder.join("a.hdr");
        let mut reader = ImageReader::new();
        let mut image = Image::default();
        // Replaced after it was opened ahead and before it is read: the new one is read.
        put_pair(folder, 1);
        let opened = OpenedInput::open_ahead(&path);
        assert!(opened.is_some());
        put_pair(folder, 2);
        reader.read_opened(&path, opened, &mut image).unwrap();
        assert_eq!(image.volume.voxels.as_bytes(), [2]);
        // Either half is replaced while the voxels are read: no image.
        for replaced in ["a.hdr", "a.img"] {
            put_pair(folder, 3);
            let read = reader.read_with(&path, None, &mut image, &mut |_, volume, next| {
                let (new, old) = (folder.join("new"), folder.join(replaced));
                fs::copy(&old, &new).unwrap();
                fs::rename(new, old).unwrap();
                next(volume.voxels.as_bytes_mut())
            });
            let error = read.unwrap_err();
            assert!(matches!(error.cause, Cause::ChangedWhileRead), "{error}");
            assert!(error.path.ends_with(replaced), "{error}");
        }
        // Replaced between opening and reading.
        put_pair(folder, 4);
        let opened = OpenedInput::open(&path).unwrap();
        put_pair(folder, 5);
        let OpenedInput::Pair(header, voxels) = opened else {
            panic!("a pair")
        };
        let take: &mut TakeVoxels<'_> = &mut |_, volume, next| next(volume.voxels.as_bytes_mut());
        let read = reader.read_pair(header, voxels, &mut image, take);
        assert!(matches!(read.unwrap_err().cause, Cause::ChangedWhileRead));
    }

    #[test]
    fn a_limit_counts_what_the_need_says() {
        let folder = tempfile::tempdir().unwrap();
        put_pair(folder.path(), 1);
        let path = folder.path().join("a.img");
        let mut reader = ImageReader::new().memory_limit(99);
        reader.read(&path, &mut Image::default()).unwrap();
        reader.set_memory_need(|_| 100);
        let error = reader.read(&path, &mut Image::default()).unwrap_err();
        assert!(error.to_string().contains("needs 100 bytes"), "{error}");
    }
}
