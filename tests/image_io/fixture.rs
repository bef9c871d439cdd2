//! Makes NIfTI files byte by byte, independently of the code under test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use niimpi::image_io::{Image, ImageError, ImageReader, ImageWriter, ReadSummary};
use niimpi::volume::Datatype;
use tempfile::TempDir;

/// A NIfTI file to be made: header fields by name, in either version and byte order.
#[derive(Clone)]
pub struct Nifti {
    pub two: bool,
    pub big: bool,
    pub single: bool,
    pub shape: Vec<i64>,
    pub datatype: i16,
    pub bitpix: i16,
    pub pixdim: [f64; 8],
    pub vox_offset: f64,
    pub slope: f64,
    pub inter: f64,
    pub units: u8,
    pub qform_code: i16,
    pub sform_code: i16,
    pub srow: [[f64; 4]; 3],
    pub intent_code: i32,
    /// (code, content) pairs. The size in the file can be set separately.
    pub extensions: Vec<(u32, Vec<u8>)>,
    pub claimed_esize: Option<u32>,
    pub voxels: Vec<u8>,
}

impl Nifti {
    /// A small uint8 image whose voxels count up.
    pub fn small() -> Self {
        Nifti::of(Datatype::Uint8, &[4, 3, 2])
    }

    pub fn of(datatype: Datatype, shape: &[i64]) -> Self {
        let count: i64 = shape.iter().product();
        let voxels = (0..count as usize * datatype.size_bytes())
            .map(|index| (index * 7 % 61) as u8)
            .collect();
        Nifti {
            two: false,
            big: false,
            single: true,
            shape: shape.to_vec(),
            datatype: datatype.code(),
            bitpix: (datatype.size_bytes() * 8) as i16,
            pixdim: [-1.0, 2.0, 2.5, 3.0, 1.5, 0.0, 0.0, 0.0],
            vox_offset: 352.0,
            slope: f64::NAN,
            inter: f64::NAN,
            units: 10,
            qform_code: 1,
            sform_code: 2,
            srow: [[-2.0, 0.0, 0.0, 9.0], [0.0, 2.5, 0.0, -8.0], [0.0, 0.0, 3.0, 7.0]],
            intent_code: 0,
            extensions: Vec::new(),
            claimed_esize: None,
            voxels,
        }
    }

    pub fn two(mut self) -> Self {
        self.two = true;
        self.vox_offset = 544.0;
        self
    }

    /// The same header and voxel values in the other byte order.
    pub fn big(mut self) -> Self {
        self.big = true;
        let size = self.bitpix as usize / 8;
        self.voxels.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        self
    }

    pub fn pair(mut self) -> Self {
        self.single = false;
        self.vox_offset = 0.0;
        self
    }

    #[allow(clippy::too_many_lines, reason = "one line per field of the header")]
    pub fn header(&self) -> Vec<u8> {
        let mut out = Fields {
            big: self.big,
            bytes: Vec::new(),
        };
        let mut dim = [1_i64; 8];
        dim[0] = self.shape.len() as i64;
        dim[1..=self.shape.len()].copy_from_slice(&self.shape);
        let quatern = [0.1, 0.2, 0.3, 4.0, 5.0, 6.0];
        let descrip = text(b"a description", 80);
        let aux = text(b"aux.txt", 24);
        let name = text(b"an intent", 16);
        if self.two {
            out.i32(540);
            out.raw(if self.single {
                b"n+2\0\r\n\x1a\n"
            } else {
                b"ni2\0\r\n\x1a\n"
            });
            out.i16(self.datatype);
            out.i16(self.bitpix);
            dim.iter().for_each(|&length| out.i64(length));
            [1.5, 2.5, 3.5].iter().for_each(|&p| out.f64(p));
            self.pixdim.iter().for_each(|&size| out.f64(size));
            out.i64(self.vox_offset as i64);
            [self.slope, self.inter, 99.0, -99.0, 0.25, 0.75]
                .iter()
                .for_each(|&x| out.f64(x));
            out.i64(3);
            out.i64(4);
            out.raw(&descrip);
            out.raw(&aux);
            out.i32(i32::from(self.qform_code));
            out.i32(i32::from(self.sform_code));
            quatern.iter().for_each(|&x| out.f64(x));
            self.srow.as_flattened().iter().for_each(|&x| out.f64(x));
            out.i32(5);
            out.i32(i32::from(self.units));
            out.i32(self.intent_code);
            out.raw(&name);
            out.raw(&[57]);
            out.raw(&[0; 15]);
            assert_eq!(out.bytes.len(), 540);
        } else {
            out.i32(348);
            out.raw(&text(b"data type", 10));
            out.raw(&text(b"db", 18));
            out.i32(16384);
            out.i16(7);
            out.raw(b"r9");
            dim.iter().for_each(|&length| out.i16(length as i16));
            [1.5, 2.5, 3.5].iter().for_each(|&p| out.f32(p));
            out.i16(self.intent_code as i16);
            out.i16(self.datatype);
            out.i16(self.bitpix);
            out.i16(3);
            self.pixdim.iter().for_each(|&size| out.f32(size));
            [self.vox_offset, self.slope, self.inter]
                .iter()
                .for_each(|&x| out.f32(x));
            out.i16(4);
            out.raw(&[5, self.units]);
            [99.0, -99.0, 0.25, 0.75].iter().for_each(|&x| out.f32(x));
            out.i32(255);
            out.i32(-255);
            out.raw(&descrip);
            out.raw(&aux);
            out.i16(self.qform_code);
            out.i16(self.sform_code);
            quatern.iter().for_each(|&x| out.f32(x));
            self.srow.as_flattened().iter().for_each(|&x| out.f32(x));
            out.raw(&name);
            out.raw(if self.single { b"n+1\0" } else { b"ni1\0" });
            assert_eq!(out.bytes.len(), 348);
        }
        out.raw(&[u8::from(!self.extensions.is_empty()), 0, 0, 0]);
        for (code, content) in &self.extensions {
            let size = self.claimed_esize.unwrap_or(content.len() as u32 + 8);
            out.i32(size as i32);
            out.i32(*code as i32);
            out.raw(content);
        }
        out.bytes
    }

    /// The bytes of a single file, with the voxels at `vox_offset`.
    pub fn file(&self) -> Vec<u8> {
        let mut bytes = self.header();
        let least = bytes.len();
        bytes.resize(least.max(self.vox_offset as usize), 0);
        bytes.extend_from_slice(&self.voxels);
        bytes
    }
}

struct Fields {
    big: bool,
    bytes: Vec<u8>,
}

macro_rules! put {
    ($($name:ident: $from:ty => $to:ty),*) => {
        $(fn $name(&mut self, value: $from) {
            let value = value as $to;
            let bytes = if self.big { value.to_be_bytes() } else { value.to_le_bytes() };
            self.bytes.extend_from_slice(&bytes);
        })*
    };
}

impl Fields {
    put!(i16: i16 => i16, i32: i32 => i32, i64: i64 => i64, f32: f64 => f32, f64: f64 => f64);

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

fn text(start: &[u8], len: usize) -> Vec<u8> {
    let mut text = start.to_vec();
    text.resize(len, 0);
    // The last byte must be kept, too.
    text[len - 1] = 0xee;
    text
}

/// Adds six bits of noise to every second byte.
pub fn noise(bytes: &mut [u8]) {
    let mut state = 1_u32;
    for byte in bytes.iter_mut().step_by(2) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte ^= (state >> 26) as u8;
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder with a reader, a writer and an image to read into.
pub struct Bench {
    pub folder: TempDir,
    pub reader: ImageReader,
    pub writer: ImageWriter,
    pub image: Image,
}

impl Bench {
    pub fn new() -> Self {
        Bench {
            folder: tempfile::tempdir().unwrap(),
            reader: ImageReader::new(),
            writer: ImageWriter::new().sync(false),
            image: Image::default(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes the bytes to a file, compressed if its name ends in .gz, and reads the image.
    pub fn read(&mut self, name: &str, bytes: &[u8]) -> Result<ReadSummary, ImageError> {
        let path = if name.ends_with(".gz") {
            self.put(name, &gzip(bytes))
        } else {
            self.put(name, bytes)
        };
        self.read_path(&path)
    }

    pub fn read_path(&mut self, path: &Path) -> Result<ReadSummary, ImageError> {
        self.reader.read(path, &mut self.image)
    }

    /// Names of all files in the folder, including hidden ones.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
