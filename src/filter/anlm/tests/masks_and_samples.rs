//! Tests of masks and of shrunken images.

use super::super::super::tests::copy;
use super::*;

#[test]
fn a_mask_chooses_the_centres() {
    for (seed, shape) in [&[37, 9, 8][..], &[19, 6, 61], &[21, 14], &[10, 9, 5, 2]]
        .into_iter()
        .enumerate()
    {
        each_model(|noise_model| {
            let anlm = Anlm {
                noise_model,
                ..Anlm::default()
            };
            let volume = image(shape, seed as u64, 1.0);
            check_inside(&anlm, &volume, Some(&lumps(&volume)));
        });
    }
}

#[test]
fn outside_of_a_mask_stands_what_was_asked_for() {
    let source = image(&[20, 11, 10], 4, 1.0);
    let mask = lumps(&source);
    let run = |outside, output_type| {
        let mut volume = copy(&source);
        let shared = SharedOptions {
            outside,
            output: OutputSpec {
                output_type,
                ..OutputSpec::default()
            },
            ..SharedOptions::default()
        };
        let mut scratch = Scratch::default();
        apply_masked(&Anlm::default(), &shared, &mut volume, &mask, &mut scratch).map(|_| volume)
    };
    let computed = run(None, OutputType::Same).unwrap();
    let values = |volume: &Volume| volume.voxels.as_slice::<f32>().to_vec();
    let (computed, own) = (values(&computed), values(&source));
    assert!((0..own.len()).any(|i| mask.voxels()[i] == 0 && computed[i] != own[i] && computed[i] != 0.0));
    for outside in [Outside::Zero, Outside::Keep, Outside::Nan] {
        let found = values(&run(Some(outside), OutputType::Same).unwrap());
        for i in 0..own.len() {
            let expected = match (mask.voxels()[i], outside) {
                (1, _) => computed[i],
                (_, Outside::Zero) => 0.0,
                (_, Outside::Keep) => own[i],
                (_, Outside::Nan) => f32::NAN,
            };
            assert!(
                found[i] == expected || (found[i].is_nan() && expected.is_nan()),
                "{outside:?}"
            );
        }
    }
    let refused = run(Some(Outside::Nan), OutputType::As(Datatype::Int16)).map(drop);
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("--outside zero or keep")
    );
}

/// What is left of a volume in which the noise was found in every n-th voxel; NaN where rounding decides
/// whether there is any.
fn shrunk(anlm: &Anlm, volume: &Volume) -> Vec<f64> {
    let (shape, n) = (volume.spatial_shape(), anlm.shrink);
    let values = volume.voxels.as_slice::<f32>().to_vec();
    let image = Plain { shape, values };
    let lengths = shape.map(|len| (len / n).max(1));
    let rest: [usize; 3] = std::array::from_fn(|axis| shape[axis] - 1 - (lengths[axis] - 1) * n);
    let first = rest.map(|rest| rest.div_ceil(2));
    let mut samples = Plain {
        shape: lengths,
        values: Vec::new(),
    };
    let places = samples.places();
    samples.values = places
        .map(|place| {
            let at = std::array::from_fn(|axis| (first[axis] + place[axis] as usize * n) as isize);
            image.get(at).unwrap()
        })
        .collect();
    let spacing = volume.voxel_size_mm.map(|size| size * n as f64);
    let noise = noise(anlm, &samples, 3, spacing, None);
    let left = image.places().zip(&image.values).map(|(place, &value)| {
        let at: [f64; 3] =
            std::array::from_fn(|axis| (place[axis] as f64 - rest[axis] as f64 / 2.0) / n as f64);
        let to_edge = |axis: usize| (at[axis] + 0.5).min(lengths[axis] as f64 - 0.5 - at[axis]);
        let to_edge = to_edge(0).min(to_edge(1)).min(to_edge(2));
        if to_edge.abs() < 1e-4 {
            return f64::NAN;
        }
        let corners = cube([1; 3]).into_iter().map(|corner| {
            let low = at.map(f64::floor);
            let part = |axis: usize| at[axis] - low[axis];
            let weight = |axis: usize| match corner[axis] {
                0 => 1.0 - part(axis),
                1 => part(axis),
                _ => 0.0,
            };
            let place = std::array::from_fn(|axis| low[axis] as isize + corner[axis]);
            weight(0) * weight(1) * weight(2) * f64::from(noise.repeated(place))
        });
        f64::from(value) - if to_edge < 0.0 { 0.0 } else { corners.sum() }
    });
    left.collect()
}

#[test]
fn a_shrunken_image_has_the_noise_of_its_samples() {
    let shared = SharedOptions::default();
    for (shape, shrink) in [
        ([21, 14, 40], 2),
        ([19, 16, 61], 3),
        ([9, 8, 7], 4),
        ([5, 4, 3], 8),
    ] {
        each_model(|noise_model| {
            let anlm = Anlm {
                noise_model,
                shrink,
                ..Anlm::default()
            };
            let volume = image(&shape, 5, 1.0).with_voxel_size_mm([2.0, 1.0, 1.5]);
            let mut whole = copy(&volume);
            apply(&anlm, &shared, &mut whole, &mut Scratch::default()).unwrap();
            let whole = whole.voxels.as_slice::<f32>();
            for (found, expected) in whole.iter().zip(shrunk(&anlm, &volume)) {
                let apart = (f64::from(*found) - expected).abs();
                assert!(
                    apart < 1e-3 || expected.is_nan(),
                    "{found} {expected} {shape:?} {anlm:?}"
                );
            }
            for threads in [1, 2, 3] {
                let mut divided = copy(&volume);
                let division = Division {
                    slab_bytes: 1,
                    ..Division::among(threads, threads == 2)
                };
                let mut scratch = Scratch::default();
                apply_divided_inside(&anlm, &shared, &mut divided, None, &mut scratch, division);
                assert!(
                    bits(divided.voxels.as_slice()) == bits(whole),
                    "{shape:?} {threads}"
                );
            }
        });
    }
    let mut oblique = image(&[9, 8, 7], 5, 1.0);
    let mut grid = Grid::of_spacing([1.0; 3]);
    (grid.direction[0], grid.direction[1]) = ([0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]);
    oblique.grid = Some(grid);
    let anlm = Anlm {
        shrink: 2,
        ..Anlm::default()
    };
    let refused = apply(&anlm, &shared, &mut oblique, &mut Scratch::default());
    assert!(refused.unwrap_err().to_string().contains("not parallel"));
}
