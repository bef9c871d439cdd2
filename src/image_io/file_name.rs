//! Names of image files: which files are images, their stems, and the other half of a pair.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The role of an image file, by its name.
///
/// ```
/// use niimpi::image_io::file_name::{Role, split};
///
/// let (stem, suffix) = split("sub-01_T1w.nii.gz".as_ref()).unwrap();
/// assert_eq!((stem.to_str(), suffix.role), (Some("sub-01_T1w"), Role::Single));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Header and voxels in one file, `.nii`.
    Single,
    /// The header of a pair, `.hdr`.
    Header,
    /// The voxels of a pair, `.img`.
    Voxels,
}

/// The suffix of an image file: its role and whether it is compressed.
///
/// ```
/// use niimpi::image_io::file_name::split;
///
/// let (_, suffix) = split("brain.IMG".as_ref()).unwrap();
/// assert_eq!(suffix.as_str(), ".img");
/// assert!(suffix.is_pair() && !suffix.gzip);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suffix {
    /// The role of the file.
    pub role: Role,
    /// Whether the name ends in `.gz`.
    pub gzip: bool,
}

impl Suffix {
    /// The suffix in lower case, with its dot.
    pub fn as_str(self) -> &'static str {
        match (self.role, self.gzip) {
            (Role::Single, false) => ".nii",
            (Role::Single, true) => ".nii.gz",
            (Role::Header, false) => ".hdr",
            (Role::Header, true) => ".hdr.gz",
            (Role::Voxels, false) => ".img",
            (Role::Voxels, true) => ".img.gz",
        }
    }

    /// Whether the image consists of two files.
    pub fn is_pair(self) -> bool {
        self.role != Role::Single
    }
}

const fn suffix(role: Role, gzip: bool) -> Suffix {
    Suffix { role, gzip }
}

const SUFFIXES: [Suffix; 6] = [
    suffix(Role::Single, true),
    suffix(Role::Single, false),
    suffix(Role::Header, true),
    suffix(Role::Header, false),
    suffix(Role::Voxels, true),
    suffix(Role::Voxels, false),
];

/// Whether a file of this name is an image. Case does not matter, and names need not be UTF-8.
///
/// A name that is only a suffix (`.nii`) is a hidden file, not an image.
pub fn is_image_name(name: &OsStr) -> bool {
    split(name).is_some()
}

/// The stem of an image's file name and its suffix: `sub-01_T1w.v2.NII.gz` → (`sub-01_T1w.v2`, `.nii.gz`).
pub fn split(name: &OsStr) -> Option<(&OsStr, Suffix)> {
    let bytes = name.as_bytes();
    SUFFIXES.into_iter().find_map(|suffix| {
        let stem_len = bytes
            .len()
            .checked_sub(suffix.as_str().len())
            .filter(|&len| len > 0)?;
        let (stem, tail) = bytes.split_at(stem_len);
        if !tail.eq_ignore_ascii_case(suffix.as_str().as_bytes()) {
            return None;
        }
        Some((OsStr::from_bytes(stem), suffix))
    })
}

/// The name of the other half of a pair, in the same case: `a.HDR.gz` → `a.IMG.gz`. `None` for any other
/// name.
pub fn pair_partner(name: &OsStr) -> Option<OsString> {
    let (stem, suffix) = split(name)?;
    let other: &[u8; 3] = match suffix.role {
        Role::Single => return None,
        Role::Header => b"img",
        Role::Voxels => b"hdr",
    };
    let bytes = name.as_bytes();
    let start = stem.len() + 1;
    let mut partner = bytes.to_vec();
    for (offset, &letter) in other.iter().enumerate() {
        let upper = bytes[start + offset].is_ascii_uppercase();
        partner[start + offset] = if upper {
            letter.to_ascii_uppercase()
        } else {
            letter
        };
    }
    Some(OsString::from_vec(partner))
}

/// `name` with `.gz` added, or without it if it has it.
pub(crate) fn toggle_gzip(name: &OsStr) -> Option<OsString> {
    let (_, suffix) = split(name)?;
    let mut name = name.as_bytes().to_vec();
    match suffix.gzip {
        true => name.truncate(name.len() - ".gz".len()),
        false => name.extend_from_slice(b".gz"),
    }
    Some(OsString::from_vec(name))
}

/// The files of the image at `path`: the file itself, and of a pair the other half.
pub(crate) fn files_at(path: &Path) -> [Option<PathBuf>; 2] {
    let other_half = path.file_name().and_then(pair_partner);
    [
        Some(path.to_owned()),
        other_half.map(|name| path.with_file_name(name)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_every_suffix_in_any_case() {
        for suffix in SUFFIXES {
            let name = format!("a.b{}", suffix.as_str());
            assert_eq!(split(OsStr::new(&name)), Some((OsStr::new("a.b"), suffix)));
            let name = format!("a.b{}", suffix.as_str().to_uppercase());
            assert_eq!(split(OsStr::new(&name)), Some((OsStr::new("a.b"), suffix)));
        }
    }

    #[test]
    fn other_names_are_no_images() {
        for name in [
            "",
            ".nii",
            ".nii.gz",
            "a.nii.gz.part",
            "a.gz",
            "nii",
            "a.nii.bz2",
            "a.mgz",
            "anii",
            "a.nii.gz.json",
        ] {
            assert!(!is_image_name(OsStr::new(name)), "{name}");
        }
        // A file named `.hdr.gz` has only a suffix; `..nii` has the stem `.`.
        assert!(!is_image_name(OsStr::new(".hdr.gz")));
    }

    #[test]
    fn partners_keep_their_case() {
        for (name, partner) in [
            ("a.hdr", "a.img"),
            ("a.IMG", "a.HDR"),
            ("a.Hdr.gz", "a.Img.gz"),
            ("hdr.img.GZ", "hdr.hdr.GZ"),
        ] {
            assert_eq!(pair_partner(OsStr::new(name)), Some(partner.into()));
        }
        assert_eq!(pair_partner(OsStr::new("a.nii")), None);
    }

    #[test]
    fn names_need_not_be_utf8() {
        let name = OsStr::from_bytes(b"caf\xe9.img.gz");
        assert_eq!(
            split(name).map(|(stem, _)| stem.as_bytes()),
            Some(&b"caf\xe9"[..])
        );
        assert_eq!(
            pair_partner(name).as_deref().map(OsStrExt::as_bytes),
            Some(&b"caf\xe9.hdr.gz"[..])
        );
    }
}
