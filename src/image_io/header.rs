//! NIfTI-1 and NIfTI-2 headers: parsing, checking, serialising, and the extensions that follow them.
//!
//! A [`Header`] keeps the bytes of the file in little-endian order, so that every field that niimpi does not
//! set is copied to the output bit for bit. The few fields that niimpi uses are also kept as numbers.

use nifti::NiftiHeader;

use super::error::{Cause, beginning};
use super::header_layout::{HeaderLayout, LEN_1, LEN_2, Layout, Version};
use super::voxel_size::{LengthUnit, VoxelSizeDisagreement};
use super::warning::Warning;
use crate::volume::{Datatype, Scaling, Volume};

/// Bytes of the flag that indicates if extensions follow.
pub(super) const EXTENDER_LEN: usize = 4;
/// More bytes of extensions than this are refused, because they are held in memory.
pub(super) const EXTENSIONS_LIMIT: u64 = 64 << 20;

/// Two voxel sizes disagree beyond this relative difference. Affines in single precision are within 1e-6.
const VOXEL_SIZE_TOLERANCE: f64 = 1e-3;

/// The header of a NIfTI image with its extensions.
///
/// ```
/// use niimpi::image_io::{Header, Version};
/// use niimpi::volume::Datatype;
///
/// let header = Header::new(Version::Nifti1, &[91, 109, 91], Datatype::Int16, [2.0; 3]);
/// assert_eq!(header.voxel_bytes(), Some(91 * 109 * 91 * 2));
/// assert!(header.scaling().is_none());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    raw: HeaderLayout,
    /// The extensions in order, sizes and codes little-endian, contents unchanged.
    extensions: Vec<u8>,
    warnings: Vec<Warning>,
    shape: Vec<usize>,
    datatype: Datatype,
    scaling: Option<Scaling>,
    unit: LengthUnit,
    pixdim_mm: [f64; 3],
    affine_mm: Option<[f64; 3]>,
    vox_offset: u64,
    big_endian: bool,
}

impl Default for Header {
    /// The header of one uint8 voxel of 1 mm.
    fn default() -> Self {
        Header::new(Version::Nifti1, &[1], Datatype::Uint8, [1.0; 3])
    }
}

/// Whether this is the shape of a FreeSurfer overlay: one value per vertex of a surface. NIfTI-1 axes end at
/// 32767, so FreeSurfer folds n vertices into n/6 × 1 × 6 voxels, or into another small factor of n.
fn is_folded_surface([x, y, z]: [usize; 3]) -> bool {
    /// Icosahedra of order 3 to 7, to which FreeSurfer maps subjects.
    const ICOSAHEDRA: [usize; 5] = [642, 2562, 10_242, 40_962, 163_842];
    const LARGEST_FACTOR: usize = 16;
    const LONGER_THAN_ANY_GRID: usize = 4096;
    let folded = y == 1 && (2..=LARGEST_FACTOR).contains(&z);
    folded && (x > LONGER_THAN_ANY_GRID || (z == 6 && ICOSAHEDRA.contains(&x.saturating_mul(z))))
}

/// The fields that the program uses, from a header of either version.
struct Fields {
    sizeof_hdr: i32,
    /// FreeSurfer's value of `glmin` in a NIfTI-1 header with -1 for `dim[1]`.
    freesurfer_vertices: i64,
    dim: [i64; 8],
    datatype: i16,
    bitpix: i16,
    pixdim: [f64; 8],
    vox_offset: f64,
    scl_slope: f64,
    scl_inter: f64,
    xyzt_units: u8,
    intent_code: i32,
    sform_code: i32,
    srow: [[f64; 4]; 3],
}

impl Header {
    /// A header for a new image: units mm and s, an affine that puts voxel 0 at the origin.
    pub fn new(version: Version, shape: &[usize], datatype: Datatype, voxel_size_mm: [f64; 3]) -> Self {
        const MM_AND_SECONDS: u8 = 2 | 8;
        const SCANNER: i16 = 1;
        let mut raw = HeaderLayout::zeroed(version);
        raw.put_dim(shape);
        raw.put_datatype(datatype.code(), bits(datatype));
        raw.put_scaling(1.0, 0.0);
        raw.put_layout(Layout::SingleFile, version.header_len() + EXTENDER_LEN);
        let mut pixdim = [1.0; 8];
        pixdim[1..4].copy_from_slice(&voxel_size_mm);
        raw.put_pixdim(&pixdim);
        raw.put_units(MM_AND_SECONDS);
        let [x, y, z] = voxel_size_mm;
        raw.put_sform(
            SCANNER,
            [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]],
        );
        Header {
            raw,
            extensions: Vec::new(),
            warnings: Vec::new(),
            shape: shape.to_vec(),
            datatype,
            scaling: None,
            unit: LengthUnit::Millimetre,
            pixdim_mm: voxel_size_mm,
            affine_mm: Some(voxel_size_mm),
            vox_offset: 0,
            big_endian: false,
        }
    }

    /// The NIfTI version of the image and of its output.
    pub fn version(&self) -> Version {
        self.raw.version
    }

    /// Lengths of the axes, x first; 1 to 7 of them, none 0.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the voxels in the file.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// How stored numbers become intensities. `None` if the slope is 0, NaN or infinite, or if it is 1 and
    /// the intercept 0.
    pub fn scaling(&self) -> Option<Scaling> {
        self.scaling
    }

    /// Distance between voxel centres along x, y and z in mm: by pixdim, or by the affine if the two
    /// disagree.
    pub fn voxel_size_mm(&self) -> [f64; 3] {
        match self.voxel_size_disagreement() {
            Some(disagreement) => disagreement.affine_mm,
            None => self.pixdim_mm,
        }
    }

    /// The unit of length. Voxel sizes are converted to mm.
    pub fn length_unit(&self) -> LengthUnit {
        self.unit
    }

    /// Both voxel sizes, if pixdim and the affine differ by more than 0.1 % along an axis of the image.
    pub fn voxel_size_disagreement(&self) -> Option<VoxelSizeDisagreement> {
        let affine_mm = self.affine_mm?;
        let axes = self.shape.len().min(3);
        let differ = |axis: usize| {
            let (a, b) = (self.pixdim_mm[axis], affine_mm[axis]);
            (a - b).abs() > VOXEL_SIZE_TOLERANCE * a.max(b)
        };
        (0..axes).any(differ).then_some(VoxelSizeDisagreement {
            pixdim_mm: self.pixdim_mm,
            affine_mm,
        })
    }

    /// The free text in `descrip`, up to its first zero byte.
    pub fn description(&self) -> String {
        let text = self
            .raw
            .descrip()
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Whether the file is in big-endian byte order. The output is little-endian.
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// All header extensions, each with its size and code (little-endian) before its content.
    pub fn extensions(&self) -> &[u8] {
        &self.extensions
    }

    /// The oddities found while reading the file.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(super) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// Bytes of all voxels; `None` if they do not fit 64 bits.
    pub fn voxel_bytes(&self) -> Option<u64> {
        let bytes = self.declared_voxel_bytes();
        u64::try_from(bytes)
            .ok()
            .filter(|&bytes| bytes <= isize::MAX as u64)
    }

    /// Bytes of all voxels, for messages about wrong headers; saturates.
    pub(super) fn declared_voxel_bytes(&self) -> u128 {
        self.shape
            .iter()
            .fold(self.datatype.size_bytes() as u128, |bytes, &len| {
                bytes.saturating_mul(len as u128)
            })
    }

    /// Offset of the voxels in their file, in bytes.
    pub(super) fn voxel_offset(&self) -> u64 {
        self.vox_offset
    }

    pub(super) fn raw(&self) -> &HeaderLayout {
        &self.raw
    }

    /// The version of the header at the start of a file, of which `bytes` are the first [`LEN_1`] or as many
    /// as there are.
    pub(super) fn recognise(bytes: &[u8]) -> Result<Version, Cause> {
        if bytes.is_empty() {
            return Err(Cause::Empty);
        }
        let size = |size: usize| [(size as u32).to_le_bytes(), (size as u32).to_be_bytes()];
        let begins_with_size =
            |len: usize| bytes.len() >= 4 && size(len).iter().any(|size| bytes[..4] == *size);
        if bytes.len() >= 8 && matches!(&bytes[4..8], b"n+2\0" | b"ni2\0") {
            if bytes.len() >= 12 && bytes[8..12] != *b"\r\n\x1a\n" && bytes[8..12] != [0; 4] {
                return Err(Cause::MangledByTextMode);
            }
            return Ok(Version::Nifti2);
        }
        if matches!(bytes.get(344..LEN_1), Some(b"n+1\0" | b"ni1\0")) {
            return Ok(Version::Nifti1);
        }
        if begins_with_size(LEN_2) {
            return match bytes.get(4..8) {
                Some(magic) => Err(Cause::BadMagic {
                    found: beginning(magic),
                }),
                None => Err(Cause::HeaderTruncated {
                    found: bytes.len() as u64,
                    needed: LEN_2 as u64,
                }),
            };
        }
        match bytes.get(344..LEN_1) {
            Some([0, 0, 0, 0]) if begins_with_size(LEN_1) => Err(Cause::Analyze),
            Some(magic) if begins_with_size(LEN_1) => Err(Cause::BadMagic {
                found: beginning(magic),
            }),
            None if begins_with_size(LEN_1) => Err(Cause::HeaderTruncated {
                found: bytes.len() as u64,
                needed: LEN_1 as u64,
            }),
            _ => Err(Cause::NotNifti {
                begins: beginning(bytes),
            }),
        }
    }

    /// Parses and checks the header in `bytes`, which has the version that [`Header::recognise`] returned.
    /// Reuses the memory of the last header, whose extensions are removed.
    pub(super) fn parse(&mut self, version: Version, layout: Layout, bytes: &[u8]) -> Result<(), Cause> {
        let len = version.header_len();
        if bytes.len() < len {
            return Err(Cause::HeaderTruncated {
                found: bytes.len() as u64,
                needed: len as u64,
            });
        }
        (self.raw, self.big_endian) = HeaderLayout::from_file(version, bytes);
        self.extensions.clear();
        self.warnings.clear();
        let ndim = self.raw.length(0);
        if !(1..=7).contains(&ndim) {
            return Err(Cause::BadDimensionCount { ndim });
        }
        self.take(&self.fields(), ndim as usize, layout)
    }

    fn take(&mut self, fields: &Fields, ndim: usize, layout: Layout) -> Result<(), Cause> {
        const CIFTI_INTENTS: std::ops::Range<i32> = 3000..3100;
        if CIFTI_INTENTS.contains(&fields.intent_code) {
            return Err(Cause::Cifti);
        }
        let expected = self.raw.version.header_len() as i32;
        if fields.sizeof_hdr != expected {
            self.warn(Warning::HeaderSize {
                found: fields.sizeof_hdr,
                expected,
            });
        }
        self.take_shape(fields, ndim)?;
        self.datatype = datatype(fields.datatype)?;
        let expected = bits(self.datatype);
        if fields.bitpix != expected {
            self.warn(Warning::Bitpix {
                bitpix: fields.bitpix,
                datatype: self.datatype,
                expected,
            });
        }
        self.take_voxel_offset(fields.vox_offset, layout)?;
        self.scaling = scaling(fields.scl_slope, fields.scl_inter)?;
        self.take_voxel_size(fields);
        Ok(())
    }

    fn take_shape(&mut self, fields: &Fields, ndim: usize) -> Result<(), Cause> {
        self.shape.clear();
        let vertices = fields.freesurfer_vertices;
        if fields.dim[1] == -1 && vertices > 0 {
            return Err(Cause::SurfaceOverlay { vertices });
        }
        for axis in 1..=ndim {
            let length = fields.dim[axis];
            if length < 0 {
                return Err(Cause::BadDimension { axis, length });
            }
            if length == 0 {
                self.raw.put_length(axis, 1);
                self.warn(Warning::ZeroAxis { axis });
            }
            self.shape.push(length.max(1) as usize);
        }
        let [x, y, z] = std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1));
        if is_folded_surface([x, y, z]) {
            let vertices = x.saturating_mul(z) as i64;
            return Err(Cause::SurfaceOverlay { vertices });
        }
        if [x, y, z].iter().filter(|&&length| length > 1).count() == 1 {
            self.warn(Warning::OneLine { x, y, z });
        }
        Ok(())
    }

    /// In a single file, such voxels would overlap the header. nibabel also refuses these offsets.
    fn take_voxel_offset(&mut self, offset: f64, layout: Layout) -> Result<(), Cause> {
        let whole = offset.fract() == 0.0 && (0.0..(1_u64 << 52) as f64).contains(&offset);
        if !whole {
            return Err(Cause::BadVoxOffset { offset });
        }
        self.vox_offset = offset as u64;
        let least = (self.raw.version.header_len() + EXTENDER_LEN) as u64;
        if layout == Layout::SingleFile && self.vox_offset < least {
            if self.vox_offset > 0 {
                return Err(Cause::OffsetInHeader {
                    offset: self.vox_offset,
                    least,
                });
            }
            self.vox_offset = least;
            self.warn(Warning::ZeroOffset { used: least });
        }
        Ok(())
    }

    fn take_voxel_size(&mut self, fields: &Fields) {
        self.unit = LengthUnit::from_code(fields.xyzt_units);
        let mm_per_unit = self.unit.mm();
        let usable = |size: f64| size.is_finite() && size > 0.0;
        self.pixdim_mm = std::array::from_fn(|axis| {
            let size = fields.pixdim[axis + 1].abs() * mm_per_unit;
            if usable(size) { size } else { 1.0 }
        });
        // The columns of a quaternion's matrix have the lengths in pixdim, so only an sform can disagree.
        let columns: [f64; 3] = std::array::from_fn(|axis| {
            let column = fields.srow.map(|row| row[axis]);
            column.iter().map(|x| x * x).sum::<f64>().sqrt() * mm_per_unit
        });
        let axes = self.shape.len().min(3);
        let affine_counts = fields.sform_code > 0 && columns[..axes].iter().all(|&size| usable(size));
        self.affine_mm = affine_counts.then(|| {
            std::array::from_fn(|axis| {
                if usable(columns[axis]) {
                    columns[axis]
                } else {
                    self.pixdim_mm[axis]
                }
            })
        });
    }

    fn fields(&self) -> Fields {
        let raw = &self.raw;
        let [datatype, bitpix] = raw.datatype();
        let [scl_slope, scl_inter] = raw.reals(112, 176);
        let (freesurfer_vertices, vox_offset, xyzt_units) = match raw.version {
            Version::Nifti1 => (
                i32::from_le_bytes(raw.get(144)).into(),
                f32::from_le_bytes(raw.get(108)).into(),
                raw.get::<1>(123),
            ),
            Version::Nifti2 => (0, i64::from_le_bytes(raw.get(168)) as f64, raw.get::<1>(500)),
        };
        Fields {
            sizeof_hdr: i32::from_le_bytes(raw.get(0)),
            freesurfer_vertices,
            dim: std::array::from_fn(|axis| raw.length(axis)),
            datatype,
            bitpix,
            pixdim: raw.reals(76, 104),
            vox_offset,
            scl_slope,
            scl_inter,
            xyzt_units: xyzt_units[0],
            intent_code: raw.code(68, 504),
            sform_code: raw.code(254, 348),
            srow: raw.sform(),
        }
    }

    /// Parses the extensions in `section`, which starts after the extension flag and ends where the voxels
    /// start or, in a pair, where the file ends. If an extension overruns the section, all extensions are
    /// dropped.
    pub(super) fn take_extensions(&mut self, section: &[u8]) -> Result<(), Cause> {
        const HEAD: usize = 8;
        const CIFTI_CODE: u32 = 32;
        self.extensions.clear();
        let mut rest = section;
        while rest.len() >= HEAD {
            let word = |at: usize| {
                let word = [rest[at], rest[at + 1], rest[at + 2], rest[at + 3]];
                if self.big_endian {
                    u32::from_be_bytes(word)
                } else {
                    u32::from_le_bytes(word)
                }
            };
            let (size, code) = (word(0), word(4));
            if size == 0 {
                break; // padding up to the voxels
            }
            let Some(extension) = rest
                .get(..size as usize)
                .filter(|extension| extension.len() >= HEAD)
            else {
                self.extensions.clear();
                self.warn(Warning::ExtensionsDropped);
                break;
            };
            if code == CIFTI_CODE && self.raw.version == Version::Nifti2 {
                return Err(Cause::Cifti);
            }
            self.extensions.extend_from_slice(&size.to_le_bytes());
            self.extensions.extend_from_slice(&code.to_le_bytes());
            self.extensions.extend_from_slice(&extension[HEAD..]);
            rest = &rest[size as usize..];
        }
        Ok(())
    }

    /// Appends the header of an output to `out`: little-endian, with the shape, type and scaling of `volume`,
    /// the extensions, and in a single file the padding up to the voxels.
    pub(super) fn serialise(&self, volume: &Volume, layout: Layout, out: &mut Vec<u8>) -> Result<(), Cause> {
        let mut raw = self.raw.clone();
        if volume.shape != self.shape {
            let too_long = volume.shape.iter().position(|&length| length > i16::MAX as usize);
            if let (Version::Nifti1, Some(index)) = (raw.version, too_long) {
                return Err(Cause::TooLongForNifti1 {
                    axis: index + 1,
                    length: volume.shape[index],
                });
            }
            raw.put_dim(&volume.shape);
        }
        let end = raw.version.header_len() + EXTENDER_LEN + self.extensions.len();
        let vox_offset = match layout {
            Layout::SingleFile => end.next_multiple_of(16),
            Layout::Pair => 0,
        };
        let (slope, intercept) = volume
            .scaling
            .map_or((1.0, 0.0), |scaling| (scaling.slope, scaling.intercept));
        raw.put_datatype(volume.datatype.code(), bits(volume.datatype));
        raw.put_scaling(slope, intercept);
        raw.put_layout(layout, vox_offset);
        let start = out.len();
        out.extend_from_slice(raw.as_slice());
        out.extend_from_slice(&[u8::from(!self.extensions.is_empty()), 0, 0, 0]);
        out.extend_from_slice(&self.extensions);
        if layout == Layout::SingleFile {
            out.resize(start + vox_offset, 0);
        }
        Ok(())
    }
}

fn bits(datatype: Datatype) -> i16 {
    (datatype.size_bytes() * 8) as i16
}

fn datatype(code: i16) -> Result<Datatype, Cause> {
    let header = NiftiHeader {
        datatype: code,
        ..NiftiHeader::default()
    };
    let unsupported = |name: String| Cause::UnsupportedDatatype { code, name };
    let nifti_type = header
        .data_type()
        .map_err(|_| unsupported("unknown".to_owned()))?;
    Datatype::try_from(nifti_type).map_err(|nifti_type| unsupported(format!("{nifti_type:?}").to_lowercase()))
}

/// The scaling as nibabel understands it: a slope that is 0 or not finite means none.
fn scaling(slope: f64, intercept: f64) -> Result<Option<Scaling>, Cause> {
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !intercept.is_finite() {
        return Err(Cause::NonFiniteIntercept { slope, intercept });
    }
    let scaled = slope != 1.0 || intercept != 0.0;
    Ok(scaled.then_some(Scaling { slope, intercept }))
}
