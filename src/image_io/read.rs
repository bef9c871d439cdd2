//! Reading: from a path to an image in memory, or to what its header says.

use std::borrow::Cow;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crc32fast::Hasher;

use super::Image;
use super::error::{Cause, ImageError};
use super::file_name::{self, Role, Suffix};
use super::gzip::{self, Decoder, GzipReader};
use super::header::{EXTENDER_LEN, EXTENSIONS_LIMIT, Header, VoxelSizeDisagreement};
use super::header_layout::{LEN_1, LEN_2, Layout, Version};
use super::identity::{Crc32, FileId, gzip_trailer};
use super::warning::Warning;
use crate::volume::{Datatype, Volume, VoxelBuffer};

/// Bytes of a compressed file fetched at a time.
const INPUT_LEN: usize = 1 << 20;
/// The same where only the header is wanted.
const PROBE_INPUT_LEN: usize = 4 << 10;

/// Bytes that do not belong to an image are read for the checksum up to this many, and passed over beyond.
const PASSED_OVER: u64 = 64 << 20;

/// What reading an image took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Bytes of the file, or of both halves of a pair, as they lie on the disk.
    pub bytes_in: u64,
    /// The file, or both halves of a pair, the header first.
    pub files: Vec<FileId>,
    /// Bytes of the voxels in memory.
    pub voxel_bytes: u64,
}

/// What an image's header says.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Which NIfTI.
    pub version: Version,
    /// Lengths of the axes, x first; 1 to 7 of them, none 0.
    pub shape: Vec<usize>,
    /// The type of the voxels in the file.
    pub datatype: Datatype,
    /// Whether the voxels have a slope or an intercept that counts.
    pub scaled: bool,
    /// Distance between voxel centres along x, y and z, in mm.
    pub voxel_size_mm: [f64; 3],
    /// Both voxel sizes, where pixdim and the affine disagree.
    pub voxel_size_disagreement: Option<VoxelSizeDisagreement>,
    /// Bytes of the file when decompressed, of a pair those of the `.img`.
    pub raw_bytes: u64,
    /// Bytes of the file, or of both halves of a pair, as they lie on the disk.
    pub file_bytes: u64,
    /// What is odd about the header, and where sizes alone show it, about the voxels.
    pub warnings: Vec<Warning>,
}

/// The file of an image, or both files of a pair, opened before the image is read while the system fetches them.
pub struct Fetched {
    header: File,
    voxels: Option<File>,
}

/// Opens the file of an image, or both files of a pair, and asks the system to fetch them into its cache, without waiting
/// for the content. `None` if that fails: reading the image reports the cause.
pub fn read_ahead(path: &Path) -> Option<Fetched> {
    let files = Files::of(path).ok()?;
    let header = Opened::open(&files.header).ok()?;
    header.fetch();
    let mut voxels = None;
    if files.layout() == Layout::Pair {
        let opened = Opened::open(&files.voxels().ok()?).ok()?;
        opened.fetch();
        voxels = Some(opened.file);
    }
    Some(Fetched {
        header: header.file,
        voxels,
    })
}

/// Reads an image's header: a few KiB of the file, whatever its size. Neither voxels nor checksums are looked at, but a
/// file that is too short for what its header declares is found out where its size alone tells.
///
/// # Errors
/// See [`Cause`].
pub fn probe(path: &Path) -> Result<Probe, ImageError> {
    let files = Files::of(path)?;
    let mut decoder = Decoder::new(PROBE_INPUT_LEN);
    let mut header = Header::default();
    let opened = Opened::open(&files.header)?;
    let mut file_bytes = opened.len;
    let mut content = opened.content(&mut decoder);
    read_header(&mut content, &mut header, files.layout())
        .map_err(|cause| cause.at(&files.header))?;
    let raw_bytes = if files.layout() == Layout::SingleFile {
        content
            .check_size(&mut header, Layout::SingleFile)
            .map_err(|cause| cause.at(&files.header))?
    } else {
        drop(content);
        let voxels = files.voxels()?;
        let opened = Opened::open(&voxels)?;
        file_bytes += opened.len;
        opened
            .content(&mut decoder)
            .check_size(&mut header, Layout::Pair)
            .map_err(|cause| cause.at(&voxels))?
    };
    Ok(Probe {
        version: header.version(),
        shape: header.shape().to_vec(),
        datatype: header.datatype(),
        scaled: header.scaling().is_some(),
        voxel_size_mm: header.voxel_size_mm(),
        voxel_size_disagreement: header.voxel_size_disagreement(),
        raw_bytes,
        file_bytes,
        warnings: header.warnings().to_vec(),
    })
}

/// Fills a buffer with what comes next in a file and says how much there was: less than asked for only at the end.
pub type NextBytes<'a> = dyn FnMut(&mut [u8]) -> Result<usize, Cause> + 'a;

/// Takes an image's voxels from its file, when all else of the volume is set and its buffer has their size: fills the buffer
/// and says how many bytes there were. The bytes are in the file's order.
pub type TakeVoxels<'a> =
    dyn FnMut(&Header, &mut Volume, &mut NextBytes<'_>) -> Result<usize, Cause> + 'a;

/// What is kept from image to image.
pub(super) struct Reader {
    decoder: Decoder,
    extensions: Vec<u8>,
    pub memory: Memory,
}

/// How much memory an image may take, and how much one takes.
pub(super) struct Memory {
    pub limit_bytes: Option<u64>,
    pub need: Box<dyn Fn(&Header) -> u64 + Send>,
}

impl Reader {
    pub fn new() -> Self {
        Reader {
            decoder: Decoder::new(INPUT_LEN),
            extensions: Vec::new(),
            memory: Memory {
                limit_bytes: None,
                need: Box::new(|header| header.voxel_bytes().unwrap_or(u64::MAX)),
            },
        }
    }

    pub fn read(
        &mut self,
        path: &Path,
        fetched: Option<Fetched>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        let files = Files::of(path)?;
        match files.layout() {
            Layout::SingleFile => self.read_single(&files.header, fetched, image, take),
            Layout::Pair => self.read_pair(&files, fetched, image, take),
        }
    }

    fn read_single(
        &mut self,
        path: &Path,
        fetched: Option<Fetched>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        let opened = match fetched {
            Some(fetched) => Opened::of(fetched.header, path)?,
            None => Opened::open(path)?,
        };
        let mut identity = opened.identity.clone();
        let content = &mut opened.content(&mut self.decoder);
        let Image { header, volume } = image;
        let mut read = || {
            let position = read_header(content, header, Layout::SingleFile)?
                .as_slice()
                .len() as u64;
            // A header that lies about its size must not make its extensions be read either.
            content.check_size(header, Layout::SingleFile)?;
            let offset = header.voxel_offset();
            let position = read_extensions(
                content,
                header,
                position,
                Some(offset),
                &mut self.extensions,
            )?;
            let start = position + content.skip(offset - position)?;
            read_voxels(
                content,
                start,
                header,
                Layout::SingleFile,
                &self.memory,
                volume,
                take,
            )?;
            identity.crc32 = content.crc32()?;
            content.still(&identity)
        };
        read().map_err(|cause| cause.at(path))?;
        Ok(summary(vec![identity], header))
    }

    /// Both halves are opened before either is read, and at the end both paths must still name what was opened: a pair that
    /// is replaced meanwhile would otherwise give the old header with the new voxels.
    fn read_pair<'a>(
        &mut self,
        files: &Files<'a>,
        fetched: Option<Fetched>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        let header_path = &files.header;
        let open_voxels = || {
            let path = files.voxels()?;
            Ok((Opened::open(&path)?, path))
        };
        let (mut header_file, mut voxel_file) = match fetched {
            Some(Fetched {
                header,
                voxels: Some(voxels),
            }) => {
                let of_voxels = |path: Cow<'a, Path>| Ok((Opened::of(voxels, &path)?, path));
                (
                    Opened::of(header, header_path)?,
                    files.voxels().and_then(of_voxels),
                )
            }
            _ => (Opened::open(header_path)?, open_voxels()),
        };
        let is_current = |opened: &Opened, path: &Path| Stamp::of_path(path) == Some(opened.stamp);
        let replaced = |(opened, path): &(Opened, Cow<'_, Path>)| !is_current(opened, path);
        if !is_current(&header_file, header_path) || voxel_file.as_ref().is_ok_and(replaced) {
            // They were opened ahead of this.
            (header_file, voxel_file) = (Opened::open(header_path)?, open_voxels());
        }
        let (mut header_id, header_stamp) = (header_file.identity.clone(), header_file.stamp);
        let Image { header, volume } = image;
        let content = &mut header_file.content(&mut self.decoder);
        let mut read = || {
            let position = read_header(content, header, Layout::Pair)?.as_slice().len() as u64;
            read_extensions(content, header, position, None, &mut self.extensions)?;
            content.finish()?;
            header_id.crc32 = content.crc32()?;
            Ok(())
        };
        read().map_err(|cause: Cause| cause.at(header_path))?;
        // What is wrong with the header is reported first.
        let (voxel_file, voxel_path) = voxel_file?;
        let mut voxel_id = voxel_file.identity.clone();
        let voxel_stamp = voxel_file.stamp;
        let content = &mut voxel_file.content(&mut self.decoder);
        let mut read = || {
            content.check_size(header, Layout::Pair)?;
            let start = content.skip(header.voxel_offset())?;
            read_voxels(
                content,
                start,
                header,
                Layout::Pair,
                &self.memory,
                volume,
                take,
            )?;
            voxel_id.crc32 = content.crc32()?;
            Ok(())
        };
        read().map_err(|cause: Cause| cause.at(&voxel_path))?;
        let both = [(header_path, header_stamp), (&voxel_path, voxel_stamp)];
        for (path, stamp) in both {
            if Stamp::of_path(path) != Some(stamp) {
                return Err(Cause::ChangedWhileRead.at(path));
            }
        }
        Ok(summary(vec![header_id, voxel_id], header))
    }
}

fn summary(files: Vec<FileId>, header: &Header) -> ReadSummary {
    ReadSummary {
        bytes_in: files.iter().map(|file| file.bytes).sum(),
        files,
        voxel_bytes: header.voxel_bytes().unwrap_or_default(),
    }
}

/// What changes when a file is written to or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn of_path(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Stamp::of)
    }
}

/// The files that hold an image.
pub(super) struct Files<'a> {
    given: &'a Path,
    role: Role,
    pub header: Cow<'a, Path>,
}

impl<'a> Files<'a> {
    pub fn of(given: &'a Path) -> Result<Self, ImageError> {
        let role = suffix_of(given)?.role;
        let header = if role == Role::Voxels {
            partner(given)?
        } else {
            Cow::Borrowed(given)
        };
        Ok(Files {
            given,
            role,
            header,
        })
    }

    pub fn layout(&self) -> Layout {
        match self.role {
            Role::Single => Layout::SingleFile,
            Role::Header | Role::Voxels => Layout::Pair,
        }
    }

    /// The file with the voxels, of a pair. It is looked for once the header has been read, so that what is wrong with the
    /// header is said first.
    pub fn voxels(&self) -> Result<Cow<'a, Path>, ImageError> {
        if self.role == Role::Header {
            partner(self.given)
        } else {
            Ok(Cow::Borrowed(self.given))
        }
    }
}

/// What the path's name says about the file.
pub(super) fn suffix_of(path: &Path) -> Result<Suffix, ImageError> {
    match path.file_name().and_then(file_name::split) {
        Some((_, suffix)) => Ok(suffix),
        None if path.is_dir() => Err(Cause::IsDirectory.at(path)),
        None => Err(Cause::UnknownSuffix.at(path)),
    }
}

/// The existing other half of a pair: compressed as the given one is, or else the other way.
fn partner<'a>(path: &Path) -> Result<Cow<'a, Path>, ImageError> {
    let name = path
        .file_name()
        .and_then(file_name::pair_partner)
        .ok_or_else(|| Cause::UnknownSuffix.at(path))?;
    let other_name = file_name::toggle_gzip(&name);
    let same = path.with_file_name(&name);
    if same.exists() {
        return Ok(Cow::Owned(same));
    }
    match other_name.map(|name| path.with_file_name(name)) {
        Some(other) if other.exists() => Ok(Cow::Owned(other)),
        // Where neither half exists, the one that was asked for is what is missing.
        _ if !path.exists() => Err(Cause::NotFound.at(path)),
        _ => Err(Cause::PartnerMissing { partner: same }.at(path)),
    }
}

/// A regular file with its size.
pub(super) struct Opened {
    file: File,
    len: u64,
    identity: FileId,
    stamp: Stamp,
    gzip: bool,
}

impl Opened {
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        suffix_of(path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            // A pipe under an image's name must not hold the run up for ever.
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        }
        let file = options.open(path);
        Self::of(file.map_err(|error| Cause::reading(error).at(path))?, path)
    }

    /// A file that was opened at `path`, as it is now.
    fn of(file: File, path: &Path) -> Result<Self, ImageError> {
        let gzip = suffix_of(path)?.gzip;
        let at = |cause: Cause| cause.at(path);
        let metadata = file.metadata().map_err(|error| at(Cause::reading(error)))?;
        if metadata.is_dir() {
            return Err(at(Cause::IsDirectory));
        }
        if !metadata.is_file() {
            return Err(at(Cause::NotRegular));
        }
        if metadata.len() == 0 {
            return Err(at(Cause::Empty));
        }
        Ok(Opened {
            file,
            len: metadata.len(),
            identity: FileId::of(path, &metadata),
            stamp: Stamp::of(&metadata),
            gzip,
        })
    }

    pub fn identity(&self) -> &FileId {
        &self.identity
    }

    pub fn into_file(self) -> File {
        self.file
    }

    /// Asks the system to fetch the content, without waiting for it.
    fn fetch(&self) {
        #[cfg(target_os = "linux")]
        {
            use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
            /// Linux fetches no more than its read-ahead window at a call.
            const STEP: u64 = 128 << 10;
            for start in (0..self.len).step_by(STEP as usize) {
                let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                if posix_fadvise(&self.file, start as i64, STEP as i64, advice).is_err() {
                    return;
                }
            }
        }
    }

    pub fn content(self, decoder: &mut Decoder) -> Content<'_> {
        match self.gzip {
            true => Content::Gzip {
                reader: GzipReader::new(self.file, decoder),
                file_bytes: self.len,
            },
            false => Content::Plain {
                file: self.file,
                file_bytes: self.len,
                crc: Some(Hasher::new()),
            },
        }
    }
}

/// A file's content, whether it is compressed or not.
pub(super) enum Content<'a> {
    Plain {
        file: File,
        file_bytes: u64,
        /// Of all that was read; `None` once something was passed over.
        crc: Option<Hasher>,
    },
    Gzip {
        reader: GzipReader<'a, File>,
        file_bytes: u64,
    },
}

impl Content<'_> {
    /// Fills `out` and returns how much there was: less than asked for only at the end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Cause> {
        match self {
            Content::Gzip { reader, .. } => reader.read(out),
            Content::Plain { file, crc, .. } => {
                let mut filled = 0;
                while filled < out.len() {
                    match file.read(&mut out[filled..]) {
                        Ok(0) => break,
                        Ok(len) => filled += len,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(Cause::reading(error)),
                    }
                }
                if let Some(crc) = crc {
                    crc.update(&out[..filled]);
                }
                Ok(filled)
            }
        }
    }

    /// Leaves out `bytes`, or as many as there are, and returns how many.
    fn skip(&mut self, bytes: u64) -> Result<u64, Cause> {
        match self {
            _ if bytes == 0 => Ok(0),
            Content::Gzip { reader, .. } => reader.skip(bytes),
            // They count for the checksum.
            Content::Plain { .. } if bytes <= PASSED_OVER => {
                let mut skipped = 0;
                let mut piece = [0; 4096];
                while skipped < bytes {
                    let step = (bytes - skipped).min(piece.len() as u64) as usize;
                    let found = self.read(&mut piece[..step])?;
                    skipped += found as u64;
                    if found < step {
                        break;
                    }
                }
                Ok(skipped)
            }
            Content::Plain { file, crc, .. } => {
                *crc = None;
                let distance = i64::try_from(bytes).map_err(|_| Cause::BadVoxOffset {
                    offset: bytes as f64,
                })?;
                file.seek(SeekFrom::Current(distance))
                    .map(|_| bytes)
                    .map_err(Cause::reading)
            }
        }
    }

    /// Whether the file is still what it was when it was opened: a file that is written to meanwhile gives a mixture of
    /// two, which has no checksum to tell by where it is not compressed.
    fn still(&self, identity: &FileId) -> Result<(), Cause> {
        let file = match self {
            Content::Plain { file, .. } => file,
            Content::Gzip { reader, .. } => reader.source(),
        };
        let now = FileId::of(&identity.path, &file.metadata().map_err(Cause::reading)?);
        match now.seems_same(identity) {
            true => Ok(()),
            false => Err(Cause::ChangedWhileRead),
        }
    }

    /// The file's checksum, when all that matters was read. A gzip file has it in its trailer. Of any other file the rest is
    /// read, unless it is long.
    fn crc32(&mut self) -> Result<Option<Crc32>, Cause> {
        if let Content::Gzip { reader, .. } = self {
            return Ok(gzip_trailer(reader.source()).map(|(crc32, _)| crc32));
        }
        let mut left = PASSED_OVER;
        let mut piece = [0; 4096];
        loop {
            let found = self.read(&mut piece)? as u64;
            if found < piece.len() as u64 {
                break;
            }
            left = left.saturating_sub(found);
            if left == 0 {
                return Ok(None);
            }
        }
        let Content::Plain { crc, .. } = self else {
            return Ok(None);
        };
        Ok(crc.take().map(|crc| Crc32(crc.finalize())))
    }

    /// Checks what can be checked of the rest and returns how much there was; of a file without compression, 0.
    pub fn finish(&mut self) -> Result<u64, Cause> {
        match self {
            Content::Gzip { reader, .. } => reader.finish(),
            Content::Plain { .. } => Ok(0),
        }
    }

    /// Whether a file of this size can hold what its header declares, and how much that is: before anything is allocated.
    pub fn check_size(&self, header: &mut Header, layout: Layout) -> Result<u64, Cause> {
        let declared = header
            .declared_voxel_bytes()
            .saturating_add(u128::from(header.voxel_offset()));
        match *self {
            Content::Plain { file_bytes, .. } if declared > u128::from(file_bytes) => {
                return Err(truncated(header, layout, file_bytes));
            }
            Content::Gzip { file_bytes, .. }
                if declared > u128::from(file_bytes) * gzip::MAX_RATIO =>
            {
                return Err(Cause::ImpossibleSize {
                    declared,
                    file_bytes,
                });
            }
            _ => {}
        }
        // Both bounds are far below 2^64 times the ratio; what is left fits but for absurd file sizes.
        let declared = u64::try_from(declared).map_err(|_| Cause::ImpossibleSize {
            declared,
            file_bytes: u64::MAX,
        })?;
        if let Content::Plain { file_bytes, .. } = *self {
            warn_of_surplus(header, file_bytes - declared);
        }
        Ok(declared)
    }
}

/// Why a file of `found` bytes (inflated) is too short for its header.
pub(super) fn truncated(header: &Header, layout: Layout, found: u64) -> Cause {
    let offset = header.voxel_offset();
    let voxel_bytes = header.declared_voxel_bytes();
    if layout == Layout::Pair && offset > 0 && u128::from(found) == voxel_bytes {
        return Cause::OffsetInPair { offset, found };
    }
    Cause::VoxelsTruncated {
        declared: voxel_bytes.saturating_add(u128::from(offset)),
        found,
    }
}

fn warn_of_surplus(header: &mut Header, bytes: u64) {
    if bytes > 0 {
        let shape = header.shape();
        let voxels = shape.iter().take(3).product::<usize>();
        let volume_bytes = (voxels * header.datatype().size_bytes()) as u64;
        header.warn(Warning::SurplusData {
            bytes,
            volumes: bytes / volume_bytes,
        });
    }
}

/// The bytes of a header, as they were read.
pub(super) struct RawHeader {
    bytes: [u8; LEN_2],
    len: usize,
}

impl RawHeader {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Reads the header from the beginning of `content` and returns its bytes.
pub(super) fn read_header(
    content: &mut Content<'_>,
    header: &mut Header,
    layout: Layout,
) -> Result<RawHeader, Cause> {
    let mut bytes = [0; LEN_2];
    let mut len = content.read(&mut bytes[..LEN_1])?;
    if matches!(content, Content::Plain { .. }) && bytes[..len].starts_with(&gzip::MAGIC) {
        return Err(Cause::GzipInPlainName);
    }
    let version = Header::recognise(&bytes[..len])?;
    if version == Version::Nifti2 {
        len += content.read(&mut bytes[len..])?;
    }
    header.parse(version, layout, &bytes[..len])?;
    Ok(RawHeader { bytes, len })
}

/// Reads the extensions that follow the header, up to `end` or, of a pair, to the end of the file. Returns the new position.
fn read_extensions(
    content: &mut Content<'_>,
    header: &mut Header,
    position: u64,
    end: Option<u64>,
    section: &mut Vec<u8>,
) -> Result<u64, Cause> {
    const STEP: u64 = 64 << 10;
    let mut extender = [0; EXTENDER_LEN];
    let found = content.read(&mut extender)?;
    let start = position + found as u64;
    if found < EXTENDER_LEN || extender[0] == 0 {
        return Ok(start);
    }
    let wanted = end.map_or(u64::MAX, |end| end - start);
    if end.is_some() && wanted > EXTENSIONS_LIMIT {
        return Err(Cause::ExtensionsTooLarge {
            bytes: wanted,
            limit: EXTENSIONS_LIMIT,
        });
    }
    section.clear();
    loop {
        // The buffer grows with what the file really holds, not with what it declares.
        let have = section.len();
        let step = (wanted - have as u64).min(STEP) as usize;
        section.resize(have + step, 0);
        let found = content.read(&mut section[have..])?;
        section.truncate(have + found);
        if section.len() as u64 > EXTENSIONS_LIMIT {
            return Err(Cause::ExtensionsTooLarge {
                bytes: section.len() as u64,
                limit: EXTENSIONS_LIMIT,
            });
        }
        if found < step || step == 0 {
            break;
        }
    }
    header.take_extensions(section)?;
    Ok(start + section.len() as u64)
}

/// Reads the voxels, which are next at byte `start`, into `volume`'s buffer and brings them into native byte order.
fn read_voxels(
    content: &mut Content<'_>,
    start: u64,
    header: &mut Header,
    layout: Layout,
    memory: &Memory,
    volume: &mut Volume,
    take: &mut TakeVoxels<'_>,
) -> Result<(), Cause> {
    let needed = header
        .voxel_bytes()
        .ok_or(Cause::OutOfMemory { needed: u64::MAX })?;
    if let Some(limit) = memory.limit_bytes {
        let needed = (memory.need)(header).max(needed);
        if needed > limit {
            return Err(Cause::OverMemoryLimit { needed, limit });
        }
    }
    let len = usize::try_from(needed).map_err(|_| Cause::OutOfMemory { needed })?;
    let buffer = &mut volume.voxels;
    if len > buffer.as_bytes().len() {
        // Ask first: a buffer that cannot be had would end the process.
        Vec::<u8>::new()
            .try_reserve_exact(len)
            .map_err(|_| Cause::OutOfMemory { needed })?;
    }
    buffer.resize_for_overwrite(len);
    volume.shape.clear();
    volume.shape.extend_from_slice(header.shape());
    volume.voxel_size_mm = header.voxel_size_mm();
    volume.datatype = header.datatype();
    volume.scaling = header.scaling();
    let found = take(header, volume, &mut |out| content.read(out))?;
    if found < len {
        return Err(truncated(header, layout, start + found as u64));
    }
    let surplus = content.finish()?;
    warn_of_surplus(header, surplus);
    if header.is_big_endian() {
        swap_voxels(&mut volume.voxels, header.datatype().size_bytes());
    }
    Ok(())
}

fn swap_voxels(buffer: &mut VoxelBuffer, size_bytes: usize) {
    match size_bytes {
        2 => buffer
            .as_mut_slice::<u16>()
            .iter_mut()
            .for_each(|voxel| *voxel = voxel.swap_bytes()),
        4 => buffer
            .as_mut_slice::<u32>()
            .iter_mut()
            .for_each(|voxel| *voxel = voxel.swap_bytes()),
        8 => buffer
            .as_mut_slice::<u64>()
            .iter_mut()
            .for_each(|voxel| *voxel = voxel.swap_bytes()),
        _ => {}
    }
}
