//! Tests of the model on machines whose costs are known.

use super::super::measured::tests::{Machine, SIZES, gathered};
use super::super::measured::{ImageClass, Source};
use super::*;
use crate::volume::Datatype;

const UINT8: ImageClass = ImageClass {
    datatype: Datatype::Uint8,
    scaled: false,
};

fn features(voxels: u64) -> ImageFeatures {
    ImageFeatures {
        class: UINT8,
        voxels,
        file_bytes: voxels / 2,
        memory_bytes: voxels,
    }
}

fn fitted(sources: &[Source]) -> Model {
    Model::fit(&gathered(sources).unwrap()).unwrap()
}

fn at_work(per_node: f64, all: f64, cpus_per_node: f64) -> AtWork {
    AtWork {
        per_node,
        all,
        cpus_per_node,
    }
}

/// Makes the stages of every image of a rank longer, and starts its next ones later.
fn slow(source: &mut Source, factor: impl Fn(usize) -> f64, stages: [bool; 3]) {
    let mut later_s = vec![0.0; source.report.launch.ranks];
    for image in &mut source.report.images {
        let factor = factor(image.outcome.rank);
        let outcome = &mut image.outcome;
        outcome.start_s += later_s[outcome.rank];
        let before_s = outcome.timings.worker_s();
        let timings = &mut outcome.timings;
        let all = [&mut timings.read_s, &mut timings.filter_s, &mut timings.write_s];
        all.into_iter()
            .zip(stages)
            .filter(|(_, is_slow)| *is_slow)
            .for_each(|(stage, _)| *stage *= factor);
        later_s[outcome.rank] += outcome.timings.worker_s() - before_s;
    }
}

#[test]
fn costs_and_contention_are_recovered_exactly_without_noise() {
    let machine = Machine {
        contention: 0.2,
        ..Machine::exact()
    };
    let model = fitted(&machine.pilot(&SIZES, 1));
    for voxels in [300_000, 1_000_000, 3_000_000] {
        let found = model.stages_s(&features(voxels)).unwrap();
        for (found, truth) in found.iter().zip(machine.stages_s(voxels)) {
            assert!((found / truth - 1.0).abs() < 1e-3, "{voxels}: {found} {truth}");
        }
    }
    for factor in model.slow_down(&at_work(3.0, 3.0, 8.0)).0 {
        assert!((factor - 1.4).abs() < 1e-2, "{factor}");
    }
    // Six workers on two CPUs share them, and two at a time slow each other down.
    assert!((model.slow_down(&at_work(6.0, 6.0, 2.0)).0[1] - 3.0 * 1.2).abs() < 0.02);
    assert_eq!(model.ceiling(&[1.0; 4]).0, None);
    assert!(
        model.overhead() >= 1.0 && model.overhead() < 1.01,
        "{}",
        model.overhead()
    );
}

#[test]
fn noise_is_averaged_out() {
    let machine = Machine::default();
    let model = fitted(&machine.pilot(&SIZES, 2));
    let found: f64 = model.stages_s(&features(900_000)).unwrap().iter().sum();
    let truth: f64 = machine.stages_s(900_000).iter().sum();
    assert!((found / truth - 1.0).abs() < 0.05, "{found} {truth}");
    assert!(
        (model.image_sd - machine.image_spread).abs() < 0.03,
        "{}",
        model.image_sd
    );
    let other = ImageClass {
        datatype: Datatype::Float64,
        scaled: false,
    };
    assert!(model.knows(&UINT8) && !model.knows(&other));
}

#[test]
fn the_interval_holds_the_truth_as_often_as_it_says() {
    let machine = Machine {
        run_spread: 0.06,
        ..Machine::default()
    };
    let mut held = 0;
    const TIMES: u64 = 200;
    for seed in 0..TIMES {
        let model = fitted(&machine.pilot(&SIZES, seed));
        let predicted_s = held_s(&model.stages_s(&features(900_000)).unwrap()) * model.overhead();
        let range = model.uncertainty(1.0, 1.0, &[features(900_000)]);
        // Another run, with its own luck.
        let run = gathered(&[machine.source(400, 1, &[900_000], 1_000_000 + seed)]).unwrap();
        let actual_s = run.workers[0].span_s / 400.0;
        if (predicted_s * range.low..=predicted_s * range.high).contains(&actual_s) {
            held += 1;
        }
    }
    assert!((165..=198).contains(&held), "{held} of {TIMES}");
}

#[test]
fn what_was_not_measured_makes_the_interval_wide() {
    let machine = Machine::default();
    let model = fitted(&machine.pilot(&[900_000], 3));
    let width = |range: Uncertainty| range.high / range.low;
    let same = width(model.uncertainty(1.0, 1.0, &[features(900_000)]));
    assert!(same < 1.3, "{same}");
    assert!(width(model.uncertainty(24.0, 2.0, &[features(900_000)])) > 2.0 * same);
    assert!(width(model.uncertainty(1.0, 1.0, &[features(9_000_000)])) > 2.0 * same);
    // Five images in one run: no repeats to judge by.
    let thin = fitted(&[machine.source(5, 1, &[900_000], 4)]);
    let alone = width(thin.uncertainty(1.0, 1.0, &[features(900_000)]));
    assert!(alone > 2.0 * same);
    assert!(width(thin.uncertainty(4.0, 1.0, &[features(900_000)])) > alone);
}

#[test]
fn workers_that_are_not_equally_fast_are_seen() {
    let with_factors = |image_spread: f64, factors: [f64; 4]| {
        let machine = Machine {
            image_spread,
            ..Machine::exact()
        };
        let sources: Vec<Source> = (0..8)
            .map(|seed| {
                let mut source = machine.source(208, 4, &SIZES, seed);
                slow(&mut source, |rank| factors[rank], [true; 3]);
                source
            })
            .collect();
        fitted(&sources).worker_sd
    };
    // The standard deviation of these logarithms.
    let apart = with_factors(0.05, [0.9, 1.0, 1.0, 1.1]);
    assert!((apart - 0.082).abs() < 0.015, "{apart}");
    let alike = with_factors(0.1, [1.0; 4]);
    assert!(alike < 0.02, "{alike}");
}

#[test]
fn a_file_system_that_several_nodes_share_is_seen() {
    let sources: Vec<Source> = [1_usize, 2, 4]
        .into_iter()
        .map(|nodes| {
            let mut source = Machine::exact().source(40, nodes * 2, &SIZES, 1);
            let slower = 1.0 + 0.1 * (nodes * 2 - 2) as f64;
            slow(&mut source, |_| slower, [true, false, false]);
            source.report.launch.nodes = (1..=nodes).map(|node| format!("node{node}")).collect();
            source.report.launch.cpus = Some(8 * nodes);
            source
        })
        .collect();
    let model = fitted(&sources);
    let slow = model.slow_down(&at_work(2.0, 8.0, 8.0)).0;
    assert!(
        (slow[0] - 1.6).abs() < 0.05 && (slow[1] - 1.0).abs() < 0.01,
        "{slow:?}"
    );
    let ceiling = model.ceiling(&[0.1, 5.0, 0.1, 0.0]).0.unwrap();
    assert!((ceiling - 1.0 / (0.1 * 0.1)).abs() < 5.0, "{ceiling}");
}

#[test]
fn a_slow_disk_holds_the_workers() {
    // A result takes 0.2 s to the disk, four at a time; an image is 12 ms of work.
    let machine = Machine {
        publish_s: 0.2,
        ..Machine::exact()
    };
    let sources: Vec<Source> = (1..=2)
        .map(|ranks| machine.source(160, ranks, &SIZES, 1))
        .collect();
    let model = fitted(&sources);
    let stages_s = model.stages_s(&features(900_000)).unwrap();
    assert!((stages_s[PUBLISH] - 0.2).abs() < 1e-3, "{stages_s:?}");
    let image_s = held_s(&stages_s) * model.overhead();
    assert!((image_s / 0.05 - 1.0).abs() < 0.05, "{image_s}");
}
