//! Identity: detects changed files.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of a gzip file's trailer: the checksum of the content and its length modulo 2³².
const TRAILER_LEN: u64 = 8;

/// A CRC-32; written as eight hexadecimal digits, as common tools print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Crc32(pub u32);

impl fmt::Display for Crc32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Crc32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Crc32 {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for Crc32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Crc32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u32::deserialize(deserializer).map(Self);
        }
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// The identity of an input or output file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FileId {
    /// Its path. Empty in a record if it is the image's own.
    #[serde(default, with = "path_text")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its modification time, nanoseconds since 1970.
    #[serde(default)]
    pub mtime_ns: Option<i64>,
    /// CRC-32 of its content before compression; for a gzip file, the one in its last eight bytes.
    #[serde(default)]
    pub crc32: Option<Crc32>,
    /// Size before compression; 0 if not recorded.
    #[serde(default)]
    pub raw_bytes: u64,
}

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Text<'a>(&'a Path);
        impl Serialize for Text<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                path_text::serialize(self.0, serializer)
            }
        }
        // Binary forms have no field names, so no field can be missing.
        let all = !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("FileId", 5)?;
        if all || !self.path.as_os_str().is_empty() {
            fields.serialize_field("path", &Text(&self.path))?;
        }
        fields.serialize_field("bytes", &self.bytes)?;
        if all || self.mtime_ns.is_some() {
            fields.serialize_field("mtime_ns", &self.mtime_ns)?;
        }
        if all || self.crc32.is_some() {
            fields.serialize_field("crc32", &self.crc32)?;
        }
        if all || self.raw_bytes > 0 {
            fields.serialize_field("raw_bytes", &self.raw_bytes)?;
        }
        fields.end()
    }
}

impl FileId {
    /// The file system's metadata of a file.
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Self {
        FileId {
            path: path.to_owned(),
            bytes: metadata.len(),
            mtime_ns: Some(
                metadata
                    .mtime()
                    .saturating_mul(1_000_000_000)
                    .saturating_add(metadata.mtime_nsec()),
            ),
            ..FileId::default()
        }
    }

    /// Whether size and modification time are equal.
    pub fn seems_same(&self, other: &Self) -> bool {
        (self.bytes, self.mtime_ns) == (other.bytes, other.mtime_ns)
    }
}

/// The checksum and the length modulo 2³² at the end of a gzip file. `None` if there are none or both are 0,
/// for example if zeros or an empty member follow the content, because they then identify nothing.
pub(super) fn gzip_trailer(file: &File) -> Option<(Crc32, u32)> {
    let at = file.metadata().ok()?.len().checked_sub(TRAILER_LEN)?;
    let mut bytes = [0; TRAILER_LEN as usize];
    file.read_exact_at(&mut bytes, at).ok()?;
    let [crc32, len] =
        [0, 4].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    (bytes != [0; TRAILER_LEN as usize]).then_some((Crc32(crc32), len))
}

/// A path as text or, if it is not UTF-8, as a list of bytes.
pub(crate) mod path_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(path.as_os_str().as_bytes()),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(OsString::from_vec(Vec::deserialize(deserializer)?).into());
        }
        Ok(match Text::deserialize(deserializer)? {
            Text::Text(text) => text.into(),
            Text::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }

    /// The same for an optional path; a missing one is an empty one.
    pub(crate) mod optional {
        use super::{Deserializer, Path, PathBuf, Serializer};

        pub(crate) fn serialize<S: Serializer>(
            path: &Option<PathBuf>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            super::serialize(path.as_deref().unwrap_or(Path::new("")), serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<PathBuf>, D::Error> {
            let path = super::deserialize(deserializer)?;
            Ok((!path.as_os_str().is_empty()).then_some(path))
        }
    }
}
