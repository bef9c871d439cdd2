//! Tests of reading: voxels, shape, scaling and voxel size from every kind of file.

use niimpi::image_io::{Version, Warning, probe};
use niimpi::volume::{Datatype, Scaling};

use crate::fixture::{Bench, Nifti, gzip};

#[test]
fn every_datatype_version_and_byte_order() {
    let mut bench = Bench::new();
    for datatype in Datatype::ALL {
        for two in [false, true] {
            let mut little = Nifti::of(datatype, &[5, 4, 3]);
            if two {
                little = little.two();
            }
            let big = little.clone().big();
            for (nifti, name) in [
                (&little, "a.nii"),
                (&little, "a.nii.gz"),
                (&big, "b.nii"),
                (&big, "b.nii.gz"),
            ] {
                bench.read(name, &nifti.file()).unwrap();
                let volume = &bench.image.volume;
                assert_eq!(volume.datatype, datatype);
                assert_eq!(volume.shape, [5, 4, 3]);
                assert_eq!(volume.voxel_size_mm, [2.0, 2.5, 3.0]);
                assert_eq!(volume.scaling, None);
                assert!(
                    volume.voxels.as_bytes() == little.voxels,
                    "{datatype} {name} two: {two}"
                );
                assert_eq!(bench.image.header.is_big_endian(), nifti.big);
                let version = if two { Version::Nifti2 } else { Version::Nifti1 };
                assert_eq!(bench.image.header.version(), version);
                assert_eq!(bench.image.header.description(), "a description");

                let probe = probe(&bench.path(name)).unwrap();
                assert_eq!(
                    (probe.datatype, probe.version, probe.scaled),
                    (datatype, version, false)
                );
                assert_eq!(probe.shape, [5, 4, 3]);
                assert_eq!(probe.voxel_size_mm, [2.0, 2.5, 3.0]);
                assert_eq!(probe.raw_bytes, nifti.file().len() as u64);
                assert_eq!(
                    probe.file_bytes,
                    std::fs::metadata(bench.path(name)).unwrap().len()
                );
            }
        }
    }
}

#[test]
fn one_to_seven_dimensions() {
    let mut bench = Bench::new();
    let lengths = [5, 4, 3, 2, 2, 1, 3];
    for ndim in 1..=7 {
        let nifti = Nifti::of(Datatype::Int16, &lengths[..ndim]);
        bench.read("a.nii.gz", &nifti.file()).unwrap();
        assert_eq!(bench.image.volume.shape.len(), ndim);
        assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
        bench.read("a.nii", &nifti.clone().two().file()).unwrap();
        assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
    }
}

#[test]
fn pairs_compressed_or_not_from_either_half() {
    let mut bench = Bench::new();
    for two in [false, true] {
        let nifti = Nifti::of(Datatype::Float32, &[3, 3, 3]).pair();
        let nifti = if two { Nifti { two, ..nifti } } else { nifti };
        for (header, voxels) in [
            ("p.hdr", "p.img"),
            ("q.hdr.gz", "q.img.gz"),
            ("r.hdr", "r.img.gz"),
            ("S.HDR", "S.IMG"),
        ] {
            for (name, bytes) in [(header, nifti.header()), (voxels, nifti.voxels.clone())] {
                bench.put(
                    name,
                    &if name.ends_with(".gz") {
                        gzip(&bytes)
                    } else {
                        bytes
                    },
                );
            }
            for half in [header, voxels] {
                let path = bench.path(half);
                let summary = bench.read_path(&path).unwrap();
                assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels, "{half}");
                let sizes = [header, voxels].map(|name| std::fs::metadata(bench.path(name)).unwrap().len());
                assert_eq!(summary.bytes_in, sizes[0] + sizes[1]);
                let probe = probe(&path).unwrap();
                assert_eq!(probe.file_bytes, sizes[0] + sizes[1]);
                assert_eq!(probe.raw_bytes, nifti.voxels.len() as u64);
            }
        }
    }
}

#[test]
fn offsets_of_pairs_and_of_single_files() {
    let mut bench = Bench::new();
    let pair = Nifti {
        vox_offset: 16.0,
        ..Nifti::small().pair()
    };
    bench.put("p.hdr", &pair.header());
    bench.put("p.img", &[&[9; 16], &pair.voxels[..]].concat());
    bench.read_path(&bench.path("p.img")).unwrap();
    assert_eq!(bench.image.volume.voxels.as_bytes(), pair.voxels);

    // 0 in a single file means right after the header.
    for (nifti, used) in [(Nifti::small(), 352), (Nifti::small().two(), 544)] {
        for name in ["a.nii", "a.nii.gz"] {
            let nifti = Nifti {
                vox_offset: 0.0,
                ..nifti.clone()
            };
            bench.read(name, &nifti.file()).unwrap();
            assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
            assert_eq!(bench.image.header.warnings(), [Warning::ZeroOffset { used }]);
        }
    }
    // A larger offset leaves a gap without extensions.
    for name in ["a.nii", "a.nii.gz"] {
        let nifti = Nifti {
            vox_offset: 400.0,
            ..Nifti::small()
        };
        bench.read(name, &nifti.file()).unwrap();
        assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
        assert!(bench.image.header.extensions().is_empty());
    }
}

#[test]
fn slopes_and_intercepts_as_nibabel_takes_them() {
    let mut bench = Bench::new();
    let float = f64::from(0.1_f32);
    let cases = [
        (0.0, 5.0, None),
        (0.0, f64::NAN, None),
        (f64::NAN, 1.0, None),
        (f64::INFINITY, 1.0, None),
        (1.0, 0.0, None),
        (1.0, 3.0, Some((1.0, 3.0))),
        (2.0, 0.0, Some((2.0, 0.0))),
        (-1.0, 0.0, Some((-1.0, 0.0))),
        (0.1, 0.0, Some((float, 0.0))),
    ];
    for (slope, inter, expected) in cases {
        let nifti = Nifti {
            slope,
            inter,
            ..Nifti::small()
        };
        bench.read("a.nii", &nifti.file()).unwrap();
        let expected = expected.map(|(slope, intercept)| Scaling { slope, intercept });
        assert_eq!(bench.image.volume.scaling, expected, "{slope} {inter}");
        assert_eq!(probe(&bench.path("a.nii")).unwrap().scaled, expected.is_some());
    }
    // NIfTI-2 holds doubles.
    let nifti = Nifti {
        slope: 0.1,
        inter: 0.2,
        ..Nifti::small().two()
    };
    bench.read("a.nii", &nifti.file()).unwrap();
    assert_eq!(
        bench.image.volume.scaling,
        Some(Scaling {
            slope: 0.1,
            intercept: 0.2
        })
    );
}

#[allow(clippy::too_many_lines, reason = "one table of cases")]
#[test]
fn voxel_sizes_units_and_the_affine() {
    let mut bench = Bench::new();
    let mut size = |nifti: &Nifti| {
        bench.read("a.nii", &nifti.file()).unwrap();
        (
            bench.image.volume.voxel_size_mm,
            bench.image.header.voxel_size_disagreement(),
        )
    };
    let plain = Nifti {
        sform_code: 0,
        ..Nifti::small()
    };
    assert_eq!(size(&plain), ([2.0, 2.5, 3.0], None));
    // metre and micron
    let pixdim = [1.0, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(
        size(&Nifti {
            units: 1,
            pixdim,
            ..plain.clone()
        })
        .0,
        [250.0, 500.0, 1000.0]
    );
    assert_eq!(
        size(&Nifti {
            units: 3,
            pixdim,
            ..plain.clone()
        })
        .0,
        [0.25e-3, 0.5e-3, 1e-3]
    );
    assert_eq!(
        size(&Nifti {
            units: 0,
            pixdim,
            ..plain.clone()
        })
        .0,
        [0.25, 0.5, 1.0]
    );
    // As in nibabel, the sign of a length is ignored, and 0 and NaN become 1.
    let pixdim = [1.0, -2.0, 0.0, f64::NAN, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(
        size(&Nifti {
            pixdim,
            ..plain.clone()
        })
        .0,
        [2.0, 1.0, 1.0]
    );
    // An sform that agrees within single precision, one that does not, and an unusable one.
    let close = [
        [-2.0000002, 0.0, 0.0, 0.0],
        [0.0, 2.5, 0.0, 0.0],
        [0.0, 0.0, 3.0, 0.0],
    ];
    assert_eq!(
        size(&Nifti {
            srow: close,
            ..Nifti::small()
        }),
        ([2.0, 2.5, 3.0], None)
    );
    let oblique = [[1.5, 0.0, 0.0, 0.0], [2.0, 0.0, 4.0, 0.0], [0.0, 2.5, 0.0, 0.0]];
    let (found, disagreement) = size(&Nifti {
        srow: oblique,
        ..Nifti::small()
    });
    assert_eq!(found, [2.5, 2.5, 4.0]);
    let disagreement = disagreement.unwrap();
    assert_eq!(
        (disagreement.pixdim_mm, disagreement.affine_mm),
        ([2.0, 2.5, 3.0], [2.5, 2.5, 4.0])
    );
    assert_eq!(
        size(&Nifti {
            srow: [[0.0; 4]; 3],
            ..Nifti::small()
        }),
        ([2.0, 2.5, 3.0], None)
    );
    // The third column of a 2-D image does not count.
    let flat = Nifti {
        shape: vec![4, 6],
        srow: oblique,
        ..Nifti::small()
    };
    let flat = Nifti {
        srow: [[2.0, 0.0, 0.0, 0.0], [0.0, 2.5, 0.0, 0.0], [0.0; 4]],
        ..flat
    };
    assert_eq!(size(&flat), ([2.0, 2.5, 3.0], None));
}

#[test]
fn extensions_are_kept_or_dropped() {
    let mut bench = Bench::new();
    let content = (0..40).collect::<Vec<u8>>();
    let expected = [&48_u32.to_le_bytes()[..], &6_u32.to_le_bytes(), &content].concat();
    let base = Nifti {
        extensions: vec![(6, content.clone())],
        vox_offset: 400.0,
        ..Nifti::small()
    };
    for nifti in [base.clone(), base.clone().big()] {
        for name in ["a.nii", "a.nii.gz"] {
            bench.read(name, &nifti.file()).unwrap();
            assert_eq!(bench.image.header.extensions(), expected);
            assert!(
                !bench
                    .image
                    .header
                    .warnings()
                    .contains(&Warning::ExtensionsDropped)
            );
            assert_eq!(bench.image.volume.voxels.as_bytes(), base.voxels);
        }
    }
    // Padding between the last extension and the voxels is not part of it.
    bench
        .read(
            "a.nii",
            &Nifti {
                vox_offset: 432.0,
                ..base.clone()
            }
            .file(),
        )
        .unwrap();
    assert_eq!(bench.image.header.extensions(), expected);
    // Sizes that reach into the voxels, or that are invalid.
    for esize in [64, 0x7fff_ffff, 0xffff_fff0, 7, 4] {
        for name in ["a.nii", "a.nii.gz"] {
            bench
                .read(
                    name,
                    &Nifti {
                        claimed_esize: Some(esize),
                        ..base.clone()
                    }
                    .file(),
                )
                .unwrap();
            assert!(bench.image.header.extensions().is_empty(), "{esize}");
            assert!(
                bench
                    .image
                    .header
                    .warnings()
                    .contains(&Warning::ExtensionsDropped)
            );
            assert_eq!(bench.image.volume.voxels.as_bytes(), base.voxels);
        }
    }
    // In a pair, extensions are in the header's file.
    let pair = Nifti {
        vox_offset: 0.0,
        single: false,
        ..base
    };
    bench.put("p.hdr", &pair.header());
    bench.put("p.img", &pair.voxels);
    bench.read_path(&bench.path("p.hdr")).unwrap();
    assert_eq!(bench.image.header.extensions(), expected);
    // The flag does not carry over to the next image.
    bench.read("a.nii", &Nifti::small().file()).unwrap();
    assert!(
        bench.image.header.extensions().is_empty()
            && !bench
                .image
                .header
                .warnings()
                .contains(&Warning::ExtensionsDropped)
    );
}

#[test]
fn members_padding_and_surplus() {
    let mut bench = Bench::new();
    let nifti = Nifti::of(Datatype::Int16, &[50, 40, 30]);
    let file = nifti.file();
    for cuts in [
        vec![1],
        vec![100, 352],
        vec![348, 349, 5000, 5001, 90_000],
        (1..200).map(|cut| cut * 601).collect(),
    ] {
        let mut bytes = Vec::new();
        let mut start = 0;
        for cut in cuts.into_iter().chain([file.len()]) {
            bytes.extend(gzip(&file[start..cut]));
            start = cut;
        }
        bytes.extend(gzip(b""));
        for padding in [0, 1, 7, 8, 9, 512, 3 << 20] {
            bytes.resize(bytes.len() + padding, 0);
            let path = bench.put("m.nii.gz", &bytes);
            let summary = bench.read_path(&path).unwrap();
            assert_eq!(summary.bytes_in, bytes.len() as u64);
            assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
        }
        // Zeros may also lie between members.
        let path = bench.put("m.nii.gz", &[&bytes[..], &gzip(b"more")].concat());
        bench.read_path(&path).unwrap();
    }
    // What follows the voxels is ignored, but checked when it is compressed.
    let longer = [&file[..], &[1; 100_000]].concat();
    bench.read("a.nii", &longer).unwrap();
    bench.read("a.nii.gz", &longer).unwrap();
    assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
    let mut damaged = gzip(&longer);
    let end = damaged.len();
    damaged[end - 8] ^= 1;
    let path = bench.put("a.nii.gz", &damaged);
    assert!(
        bench
            .read_path(&path)
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );
}

#[test]
fn gzip_headers_with_every_optional_field() {
    let mut bench = Bench::new();
    let nifti = Nifti::small();
    let plain = gzip(&nifti.file());
    let mut bytes = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 0, 3];
    bytes.extend(300_u16.to_le_bytes());
    bytes.extend([7; 300]);
    bytes.extend(b"a name\0a comment\0");
    bytes.extend([0xaa, 0xbb]);
    bytes.extend(&plain[10..]);
    let path = bench.put("a.nii.gz", &bytes);
    bench.read_path(&path).unwrap();
    assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
}

/// As in nibabel, the magic identifies a header, and dim\[0\] its byte order.
#[test]
fn a_wrong_header_size_with_the_right_magic() {
    let mut bench = Bench::new();
    for nifti in [Nifti::small(), Nifti::of(Datatype::Int32, &[3, 3]).big()] {
        let mut bytes = nifti.file();
        bytes[0..4].copy_from_slice(&[1, 2, 3, 4]);
        bench.read("a.nii", &bytes).unwrap();
        assert_eq!(bench.image.header.is_big_endian(), nifti.big);
        assert_eq!(kinds(&bench), ["header_size"]);
        assert_eq!(probe(&bench.path("a.nii")).unwrap().warnings.len(), 1);
    }
    // The header size of NIfTI-2 alone does not make it a NIfTI-2 header.
    let mut bytes = Nifti::small().file();
    bytes[0..4].copy_from_slice(&540_i32.to_le_bytes());
    bench.read("a.nii.gz", &bytes).unwrap();
    assert_eq!(bench.image.header.version(), Version::Nifti1);
    let warnings = bench.image.header.warnings();
    assert_eq!(
        warnings[0].to_string(),
        "sizeof_hdr is 540 in its header, where NIfTI has 348; ignored"
    );
}

fn kinds(bench: &Bench) -> Vec<&'static str> {
    let warnings = bench.image.header.warnings();
    warnings.iter().map(Warning::kind).collect()
}

/// As in nibabel, the datatype overrides bitpix. The output's bitpix is right.
#[test]
fn a_bitpix_that_contradicts_the_datatype() {
    let mut bench = Bench::new();
    for base in [Nifti::of(Datatype::Int16, &[4, 3, 2]), Nifti::small().two()] {
        for bitpix in [0, -1, 1, 24, 32, 64] {
            let nifti = Nifti {
                bitpix,
                ..base.clone()
            };
            bench.read("a.nii", &nifti.file()).unwrap();
            assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
            assert_eq!(kinds(&bench), ["bitpix"]);
            let output = bench.path("b.nii");
            bench.writer.write(&output, &bench.image).unwrap();
            bench.read_path(&output).unwrap();
            assert_eq!(kinds(&bench), [""; 0]);
        }
    }
}

#[test]
fn an_axis_of_length_0_has_one_voxel() {
    let mut bench = Bench::new();
    for (shape, axes, read) in [
        (vec![4, 3, 2, 0], vec![4], vec![4, 3, 2, 1]),
        (vec![4, 0, 2, 0], vec![2, 4], vec![4, 1, 2, 1]),
    ] {
        for two in [false, true] {
            let nifti = Nifti {
                shape: shape.clone(),
                ..Nifti::small()
            };
            let mut nifti = if two { nifti.two() } else { nifti };
            nifti.voxels.truncate(read.iter().product());
            bench.read("a.nii", &nifti.file()).unwrap();
            assert_eq!(bench.image.volume.shape, read);
            assert_eq!(bench.image.volume.voxels.as_bytes(), nifti.voxels);
            let expected: Vec<_> = axes.iter().map(|&axis| Warning::ZeroAxis { axis }).collect();
            assert_eq!(bench.image.header.warnings(), expected);
            // The output has 1.
            let output = bench.path("b.nii.gz");
            bench.writer.write(&output, &bench.image).unwrap();
            bench.read_path(&output).unwrap();
            assert_eq!(bench.image.volume.shape, read);
            assert!(bench.image.header.warnings().is_empty());
        }
    }
}

#[test]
fn data_that_the_header_does_not_declare_are_reported() {
    let mut bench = Bench::new();
    let nifti = Nifti::of(Datatype::Int16, &[4, 3, 2, 5]);
    let called_one = Nifti {
        shape: vec![4, 3, 2],
        ..nifti.clone()
    };
    let surplus = [Warning::SurplusData {
        bytes: 4 * 48,
        volumes: 4,
    }];
    for name in ["a.nii", "a.nii.gz"] {
        bench.read(name, &called_one.file()).unwrap();
        assert_eq!(bench.image.header.warnings(), surplus);
        assert_eq!(bench.image.volume.voxels.as_bytes(), &nifti.voxels[..48]);
        bench.read(name, &nifti.file()).unwrap();
        assert!(bench.image.header.warnings().is_empty());
    }
    let pair = called_one.pair();
    bench.put("p.hdr", &pair.header());
    bench.put("p.img", &pair.voxels);
    bench.read_path(&bench.path("p.hdr")).unwrap();
    assert_eq!(bench.image.header.warnings(), surplus);
    assert_eq!(probe(&bench.path("p.img")).unwrap().warnings, surplus);
}

#[test]
fn a_line_of_voxels_is_suspicious() {
    let mut bench = Bench::new();
    for (shape, suspicious) in [
        (vec![40, 1, 1], true),
        (vec![1, 40, 1], true),
        (vec![1, 1, 40], true),
        (vec![1, 1, 40, 3], true),
        (vec![40], true),
        (vec![40, 1, 2], false),
        (vec![40, 2], false),
        (vec![1, 1, 1, 40], false),
        (vec![1], false),
    ] {
        let nifti = Nifti::of(Datatype::Uint8, &shape);
        bench.read("a.nii", &nifti.file()).unwrap();
        let expected: &[&str] = if suspicious { &["one_line"] } else { &[] };
        assert_eq!(kinds(&bench), expected, "{shape:?}");
    }
}
