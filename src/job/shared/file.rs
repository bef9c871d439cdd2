//! The file of a result that ranks share. It is written section by section.

use super::section::Section;
use crate::image_io::{Chunk, ChunkEncoder, ChunkedWriter, ImageError, InPlace, Place, StagedFile};
use crate::job::destination::Sidecars;
use crate::job::failure::failure;
use crate::job::outcome::{Failure, Stage};
use crate::job::survey::Found;
use crate::volume::Datatype;

/// Completes what a rank has written in place.
pub(crate) fn finish_in_place(file: InPlace) -> Result<(), Failure> {
    file.finish().map_err(|error| failure(Stage::Write, &error))
}

/// The file of a result that is written section by section.
pub(crate) struct SharedFile {
    file: ChunkedWriter,
    encoder: ChunkEncoder,
    chunk: Chunk,
    /// The begin of the next chunk.
    pending: Vec<u8>,
    pub(super) datatype: Datatype,
    /// What surveys have found about its sections.
    pub(super) found: Option<Found>,
    /// Written with it.
    sidecars: Sidecars,
}

impl SharedFile {
    pub(super) fn new(
        file: ChunkedWriter,
        encoder: ChunkEncoder,
        datatype: Datatype,
        sidecars: Sidecars,
    ) -> Self {
        SharedFile {
            file,
            encoder,
            chunk: Chunk::default(),
            pending: Vec::new(),
            datatype,
            found: None,
            sidecars,
        }
    }

    /// Completes the file, and its sidecar files with `stage`.
    pub(super) fn finish(
        mut self,
        stage: impl FnOnce(StagedFile, &Sidecars) -> Result<StagedFile, ImageError>,
    ) -> Result<StagedFile, ImageError> {
        self.flush()?;
        stage(self.file.finish()?, &self.sidecars)
    }

    /// The file before its first section, for ranks that write in place; `None` if it is compressed.
    pub(crate) fn in_place(&mut self) -> Result<Option<(Place, InPlace)>, Failure> {
        let opened = self.file.in_place();
        opened.map_err(|error| failure(Stage::Write, &error))
    }

    /// Adds what a survey has found about a section.
    pub(crate) fn add_found(&mut self, found: Option<Found>) {
        self.found = match (self.found, found) {
            (Some(one), Some(other)) => Some(one.with(other)),
            (one, other) => one.or(other),
        };
    }

    /// Appends a section.
    pub(crate) fn append(&mut self, section: &Section) -> Result<(), Failure> {
        self.append_bytes(&section.head)?;
        if section.written.raw_bytes > 0 {
            let skipped = self.flush().and_then(|()| self.file.skip(&section.written));
            skipped.map_err(|error| failure(Stage::Write, &error))?;
        }
        section
            .chunks
            .iter()
            .try_for_each(|chunk| self.append_chunk(chunk))?;
        self.append_bytes(&section.tail)
    }

    /// Appends bytes of the result.
    pub(crate) fn append_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let room = ChunkEncoder::CHUNK_BYTES - self.pending.len();
            let (next, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(next);
            bytes = rest;
            if self.pending.len() == ChunkEncoder::CHUNK_BYTES {
                self.flush().map_err(|error| failure(Stage::Write, &error))?;
            }
        }
        Ok(())
    }

    /// Appends a chunk. All bytes before it were appended.
    pub(crate) fn append_chunk(&mut self, chunk: &Chunk) -> Result<(), Failure> {
        assert!(self.pending.is_empty(), "a chunk follows whole chunks");
        let appended = self.file.append(chunk);
        appended.map_err(|error| failure(Stage::Write, &error))
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.encoder
            .encode(&self.pending, self.datatype.size_bytes(), &mut self.chunk);
        self.pending.clear();
        self.file.append(&self.chunk)
    }
}
