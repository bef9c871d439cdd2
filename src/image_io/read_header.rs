//! The header at the start of a file: reading it and its extensions, and comparing it with the size of the
//! file.

use super::error::Cause;
use super::gzip::MAGIC;
use super::header::{EXTENDER_LEN, EXTENSIONS_LIMIT, Header};
use super::header_layout::{LEN_1, LEN_2, Layout, Version};
use super::input_stream::InputStream;
use super::warning::Warning;

/// The bytes of a header as in the file.
pub(super) struct RawHeader {
    bytes: [u8; LEN_2],
    len: usize,
}

impl RawHeader {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Reads the header at the start of `stream` and returns its bytes.
pub(super) fn read_header(
    stream: &mut InputStream<'_>,
    header: &mut Header,
    layout: Layout,
) -> Result<RawHeader, Cause> {
    let mut bytes = [0; LEN_2];
    let mut len = stream.read(&mut bytes[..LEN_1])?;
    if !stream.is_gzip() && bytes[..len].starts_with(&MAGIC) {
        return Err(Cause::GzipInPlainName);
    }
    let version = Header::recognise(&bytes[..len])?;
    if version == Version::Nifti2 {
        len += stream.read(&mut bytes[len..])?;
    }
    header.parse(version, layout, &bytes[..len])?;
    Ok(RawHeader { bytes, len })
}

/// Reads the extensions that follow the header, up to `end` or, in a pair, to the end of the file. `section`
/// is a buffer.
pub(super) fn read_extensions(
    stream: &mut InputStream<'_>,
    header: &mut Header,
    end: Option<u64>,
    section: &mut Vec<u8>,
) -> Result<(), Cause> {
    const STEP: u64 = 64 << 10;
    let mut extender = [0; EXTENDER_LEN];
    let found = stream.read(&mut extender)?;
    if found < EXTENDER_LEN || extender[0] == 0 {
        return Ok(());
    }
    let too_large = |bytes| Cause::ExtensionsTooLarge {
        bytes,
        limit: EXTENSIONS_LIMIT,
    };
    let wanted = end.map_or(u64::MAX, |end| end - stream.position());
    if end.is_some() && wanted > EXTENSIONS_LIMIT {
        return Err(too_large(wanted));
    }
    section.clear();
    loop {
        // The buffer grows with the content of the file, not with the size that its header declares.
        let have = section.len();
        let step = (wanted - have as u64).min(STEP) as usize;
        section.resize(have + step, 0);
        let found = stream.read(&mut section[have..])?;
        section.truncate(have + found);
        if section.len() as u64 > EXTENSIONS_LIMIT {
            return Err(too_large(section.len() as u64));
        }
        if found < step || step == 0 {
            break;
        }
    }
    header.take_extensions(section)
}

/// Checks, before memory is allocated, that a file of this size can hold what its header declares. Returns
/// the declared size.
pub(super) fn check_size(
    stream: &InputStream<'_>,
    header: &mut Header,
    layout: Layout,
) -> Result<u64, Cause> {
    let file_bytes = stream.file_bytes();
    let declared = header
        .declared_voxel_bytes()
        .saturating_add(u128::from(header.voxel_offset()));
    let impossible = Cause::ImpossibleSize { declared, file_bytes };
    if declared > stream.most_bytes() {
        return Err(match stream.is_gzip() {
            true => impossible,
            false => truncated(header, layout, file_bytes),
        });
    }
    let declared = u64::try_from(declared).map_err(|_| impossible)?;
    if !stream.is_gzip() {
        warn_of_surplus(header, file_bytes - declared);
    }
    Ok(declared)
}

/// Why a file with `found` bytes of content is too short for its header.
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

/// Adds a warning that this many bytes follow the declared voxels.
pub(super) fn warn_of_surplus(header: &mut Header, bytes: u64) {
    if bytes > 0 {
        let spatial = header.shape().iter().take(3).product::<usize>();
        let volume_bytes = (spatial * header.datatype().size_bytes()) as u64;
        header.warn(Warning::SurplusData {
            bytes,
            volumes: bytes / volume_bytes,
        });
    }
}
