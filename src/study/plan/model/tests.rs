//! Tests of the model on machines whose costs are known.

use super::super::measured::Source;
use super::super::measured::tests::{Machine, SIZES, gathered, sample};
use super::*;
use crate::volume::Datatype;

fn features(voxels: u64) -> ImageFeatures {
    sample(voxels).features
}

fn fitted(sources: &[Source]) -> Model {
    Model::fit(&gathered(sources).unwrap()).unwrap()
}

#[test]
fn costs_and_contention_are_recovered_exactly_without_noise() {
    let machine = Machine {
        contention: 0.2,
        ..Machine::exact()
    };
    let model = fitted(&machine.pilot(&SIZES, 1));
    for (workers, contention) in [(1.0, 1.0), (3.0, 1.4)] {
        for voxels in [300_000, 1_000_000, 3_000_000] {
            let found = model.stages_s(&features(voxels)).unwrap();
            for (found, truth) in found[..PUBLISH].iter().zip(machine.stages_s(voxels)) {
                let found = found * model.slow_down(workers, workers) / (truth * contention);
                assert!((found - 1.0).abs() < 0.03, "{workers} {voxels}: {found}");
            }
        }
    }
    assert_eq!(model.ceiling(1.0), None);
    let other = ImageClass {
        datatype: Datatype::Float64,
        scaled: false,
    };
    assert!(model.knows(&features(1).class) && !model.knows(&other));
}

#[test]
fn the_last_worker_or_the_disk_determines_the_time() {
    let images_s = [8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0];
    let longest = |ranks, threads, strategy| busy_s(&images_s, ranks, threads, strategy).0;
    assert_eq!(longest(2, 1, Strategy::Block), 11.0);
    assert_eq!(longest(2, 1, Strategy::Cyclic), 11.0);
    assert_eq!(longest(2, 1, Strategy::Size), 8.0);
    assert_eq!(longest(2, 1, Strategy::Dynamic), 8.0);
    assert_eq!(longest(1, 4, Strategy::Size), 8.0, "an image is not divided");
    assert_eq!(busy_s(&images_s, 1, 1, Strategy::Size), (16.0, 16.0));
    assert_eq!(busy_s(&images_s, 16, 1, Strategy::Size), (8.0, 1.0));

    assert_eq!(held_s(&[1.0, 2.0, 3.0, 12.0], 40, 1.0), 6.0);
    assert_eq!(held_s(&[1.0, 2.0, 3.0, 48.0], 40, 1.0), 12.0);
    // Ten results take three rounds of four publishers; the last round has two.
    assert_eq!(held_s(&[1.0, 2.0, 3.0, 50.0], 40, 4.0), 15.0);
}

#[test]
fn extrapolation_widens_the_interval() {
    let machine = Machine::default();
    let model = fitted(&machine.pilot(&[900_000], 3));
    let width = |model: &Model, workers, all, voxels| {
        let (low, high) = model.interval(workers, all, &[features(voxels)], 0.3);
        high / low
    };
    let same = width(&model, 1.0, 1.0, 900_000);
    assert!(same < 1.3, "{same}");
    assert!(width(&model, 24.0, 24.0, 900_000) > 2.0 * same);
    assert!(width(&model, 1.0, 1.0, 9_000_000) > 2.0 * same);
    assert!(width(&model, 2.0, 16.0, 900_000) > 1.1 * width(&model, 2.0, 2.0, 900_000));
    // Five images in one run: there are no repeats.
    let thin = fitted(&[machine.source(5, 1, &[900_000], 4)]);
    let alone = width(&thin, 1.0, 1.0, 900_000);
    assert!(alone > 2.0 * same);
    assert!(width(&thin, 4.0, 4.0, 900_000) > alone);
}

#[test]
fn the_limit_of_a_shared_file_system_is_recovered() {
    let sources: Vec<Source> = [1_usize, 2, 4]
        .into_iter()
        .map(|nodes| {
            let slower = Machine {
                contention: 0.1 * (nodes * 2 - 2) as f64 / (nodes * 2 - 1) as f64,
                ..Machine::exact()
            };
            let mut source = slower.source(60, nodes * 2, &SIZES[..1], 1);
            source.report.launch.nodes = (1..=nodes).map(|node| format!("node{node}")).collect();
            source.report.launch.cpus = Some(8 * nodes);
            source
        })
        .collect();
    let model = fitted(&sources);
    let slower = model.slow_down(2.0, 8.0) / model.slow_down(2.0, 2.0);
    assert!((slower - 1.6).abs() < 0.05, "{slower}");
    let image_s: f64 = model.stages_s(&features(SIZES[0])).unwrap()[..PUBLISH]
        .iter()
        .sum();
    let truth_s: f64 = Machine::exact().stages_s(SIZES[0])[..PUBLISH].iter().sum();
    let ceiling = model.ceiling(image_s).unwrap();
    assert!((ceiling * 0.1 * truth_s - 1.0).abs() < 0.1, "{ceiling}");
    // Measurements on several nodes only do not show the speed of one node.
    let (low, high) = fitted(&sources[1..2]).interval(1.0, 1.0, &[features(SIZES[0])], 0.3);
    assert!(low > 0.0 && high.is_finite(), "{low} {high}");
}

#[test]
fn reports_of_nearly_equal_layouts_predict_one_worker() {
    let machine = Machine::exact();
    let mut slower = machine.source(80, 8, &SIZES, 2);
    for row in &mut slower.report.images {
        let timings = &mut row.outcome.timings;
        let stages = [&mut timings.read_s, &mut timings.filter_s, &mut timings.write_s];
        stages.into_iter().for_each(|seconds| *seconds *= 1.25);
        row.outcome.start_s *= 1.25;
    }
    // A line through the costs of 7 and 8 workers is below 0 for one worker.
    let model = fitted(&[machine.source(80, 7, &SIZES, 1), slower]);
    for workers in [1.0, 2.0, 7.0, 8.0, 64.0] {
        let slow_down = model.slow_down(workers, workers);
        let each = slow_down / workers;
        assert!(
            (0.05..2.0).contains(&slow_down.min(each)),
            "{workers}: {slow_down}"
        );
        let (low, high) = model.interval(workers, workers, &[features(1_000_000)], 0.2);
        assert!(
            low > 0.0 && low <= 1.0 && high >= 1.0 && high.is_finite(),
            "{workers}: {low} {high}"
        );
    }
    assert!(model.slow_down(1.0, 1.0) < model.slow_down(7.0, 7.0));
}
