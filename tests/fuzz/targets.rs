//! The fuzz targets: functions that must return for any bytes.
//!
//! An accepted file must also be consistent: the number of voxels matches its shape, it can be filtered, and
//! the written result verifies and reads back unchanged.
#![allow(dead_code, reason = "each fuzzer uses one of the functions")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use niimpi::filter::gaussian::Gaussian;
use niimpi::filter::{self, Scratch, SharedOptions};
use niimpi::image_io::{self, Image, ImageReader, ImageWriter, Verifier};
use niimpi::journal::RunLine;
use niimpi::journal::past::Past;
use niimpi::journal::status::Status;

/// Images with more bytes of voxels are refused, so that a wrong header cannot allocate memory.
const MEMORY_LIMIT_BYTES: u64 = 32 << 20;
/// Larger images are only read, because the fuzzer should spend its time on headers and streams.
const FILTERED_BYTES: usize = 64 << 10;

struct Bench {
    folder: tempfile::TempDir,
    reader: ImageReader,
    writer: ImageWriter,
    image: Image,
    again: Image,
    scratch: Scratch,
    verifier: Verifier,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

impl Bench {
    fn new() -> Self {
        // In memory if possible, because a fuzzer writes thousands of files per second.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Bench {
            folder: folder.expect("a folder for the files under test"),
            reader: ImageReader::new().memory_limit(MEMORY_LIMIT_BYTES),
            writer: ImageWriter::new().sync(false),
            image: Image::default(),
            again: Image::default(),
            scratch: Scratch::default(),
            verifier: Verifier::default(),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file under test is written");
        path
    }

    /// Probes, verifies and reads the image. Filters and writes it if it is accepted.
    fn carry(&mut self, path: &Path) {
        let probed = image_io::probe(path);
        let _ = self.verifier.verify(path);
        if let Err(error) = self.reader.read(path, &mut self.image) {
            assert!(!error.to_string().is_empty());
            return;
        }
        let volume = &self.image.volume;
        let probed = probed.expect("what can be read can be probed");
        assert_eq!((&probed.shape, probed.datatype), (&volume.shape, volume.datatype));
        let bytes = volume.voxels.as_bytes().len();
        assert_eq!(bytes, volume.len() * volume.datatype.size_bytes());
        if bytes > FILTERED_BYTES {
            return;
        }
        let gaussian = Gaussian::from_sigma_vox(0.5);
        let spec = SharedOptions::default();
        filter::apply(&gaussian, &spec, &mut self.image.volume, &mut self.scratch)
            .expect("a sigma in voxels suits every image");
        let output = self.folder.path().join("output.nii.gz");
        match self.writer.write(&output, &self.image) {
            Ok(written) => {
                let found = self.verifier.verify(&output).expect("what was written verifies");
                assert_eq!(found, written);
                self.reader
                    .read(&output, &mut self.again)
                    .expect("what was written can be read");
                assert_eq!(self.again.volume.shape, self.image.volume.shape);
                assert_eq!(
                    self.again.volume.voxels.as_bytes(),
                    self.image.volume.voxels.as_bytes()
                );
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// An uncompressed file. The first byte decides if it is a single file or a pair, and where the pair is
/// split.
pub fn header(bytes: &[u8]) {
    let Some((&kind, content)) = bytes.split_first() else {
        return;
    };
    BENCH.with_borrow_mut(|bench| {
        if kind & 1 == 0 {
            let path = bench.put("file.nii", content);
            bench.carry(&path);
        } else {
            let (head, voxels) = content.split_at(content.len().min(348 + usize::from(kind >> 1)));
            let path = bench.put("pair.hdr", head);
            bench.put("pair.img", voxels);
            bench.carry(&path);
        }
    });
}

/// A compressed file.
pub fn gzip(bytes: &[u8]) {
    BENCH.with_borrow_mut(|bench| {
        let path = bench.put("file.nii.gz", bytes);
        bench.carry(&path);
    });
}

/// The bytes between a valid header and the voxels. The first four bytes determine where the voxels start and
/// the byte order of the header.
pub fn extension(bytes: &[u8]) {
    let Some((control, section)) = bytes.split_at_checked(4) else {
        return;
    };
    let offset = u16::from_le_bytes([control[0], control[1]]);
    let big = control[2] & 1 == 1;
    let pair = control[2] & 2 == 2;
    let mut head = vec![0; 348];
    let mut put = |at: usize, number: &[u8]| {
        let mut number = number.to_vec();
        if big {
            number.reverse();
        }
        head[at..at + number.len()].copy_from_slice(&number);
    };
    put(0, &348_i32.to_le_bytes());
    for (axis, length) in [3_i16, 4, 3, 2, 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * axis, &length.to_le_bytes());
        put(76 + 4 * axis, &1_f32.to_le_bytes());
    }
    put(70, &2_i16.to_le_bytes());
    put(72, &8_i16.to_le_bytes());
    put(108, &f32::from(offset).to_le_bytes());
    head[344..348].copy_from_slice(if pair { b"ni1\0" } else { b"n+1\0" });
    head.extend_from_slice(section);
    BENCH.with_borrow_mut(|bench| {
        if pair {
            let path = bench.put("pair.hdr", &head);
            bench.put("pair.img", &vec![7; 24 + usize::from(offset)]);
            bench.carry(&path);
        } else {
            // Space for the voxels at the offset in the header.
            head.resize(head.len().max(usize::from(offset) + 24), 7);
            let path = bench.put("file.nii", &head);
            bench.carry(&path);
        }
    });
}

/// One or more journals, separated by zero bytes.
pub fn journal(bytes: &[u8]) {
    let journals = || bytes.split(|&byte| byte == 0);
    let past = Past::of_bytes(journals());
    assert!(past.journals == journals().count());
    let alive = |run: &RunLine| run.rank.is_multiple_of(2).then_some(true);
    let shown = Status::of_bytes(journals(), 1e9, alive).render();
    assert!(
        shown.chars().all(|c| !c.is_control() || c == '\n'),
        "a name must not break the table"
    );
}
