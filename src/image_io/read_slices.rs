//! Reading some slices of an image, without holding the others.

use std::path::Path;

use super::error::{Cause, ImageError};
use super::files::{OpenedInput, Watch};
use super::gzip::Decoder;
use super::header::Header;
use super::header_layout::Layout;
use super::identity::FileId;
use super::input_stream::InputStream;
use super::read_header::{check_size, read_extensions, read_header, truncated, warn_of_surplus};

/// An image in a single file whose header was read.
pub(crate) struct SliceReader<'a> {
    stream: InputStream<'a>,
    watch: Watch,
    pub(crate) header: Header,
}

impl<'a> SliceReader<'a> {
    /// Opens the image at `path` and reads its header; `None` if it is a pair of files.
    ///
    /// # Errors
    /// See [`Cause`].
    pub(super) fn open(path: &Path, decoder: &'a mut Decoder) -> Result<Option<Self>, ImageError> {
        let OpenedInput::SingleFile(file) = OpenedInput::open(path)? else {
            return Ok(None);
        };
        let mut reader = SliceReader {
            watch: file.watch(),
            stream: InputStream::new(file, decoder),
            header: Header::default(),
        };
        let read = reader.read_header();
        read.map_err(|cause| cause.at(path))?;
        Ok(Some(reader))
    }

    fn read_header(&mut self) -> Result<(), Cause> {
        let (stream, header) = (&mut self.stream, &mut self.header);
        let layout = Layout::SingleFile;
        read_header(stream, header, layout)?;
        check_size(stream, header, layout)?;
        read_extensions(stream, header, Some(header.voxel_offset()), &mut Vec::new())
    }

    /// Whether the file is compressed, so that what is before some slices has to be read, too.
    pub(crate) fn is_gzip(&self) -> bool {
        self.stream.is_gzip()
    }

    /// Reads voxels into `out`, from this byte of all voxels on. The bytes keep the byte order of the file.
    /// If they are the last ones, the checksum of a compressed file is verified.
    ///
    /// # Errors
    /// See [`Cause`].
    pub(crate) fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let read = self.read_voxels(first, out);
        read.map_err(|cause| cause.at(&self.watch.id.path))
    }

    fn read_voxels(&mut self, first: u64, out: &mut [u8]) -> Result<(), Cause> {
        let layout = Layout::SingleFile;
        self.stream.seek_to(self.header.voxel_offset() + first)?;
        let found = self.stream.read(out)?;
        if found < out.len() {
            return Err(truncated(&self.header, layout, self.stream.position()));
        }
        if self.header.voxel_bytes() == Some(first + out.len() as u64) && self.is_gzip() {
            let surplus = self.stream.finish()?;
            warn_of_surplus(&mut self.header, surplus);
        }
        Ok(())
    }

    /// The error of a file that was changed meanwhile.
    pub(crate) fn changed(&self) -> ImageError {
        Cause::ChangedWhileRead.at(&self.watch.id.path)
    }

    /// Checks that the file was not changed meanwhile. Returns it.
    ///
    /// # Errors
    /// See [`Cause`].
    pub(crate) fn finish(mut self) -> Result<FileId, ImageError> {
        let mut check = || {
            if self.stream.is_gzip() {
                self.watch.id.crc32 = self.stream.crc32()?;
            }
            self.watch.check_file(self.stream.file())
        };
        check().map_err(|cause: Cause| cause.at(&self.watch.id.path))?;
        Ok(self.watch.id)
    }
}
