//! Tests of refusals: one per cause, with the text of its message.

use std::fs;
use std::path::Path;

use niimpi::image_io::{Cause, ImageError, ImageReader, identify, pair_seems_intact, probe, seems_intact};
use niimpi::volume::Datatype;

use crate::fixture::{Bench, Nifti, gzip, noise};

/// Checks that reading fails with this text. Probing also fails, unless the cause is after the header.
#[track_caller]
fn refused(bench: &mut Bench, path: &Path, text: &str, probed: bool) -> Cause {
    let error: ImageError = bench.read_path(path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(text), "{message}");
    assert!(
        message.starts_with(bench.folder.path().to_str().unwrap()),
        "{message}"
    );
    assert_eq!(probe(path).is_err(), probed, "{message}");
    if probed {
        assert_eq!(probe(path).unwrap_err().to_string(), message);
    }
    error.cause
}

#[track_caller]
fn refuse(name: &str, bytes: &[u8], text: &str, probed: bool) -> Cause {
    let mut bench = Bench::new();
    let path = bench.put(name, bytes);
    refused(&mut bench, &path, text, probed)
}

macro_rules! refusal {
    ($name:ident: $file:expr, $bytes:expr, $text:expr, $cause:pat) => {
        #[test]
        fn $name() {
            assert!(matches!(refuse($file, &$bytes, $text, true), $cause));
        }
    };
}

fn patched(mut bytes: Vec<u8>, at: usize, patch: &[u8]) -> Vec<u8> {
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// FreeSurfer exceeds the limit of NIfTI-1 with -1 as the first axis and its length in `glmin`.
fn with_glmin(nifti: Nifti) -> Vec<u8> {
    let order = |mut bytes: Vec<u8>| {
        if nifti.big {
            bytes.reverse();
        }
        bytes
    };
    let bytes = patched(nifti.file(), 42, &order((-1_i16).to_le_bytes().to_vec()));
    patched(bytes, 144, &order(40_000_i32.to_le_bytes().to_vec()))
}

refusal!(empty_file: "a.nii", [], "is empty (0 bytes)", Cause::Empty);
refusal!(empty_gzip_file: "a.nii.gz", [], "is empty (0 bytes)", Cause::Empty);
refusal!(empty_content: "a.nii.gz", gzip(b""), "is empty", Cause::Empty);
refusal!(text_file: "a.nii", *b"subject,age\n1,2\n",
    r#"begins with "subject,age\n1,2\n""#, Cause::NotNifti { .. });
refusal!(text_in_gzip: "a.nii.gz", gzip(b"hello"),
    r#"is not a NIfTI image: it begins with "hello""#, Cause::NotNifti { .. });
refusal!(text_named_gzip: "a.nii.gz", *b"<html>no</html>",
    r#"not a gzip file: it begins with "<html>"#, Cause::NotGzip { .. });
refusal!(bad_magic: "a.nii", patched(Nifti::small().file(), 344, b"n+3\0"),
    r#"its magic is "n+3\x00""#, Cause::BadMagic { .. });
refusal!(bad_magic_2: "a.nii", patched(Nifti::small().two().file(), 4, b"n+9\0"),
    "its magic is", Cause::BadMagic { .. });
refusal!(analyze: "a.hdr", patched(Nifti::small().pair().header(), 344, &[0; 4]),
    "Analyze 7.5", Cause::Analyze);
refusal!(analyze_big_endian: "a.nii", patched(Nifti::small().big().file(), 344, &[0; 4]),
    "Analyze 7.5", Cause::Analyze);
refusal!(text_mode: "a.nii", patched(Nifti::small().two().file(), 8, b"\n\x1a\n\0"),
    "text mode", Cause::MangledByTextMode);
refusal!(gzip_in_plain_name: "a.nii", gzip(&Nifti::small().file()),
    "rename it to end in .gz", Cause::GzipInPlainName);
refusal!(plain_in_gzip_name: "a.nii.gz", Nifti::small().file(),
    "rename it without .gz", Cause::PlainInGzipName);
refusal!(plain_2_in_gzip_name: "a.nii.gz", Nifti::small().two().big().file(),
    "not compressed", Cause::PlainInGzipName);
refusal!(cut_header: "a.nii", Nifti::small().file()[..200],
    "ends after 200 bytes, inside its header of 348", Cause::HeaderTruncated { .. });
refusal!(cut_header_2: "a.nii.gz", gzip(&Nifti::small().two().file()[..400]),
    "ends after 400 bytes, inside its header of 540", Cause::HeaderTruncated { .. });
refusal!(cifti: "a.dconn.nii", Nifti { intent_code: 3001, ..Nifti::small().two() }.file(),
    "CIFTI", Cause::Cifti);
refusal!(complex: "a.nii", Nifti { datatype: 32, bitpix: 64, ..Nifti::small() }.file(),
    "complex64 voxels (datatype 32)", Cause::UnsupportedDatatype { .. });
refusal!(rgb: "a.nii", Nifti { datatype: 128, bitpix: 24, ..Nifti::small() }.file(),
    "rgb24 voxels (datatype 128)", Cause::UnsupportedDatatype { .. });
refusal!(float128: "a.nii", Nifti { datatype: 1536, bitpix: 128, ..Nifti::small().two() }.file(),
    "float128 voxels", Cause::UnsupportedDatatype { .. });
refusal!(unknown_type: "a.nii", Nifti { datatype: 3, ..Nifti::small() }.file(),
    "unknown voxels (datatype 3)", Cause::UnsupportedDatatype { .. });
refusal!(no_dimensions: "a.nii", Nifti { shape: vec![], ..Nifti::small() }.file(),
    "says 0 dimensions", Cause::BadDimensionCount { ndim: 0 });
refusal!(many_dimensions: "a.nii", patched(Nifti::small().file(), 40, &[8, 0]),
    "says 8 dimensions", Cause::BadDimensionCount { ndim: 8 });
refusal!(many_dimensions_2: "a.nii", patched(Nifti::small().two().file(), 16, &[9]),
    "says 9 dimensions", Cause::BadDimensionCount { ndim: 9 });
refusal!(negative_length: "a.nii", Nifti { shape: vec![4, 3, -2], ..Nifti::small() }.file(),
    "axis 3 is -2 voxels long", Cause::BadDimension { .. });
refusal!(length_over_32767: "a.nii", Nifti { shape: vec![40_000], ..Nifti::small() }.file(),
    "axis 1 is -25536 voxels long", Cause::BadDimension { .. });
refusal!(fractional_offset: "a.nii", Nifti { vox_offset: 352.5, ..Nifti::small() }.file(),
    "start at byte 352.5", Cause::BadVoxOffset { .. });
refusal!(negative_offset: "a.nii", patched(Nifti::small().file(), 108, &(-16_f32).to_le_bytes()),
    "start at byte -16", Cause::BadVoxOffset { .. });
refusal!(huge_offset: "a.nii", patched(Nifti::small().file(), 108, &1e30_f32.to_le_bytes()),
    "which no file has", Cause::BadVoxOffset { .. });
refusal!(nan_offset: "a.nii", patched(Nifti::small().file(), 108, &f32::NAN.to_le_bytes()),
    "start at byte NaN", Cause::BadVoxOffset { .. });
refusal!(offset_in_header: "a.nii", Nifti { vox_offset: 348.0, ..Nifti::small() }.file(),
    "start at byte 348 (vox_offset), inside the header, which needs 352", Cause::OffsetInHeader { .. });
refusal!(offset_in_header_2: "a.nii.gz", gzip(&Nifti { vox_offset: 543.0, ..Nifti::small().two() }.file()),
    "start at byte 543 (vox_offset), inside the header, which needs 544", Cause::OffsetInHeader { .. });
refusal!(surface_ico7: "a.nii.gz", gzip(&Nifti::of(Datatype::Float32, &[27307, 1, 6]).file()),
    "FreeSurfer surface overlay (163842 vertices", Cause::SurfaceOverlay { .. });
refusal!(surface_ico7_of_frames: "a.nii", Nifti::of(Datatype::Uint8, &[27307, 1, 6, 2]).big().file(),
    "mri_surf2surf", Cause::SurfaceOverlay { .. });
refusal!(surface_ico5: "a.nii", Nifti::of(Datatype::Int16, &[1707, 1, 6]).two().file(),
    "FreeSurfer surface overlay (10242 vertices", Cause::SurfaceOverlay { .. });
refusal!(surface_of_a_subject: "a.nii", Nifti::of(Datatype::Uint8, &[18_347, 1, 7]).file(),
    "FreeSurfer surface overlay (128429 vertices", Cause::SurfaceOverlay { .. });
refusal!(surface_by_glmin: "a.nii", with_glmin(Nifti::small()),
    "FreeSurfer surface overlay (40000 vertices", Cause::SurfaceOverlay { .. });
refusal!(surface_by_glmin_big_endian: "a.nii", with_glmin(Nifti::small().big()),
    "FreeSurfer surface overlay (40000 vertices", Cause::SurfaceOverlay { .. });
refusal!(nonfinite_intercept: "a.nii", Nifti { slope: 2.0, ..Nifti::small() }.file(),
    "valid slope of 2 but an intercept of NaN", Cause::NonFiniteIntercept { .. });
refusal!(cut_voxels: "a.nii", Nifti::small().file()[..370],
    "declares 376 bytes but it holds 370", Cause::VoxelsTruncated { .. });
refusal!(absurd_size: "a.nii", Nifti { shape: vec![30_000; 3], ..Nifti::small() }.file(),
    "declares 27000000000352 bytes but it holds 376", Cause::VoxelsTruncated { .. });
refusal!(absurd_gzip: "a.nii.gz", gzip(&Nifti { shape: vec![30_000; 3], ..Nifti::small() }.file()),
    "more than a gzip file of", Cause::ImpossibleSize { .. });
refusal!(overflowing_size: "a.nii.gz",
    gzip(&Nifti { shape: vec![i64::MAX; 7], ..Nifti::small().two() }.file()),
    "more than a gzip file of", Cause::ImpossibleSize { .. });
refusal!(gzip_ends_in_header: "a.nii.gz", gzip(&Nifti::small().file())[..40],
    "ends early, after", Cause::GzipTruncated { .. });
refusal!(gzip_of_one_byte: "a.nii.gz", [0x1f], "ends early", Cause::GzipTruncated { .. });
refusal!(gzip_method: "a.nii.gz", patched(gzip(&Nifti::small().file()), 2, &[7]),
    "unknown method or flag", Cause::GzipHeaderDamaged);
refusal!(gzip_flags: "a.nii.gz", patched(gzip(&Nifti::small().file()), 3, &[0x20]),
    "unknown method or flag", Cause::GzipHeaderDamaged);
refusal!(gzip_damaged: "a.nii.gz", patched(gzip(&Nifti::small().file()), 10, &[7]),
    "is damaged after 0 bytes", Cause::GzipDamaged { .. });

/// A file so large that a probe does not reach its end.
fn large() -> Vec<u8> {
    let mut nifti = Nifti::of(Datatype::Int16, &[60, 50, 40]);
    noise(&mut nifti.voxels);
    nifti.file()
}

#[test]
fn trailers_cut_wrong_or_followed_by_garbage() {
    let whole = gzip(&large());
    let end = whole.len();
    for missing in 1..=8 {
        let cause = refuse(
            "a.nii.gz",
            &whole[..end - missing],
            &format!("its last {missing} bytes are missing"),
            false,
        );
        assert!(matches!(cause, Cause::GzipTrailerCut { .. }));
    }
    let cause = refuse(
        "a.nii.gz",
        &patched(whole.clone(), end - 8, &[!whole[end - 8]]),
        "where gzip recorded",
        false,
    );
    assert!(matches!(cause, Cause::CrcMismatch { .. }));
    let cause = refuse(
        "a.nii.gz",
        &patched(whole.clone(), end - 4, &[!whole[end - 4]]),
        "240352 bytes long",
        false,
    );
    assert!(matches!(cause, Cause::LengthMismatch { .. }));
    for garbage in [&b"garbage"[..], b"\0\0x", &[0x1f], &[0x1f, 0x8c]] {
        let cause = refuse(
            "a.nii.gz",
            &[&whole, garbage].concat(),
            "not gzip follow its gzip stream",
            false,
        );
        assert!(matches!(cause, Cause::TrailingGarbage));
    }
    // A truncated second member is a truncated file.
    let cause = refuse(
        "a.nii.gz",
        &[&whole[..], &[0x1f, 0x8b, 8]].concat(),
        "ends early",
        false,
    );
    assert!(matches!(cause, Cause::GzipTruncated { .. }));
}

#[test]
fn gzip_cut_anywhere() {
    let whole = gzip(&large());
    for cut in [5000, whole.len() / 2, whole.len() - 9] {
        let cause = refuse("a.nii.gz", &whole[..cut], "ends early, after", false);
        assert!(matches!(cause, Cause::GzipTruncated { .. }));
    }
    // A small file is refused wherever it is cut.
    let mut bench = Bench::new();
    let whole = gzip(&Nifti::small().file());
    for cut in 0..whole.len() {
        let path = bench.put("a.nii.gz", &whole[..cut]);
        assert!(bench.read_path(&path).is_err(), "{cut}");
    }
}

#[test]
fn a_complete_gzip_stream_with_too_few_voxels() {
    let file = large();
    let cause = refuse(
        "a.nii.gz",
        &gzip(&file[..file.len() - 2]),
        "declares 240352 bytes but it holds 240350",
        false,
    );
    assert!(matches!(cause, Cause::VoxelsTruncated { .. }));
}

#[test]
fn paths_that_are_not_files() {
    let mut bench = Bench::new();
    let path = bench.path("none.nii.gz");
    assert!(matches!(
        refused(&mut bench, &path, "there is no such file", true),
        Cause::NotFound
    ));
    let path = bench.path("none/none.nii.gz");
    assert!(matches!(
        refused(&mut bench, &path, "there is no such file", true),
        Cause::NotFound
    ));
    let path = bench.path("none.img");
    assert!(matches!(
        refused(&mut bench, &path, "there is no such file", true),
        Cause::NotFound
    ));
    for name in ["folder", "folder.nii", "folder.nii.gz"] {
        let path = bench.path(name);
        fs::create_dir(&path).unwrap();
        assert!(matches!(
            refused(&mut bench, &path, "is a folder", true),
            Cause::IsDirectory
        ));
    }
    let path = bench.put("image.mgz", b"");
    assert!(matches!(
        refused(&mut bench, &path, "names end in .nii", true),
        Cause::UnknownSuffix
    ));
}

#[cfg(unix)]
#[test]
fn pipes_do_not_block_a_run() {
    let mut bench = Bench::new();
    let pipe = |path: &Path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    };
    let path = bench.path("pipe.nii");
    pipe(&path);
    assert!(matches!(
        refused(&mut bench, &path, "regular file", true),
        Cause::NotRegular
    ));
    // Either file of a compressed pair, also when a result is compared with its record.
    let voxels = bench.put("pair.img.gz", &gzip(&Nifti::small().voxels));
    let path = bench.path("pair.hdr.gz");
    pipe(&path);
    refused(&mut bench, &path, "regular file", true);
    let mut record = identify(&voxels).unwrap()[1].clone();
    record.bytes += fs::metadata(&path).unwrap().len();
    assert!(!pair_seems_intact(&voxels, &record));
    record.path = path;
    assert!(!seems_intact(&record));
}

#[cfg(unix)]
#[test]
fn no_permission() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new();
    let path = bench.put("a.nii", &Nifti::small().file());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        return; // root reads everything
    }
    assert!(matches!(
        refused(&mut bench, &path, "no permission to read", true),
        Cause::PermissionDenied
    ));
}

#[test]
fn half_pairs() {
    let mut bench = Bench::new();
    let nifti = Nifti::small().pair();
    let header = bench.put("a.hdr", &nifti.header());
    let cause = refused(&mut bench, &header, "a.img is missing", true);
    assert!(matches!(cause, Cause::PartnerMissing { .. }));
    let voxels = bench.put("b.img", &nifti.voxels);
    refused(&mut bench, &voxels, "b.hdr is missing", true);
    // The message names the file that has the fault.
    let voxels = bench.put("a.img", &nifti.voxels[1..]);
    assert_eq!(bench.read_path(&header).unwrap_err().path, voxels);
    let voxels = bench.put("a.img", &nifti.voxels);
    bench.put("a.hdr", b"text");
    assert_eq!(bench.read_path(&voxels).unwrap_err().path, header);
}

/// Every offset inside the header, in either version, is refused because it would shift the voxels.
#[test]
fn offsets_inside_the_header() {
    let mut bench = Bench::new();
    for (base, least) in [(Nifti::small(), 352), (Nifti::small().two(), 544)] {
        for offset in 1..least {
            let nifti = Nifti {
                vox_offset: f64::from(offset),
                ..base.clone()
            };
            for bytes in [nifti.file(), nifti.clone().big().file()] {
                let error = bench.read("a.nii", &bytes).unwrap_err();
                assert!(matches!(error.cause, Cause::OffsetInHeader { .. }), "{error}");
                assert!(probe(&bench.path("a.nii")).is_err());
            }
        }
    }
}

/// A pair as MRtrix3 writes it: the header has the offset of a single file, but the .img has no offset.
#[test]
fn a_pair_whose_offset_is_not_in_its_voxels() {
    let mut bench = Bench::new();
    let nifti = Nifti {
        vox_offset: 352.0,
        ..Nifti::small().pair()
    };
    let text = "start at byte 352 (vox_offset), but the .img has only 24 bytes";
    bench.put("a.hdr", &nifti.header());
    bench.put("a.img", &nifti.voxels);
    let path = bench.path("a.hdr");
    let cause = refused(&mut bench, &path, text, true);
    assert!(matches!(cause, Cause::OffsetInPair { .. }));
    bench.put("b.hdr.gz", &gzip(&nifti.header()));
    bench.put("b.img.gz", &gzip(&nifti.voxels));
    let path = bench.path("b.img.gz");
    let cause = refused(&mut bench, &path, text, false);
    assert!(matches!(cause, Cause::OffsetInPair { .. }));
    // A file with one byte less is truncated.
    bench.put("a.img", &nifti.voxels[1..]);
    let path = bench.path("a.hdr");
    refused(&mut bench, &path, "declares 376 bytes but it holds 23", true);
}

#[test]
fn cifti_by_its_extension() {
    let nifti = Nifti {
        extensions: vec![(32, vec![b' '; 24])],
        vox_offset: 576.0,
        ..Nifti::small().two()
    };
    assert!(matches!(
        refuse("a.nii", &nifti.file(), "CIFTI", false),
        Cause::Cifti
    ));
}

#[test]
fn extensions_that_are_too_large() {
    let offset = 65_u64 << 20;
    let nifti = Nifti {
        extensions: vec![(6, vec![0; 8])],
        vox_offset: offset as f64,
        ..Nifti::small()
    };
    let cause = refuse("a.nii.gz", &gzip(&nifti.file()), "header extensions take", false);
    assert!(matches!(cause, Cause::ExtensionsTooLarge { .. }));
}

#[test]
fn a_memory_limit() {
    let mut bench = Bench::new();
    let path = bench.put("a.nii", &large());
    bench.reader = ImageReader::new().memory_limit(239_999);
    let cause = refused(
        &mut bench,
        &path,
        "needs 240000 bytes of memory, more than the limit of 239999",
        false,
    );
    assert!(matches!(cause, Cause::OverMemoryLimit { .. }));
    bench.reader = ImageReader::new().memory_limit(240_000);
    bench.read_path(&path).unwrap();
}
