//! Damaged and malicious files are refused or read, without a panic, an endless loop or memory beyond the
//! bound.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use niimpi::image_io::{Cause, Image, ImageReader, probe};
use niimpi::volume::Datatype;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::{Bench, Nifti, gzip};

/// Records the largest block that this thread allocates.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(new_size)));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn mutate(bytes: &mut Vec<u8>, within: usize, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..within.min(bytes.len()));
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            3 => {
                let end = (at + rng.random_range(1..9)).min(bytes.len());
                rng.fill_bytes(&mut bytes[at..end]);
            }
            _ => bytes.truncate((at + 1).max(1)),
        }
    }
}

#[test]
fn mutations_of_headers_and_gzip_streams() {
    let mut bench = Bench::new();
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let extended = Nifti {
        extensions: vec![(6, vec![1; 24]), (4, vec![2; 40])],
        ..Nifti::small()
    };
    let seeds = [
        Nifti::small().file(),
        Nifti::of(Datatype::Int16, &[6, 5, 4, 3]).big().file(),
        Nifti::of(Datatype::Float64, &[6, 5]).two().file(),
        Nifti {
            vox_offset: 432.0,
            ..extended.clone()
        }
        .file(),
        Nifti {
            vox_offset: 624.0,
            ..extended.two()
        }
        .big()
        .file(),
    ];
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..4000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        let gz = round % 3;
        if gz != 1 {
            mutate(&mut bytes, 700, &mut rng);
        }
        if gz != 0 {
            bytes = gzip(&bytes);
        }
        if gz == 1 {
            mutate(&mut bytes, usize::MAX, &mut rng);
        }
        let path = bench.put(if gz == 0 { "m.nii" } else { "m.nii.gz" }, &bytes);
        LARGEST.set(0);
        let _ = probe(&path);
        match bench.read_path(&path) {
            Ok(_) => {
                accepted += 1;
                let volume = &bench.image.volume;
                assert_eq!(
                    volume.voxels.as_bytes().len(),
                    volume.len() * volume.datatype.size_bytes()
                );
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
        // The largest content of a gzip file of this size, or the buffers.
        let bound = (bytes.len() * 1032).max(2 << 20);
        assert!(
            LARGEST.get() <= bound,
            "{} bytes allocated for a file of {}",
            LARGEST.get(),
            bytes.len()
        );
    }
    assert!(
        accepted > 300 && refused > 1000,
        "{accepted} accepted, {refused} refused"
    );
}

/// Data after the voxels are checked without being kept in memory: 1 GB of zeros in 1 MB.
#[test]
fn a_bomb_behind_the_voxels() {
    let mut bench = Bench::new();
    let path = bench.path("bomb.nii.gz");
    let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::new(6));
    encoder.write_all(&Nifti::small().file()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..if cfg!(debug_assertions) { 64 } else { 1024 } {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    LARGEST.set(0);
    let mut reader = ImageReader::new();
    reader.read(&path, &mut Image::default()).unwrap();
    assert!(LARGEST.get() < 4 << 20);
    bench.read_path(&path).unwrap();
}

/// 100 GB of zeros after the stream, in a sparse file.
#[test]
fn zeros_without_end_are_refused() {
    let mut bench = Bench::new();
    let path = bench.put("zeros.nii.gz", &gzip(&Nifti::small().file()));
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(100 << 30).unwrap();
    let error = bench.read_path(&path).unwrap_err();
    assert!(matches!(error.cause, Cause::PaddingTooLong { .. }), "{error}");
}

/// Random bytes after a valid gzip header, and random bytes only.
#[test]
fn noise() {
    let mut bench = Bench::new();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for round in 0..800 {
        let mut bytes = vec![0; rng.random_range(1..3000)];
        rng.fill_bytes(&mut bytes);
        if round % 2 == 0 && bytes.len() > 10 {
            bytes[..10].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        }
        let path = bench.put("n.nii.gz", &bytes);
        assert!(bench.read_path(&path).is_err());
        let path = bench.put("n.nii", &bytes);
        assert!(bench.read_path(&path).is_err());
    }
}
