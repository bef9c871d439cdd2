//! A header's bytes: position and byte order of each field, and how to read and set it.

/// Bytes of a NIfTI-1 header.
pub(super) const LEN_1: usize = 348;
/// Bytes of a NIfTI-2 header.
pub(super) const LEN_2: usize = 540;

/// The version of a NIfTI header.
///
/// ```
/// use niimpi::image_io::Version;
///
/// assert_eq!(Version::Nifti1.header_len(), 348);
/// assert_eq!(Version::Nifti2.header_len(), 540);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 348 bytes, axes up to 32767.
    #[default]
    Nifti1,
    /// 540 bytes, axes of 64 bits.
    Nifti2,
}

impl Version {
    /// Bytes of a header of this version, without the extension flag.
    pub fn header_len(self) -> usize {
        match self {
            Version::Nifti1 => LEN_1,
            Version::Nifti2 => LEN_2,
        }
    }
}

/// How an image is stored in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Header and voxels in one file.
    SingleFile,
    /// A `.hdr` and a `.img`.
    Pair,
}

/// A run of numbers in a header: offset, bytes of each, count.
type Run = (usize, usize, usize);

/// All multi-byte numbers of a NIfTI-1 header, in the standard's order.
const NUMBERS_1: [Run; 16] = [
    (0, 4, 1),   // sizeof_hdr
    (32, 4, 1),  // extents
    (36, 2, 1),  // session_error
    (40, 2, 8),  // dim
    (56, 4, 3),  // intent_p1 to p3
    (68, 2, 4),  // intent_code, datatype, bitpix, slice_start
    (76, 4, 8),  // pixdim
    (108, 4, 3), // vox_offset, scl_slope, scl_inter
    (120, 2, 1), // slice_end
    (124, 4, 4), // cal_max, cal_min, slice_duration, toffset
    (140, 4, 2), // glmax, glmin
    (252, 2, 2), // qform_code, sform_code
    (256, 4, 6), // quatern_b to d, qoffset_x to z
    (280, 4, 4), // srow_x
    (296, 4, 4), // srow_y
    (312, 4, 4), // srow_z
];

/// All multi-byte numbers of a NIfTI-2 header, in the standard's order.
const NUMBERS_2: [Run; 14] = [
    (0, 4, 1),   // sizeof_hdr
    (12, 2, 2),  // datatype, bitpix
    (16, 8, 8),  // dim
    (80, 8, 3),  // intent_p1 to p3
    (104, 8, 8), // pixdim
    (168, 8, 1), // vox_offset
    (176, 8, 6), // scl_slope, scl_inter, cal_max, cal_min, slice_duration, toffset
    (224, 8, 2), // slice_start, slice_end
    (344, 4, 2), // qform_code, sform_code
    (352, 8, 6), // quatern_b to d, qoffset_x to z
    (400, 8, 4), // srow_x
    (432, 8, 4), // srow_y
    (464, 8, 4), // srow_z
    (496, 4, 3), // slice_code, xyzt_units, intent_code
];

/// The bytes of a header in little-endian order, of which the first [`Version::header_len`] are used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeaderLayout {
    pub version: Version,
    bytes: [u8; LEN_2],
}

impl HeaderLayout {
    /// A header of zeros.
    pub fn zeroed(version: Version) -> Self {
        HeaderLayout {
            version,
            bytes: [0; LEN_2],
        }
    }

    /// The header at the start of `file`, which has at least that many bytes, and whether it was big-endian.
    pub fn from_file(version: Version, file: &[u8]) -> (Self, bool) {
        let mut header = HeaderLayout::zeroed(version);
        let len = version.header_len();
        header.bytes[..len].copy_from_slice(&file[..len]);
        let big_endian = header.is_big_endian();
        if big_endian {
            header.swap();
        }
        (header, big_endian)
    }

    /// The bytes of the output.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.version.header_len()]
    }

    /// Whether the bytes of a file are big-endian. The byte order is the one in which `dim[0]` is 1 to 7. If
    /// there is none, it is the one in which `sizeof_hdr` is right.
    fn is_big_endian(&self) -> bool {
        let (little, big) = match self.version {
            Version::Nifti1 => {
                let ndim = self.get(40);
                (
                    i64::from(i16::from_le_bytes(ndim)),
                    i64::from(i16::from_be_bytes(ndim)),
                )
            }
            Version::Nifti2 => {
                let ndim = self.get(16);
                (i64::from_le_bytes(ndim), i64::from_be_bytes(ndim))
            }
        };
        let plausible = |ndim: i64| (1..=7).contains(&ndim);
        match (plausible(little), plausible(big)) {
            (true, _) => false,
            (false, true) => true,
            (false, false) => u32::from_be_bytes(self.get(0)) as usize == self.version.header_len(),
        }
    }

    fn swap(&mut self) {
        let runs: &[Run] = match self.version {
            Version::Nifti1 => &NUMBERS_1,
            Version::Nifti2 => &NUMBERS_2,
        };
        for &(start, width, count) in runs {
            self.bytes[start..start + width * count]
                .chunks_exact_mut(width)
                .for_each(<[u8]>::reverse);
        }
    }

    /// `N` bytes from `start` on.
    pub fn get<const N: usize>(&self, start: usize) -> [u8; N] {
        std::array::from_fn(|index| self.bytes[start + index])
    }

    /// The number at the first of these places in NIfTI-1, as 16 bits, or at the second in NIfTI-2, as 32.
    pub fn code(&self, start_1: usize, start_2: usize) -> i32 {
        match self.version {
            Version::Nifti1 => i16::from_le_bytes(self.get(start_1)).into(),
            Version::Nifti2 => i32::from_le_bytes(self.get(start_2)),
        }
    }

    /// The same of real numbers in single and in double precision, of which each is followed by others.
    pub fn reals<const N: usize>(&self, start_1: usize, start_2: usize) -> [f64; N] {
        std::array::from_fn(|index| match self.version {
            Version::Nifti1 => f32::from_le_bytes(self.get(start_1 + 4 * index)).into(),
            Version::Nifti2 => f64::from_le_bytes(self.get(start_2 + 8 * index)),
        })
    }

    /// The three rows of the sform's affine.
    pub fn sform(&self) -> [[f64; 4]; 3] {
        std::array::from_fn(|row| self.reals(280 + 16 * row, 400 + 32 * row))
    }

    /// Sets the bytes from `start` on.
    pub fn put<const N: usize>(&mut self, start: usize, value: [u8; N]) {
        self.bytes[start..start + N].copy_from_slice(&value);
    }

    /// The length of one axis, `dim[axis]`; `dim[0]` is the number of axes.
    pub fn length(&self, axis: usize) -> i64 {
        match self.version {
            Version::Nifti1 => i16::from_le_bytes(self.get(40 + 2 * axis)).into(),
            Version::Nifti2 => i64::from_le_bytes(self.get(16 + 8 * axis)),
        }
    }

    /// `datatype` and `bitpix`.
    pub fn datatype(&self) -> [i16; 2] {
        let start = self.datatype_start();
        [start, start + 2].map(|start| i16::from_le_bytes(self.get(start)))
    }

    fn datatype_start(&self) -> usize {
        match self.version {
            Version::Nifti1 => 70,
            Version::Nifti2 => 12,
        }
    }

    /// Sets `dim` to `shape`, with 1 for missing axes.
    pub fn put_dim(&mut self, shape: &[usize]) {
        self.put_length(0, shape.len());
        for axis in 1..8 {
            self.put_length(axis, shape.get(axis - 1).copied().unwrap_or(1));
        }
    }

    /// Sets the length of one axis, `dim[axis]`.
    pub fn put_length(&mut self, axis: usize, length: usize) {
        match self.version {
            Version::Nifti1 => self.put(40 + 2 * axis, (length as i16).to_le_bytes()),
            Version::Nifti2 => self.put(16 + 8 * axis, (length as i64).to_le_bytes()),
        }
    }

    /// Sets `datatype` and `bitpix`.
    pub fn put_datatype(&mut self, code: i16, bitpix: i16) {
        let start = self.datatype_start();
        self.put(start, code.to_le_bytes());
        self.put(start + 2, bitpix.to_le_bytes());
    }

    /// Sets `scl_slope` and `scl_inter`.
    pub fn put_scaling(&mut self, slope: f64, intercept: f64) {
        self.put_reals(112, 176, &[slope, intercept]);
    }

    /// Sets `pixdim[0]` (the handedness of the qform) and the distances that follow it.
    pub fn put_pixdim(&mut self, pixdim: &[f64; 8]) {
        self.put_reals(76, 104, pixdim);
    }

    /// Sets the three rows of the sform's affine and its code.
    pub fn put_sform(&mut self, code: i16, rows: [[f64; 4]; 3]) {
        match self.version {
            Version::Nifti1 => self.put(254, code.to_le_bytes()),
            Version::Nifti2 => self.put(348, i32::from(code).to_le_bytes()),
        }
        self.put_reals(280, 400, rows.as_flattened());
    }

    /// Sets `xyzt_units`.
    pub fn put_units(&mut self, units: u8) {
        match self.version {
            Version::Nifti1 => self.put(123, [units]),
            Version::Nifti2 => self.put(500, i32::from(units).to_le_bytes()),
        }
    }

    /// Sets the fields that depend on the files: size and magic of the header, and the offset of the voxels.
    pub fn put_layout(&mut self, layout: Layout, vox_offset: usize) {
        let single = layout == Layout::SingleFile;
        self.put(0, (self.version.header_len() as u32).to_le_bytes());
        match self.version {
            Version::Nifti1 => {
                self.put(108, (vox_offset as f32).to_le_bytes());
                self.put(344, if single { *b"n+1\0" } else { *b"ni1\0" });
            }
            Version::Nifti2 => {
                self.put(168, (vox_offset as i64).to_le_bytes());
                let magic = if single { b"n+2\0" } else { b"ni2\0" };
                self.put(4, *magic);
                self.put(8, *b"\r\n\x1a\n");
            }
        }
    }

    /// The free text in `descrip`, 80 bytes.
    pub fn descrip(&self) -> &[u8] {
        let start = match self.version {
            Version::Nifti1 => 148,
            Version::Nifti2 => 240,
        };
        &self.bytes[start..start + 80]
    }

    fn put_reals(&mut self, start_1: usize, start_2: usize, values: &[f64]) {
        for (index, &value) in values.iter().enumerate() {
            match self.version {
                Version::Nifti1 => self.put(start_1 + 4 * index, (value as f32).to_le_bytes()),
                Version::Nifti2 => self.put(start_2 + 8 * index, value.to_le_bytes()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and texts must cover a header without gap or overlap, or a big-endian file would lose a field.
    #[test]
    fn the_tables_cover_the_headers() {
        let texts_1 = [(4, 1, 28), (38, 1, 2), (122, 1, 2), (148, 1, 104), (328, 1, 20)];
        let texts_2 = [(4, 1, 8), (240, 1, 104), (508, 1, 32)];
        for (numbers, texts, len) in [
            (&NUMBERS_1[..], &texts_1[..], LEN_1),
            (&NUMBERS_2[..], &texts_2[..], LEN_2),
        ] {
            let mut runs: Vec<Run> = numbers.iter().chain(texts).copied().collect();
            runs.sort_unstable();
            let end = runs.iter().fold(0, |at, &(start, width, count)| {
                assert_eq!(start, at);
                start + width * count
            });
            assert_eq!(end, len);
        }
    }
}
