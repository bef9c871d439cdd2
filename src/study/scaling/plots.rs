//! Plots of a study: time and memory against images, speed-up and efficiency against workers, and the stage
//! times of an image.

use std::path::Path;

use super::folder::{StudySpec, write_text};
use super::record::{Figures, Run};
use super::tables::{Row, rows};
use crate::study::chart::{Bar, Chart, Mark, Series, stacked_bars_svg};
use crate::study::statistics::{Summary, amdahl_serial_part, amdahl_speed_up, student_factor};

/// What `2 × 4` means.
const LAYOUT: &str = "ranks × threads of each rank";
/// Coverage of the intervals of means.
const COVERAGE: f64 = 0.9;

/// Writes `time.svg`, `memory.svg`, `speed-up.svg`, `efficiency.svg` and `shares.svg`. Leaves out plots
/// without data.
pub(crate) fn write(folder: &Path, spec: &StudySpec, runs: &[Run]) -> Result<(), String> {
    let mut rows: Vec<Row> = rows(runs);
    rows.retain(|row| !row.figures.is_empty());
    let Some(largest) = rows.iter().map(|row| row.run.images).max() else {
        return Ok(());
    };
    let at_largest: Vec<&Row> = rows.iter().filter(|row| row.run.images == largest).collect();
    let mib = |run: &Figures| run.memory_bytes / f64::from(1 << 20);
    let mut charts = vec![
        (
            "time.svg",
            of_images(&rows, "Time from launch to end", "seconds", true, |run| {
                run.time_s
            }),
        ),
        (
            "memory.svg",
            of_images(&rows, "Memory of the largest rank", "MiB", false, mib),
        ),
    ];
    let [speed_up, efficiency] = of_workers(&at_largest, largest, spec.cpus);
    if speed_up.series.len() > 1 {
        charts.extend([("speed-up.svg", speed_up), ("efficiency.svg", efficiency)]);
    }
    for (file, chart) in charts {
        write_text(&folder.join(file), &chart.to_svg()?)?;
    }
    let bar = |row: &&Row| {
        let stages: [fn(&Figures) -> f64; 3] = [|run| run.read_s, |run| run.filter_s, |run| run.write_s];
        Bar {
            name: format!("{} × {}", row.run.ranks, row.run.threads),
            parts: stages
                .map(|stage| row.summary(stage).mean / row.run.images as f64 * 1e3)
                .to_vec(),
        }
    };
    let shares = stacked_bars_svg(
        &format!("An image's time by stage, {largest} images"),
        LAYOUT,
        "milliseconds",
        &["read", "filter", "write"],
        &Vec::from_iter(at_largest.iter().map(bar)),
    )?;
    write_text(&folder.join("shares.svg"), &shares)
}

/// A chart of a figure against images, with a curve for each combination of ranks, threads and nodes.
fn of_images(
    rows: &[Row],
    title: &str,
    y_label: &str,
    logarithmic: bool,
    value: fn(&Figures) -> f64,
) -> Chart {
    let layout = |row: &Row| (row.run.ranks, row.run.threads, row.run.nodes);
    let curve = |group: &[Row]| Series {
        name: match layout(&group[0]) {
            (ranks, threads, 1) => format!("{ranks} × {threads}"),
            (ranks, threads, nodes) => format!("{ranks} × {threads}, {nodes} nodes"),
        },
        points: group
            .iter()
            .map(|row| (row.run.images as f64, row.summary(value).mean))
            .collect(),
        half_widths: group.iter().map(|row| half_width(row.summary(value))).collect(),
        mark: Mark::Points,
    };
    Chart {
        title: format!("{title}, mean and its 90 % interval"),
        x_label: "images".to_owned(),
        y_label: y_label.to_owned(),
        logarithmic,
        legend: LAYOUT.to_owned(),
        series: rows.chunk_by(|a, b| layout(a) == layout(b)).map(curve).collect(),
    }
}

/// Half the width of the interval of a mean; 0 if it was measured once.
fn half_width(summary: Summary) -> f64 {
    match summary.count {
        0 | 1 => 0.0,
        count => student_factor(COVERAGE, count - 1) * summary.sd / (count as f64).sqrt(),
    }
}

/// Speed-up of several workers over one: of the whole run with more ranks, of the whole run with more
/// threads, and of the filter alone. Points are (workers, speed-up). Curves with one point are left out.
pub(crate) fn speed_ups(at_largest: &[&Row]) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let layout = |row: &Row| (row.run.ranks, row.run.threads, row.run.nodes);
    let Some(serial) = at_largest.iter().find(|row| layout(row) == (1, 1, 1)) else {
        return Vec::new();
    };
    let workers = |row: &Row| (row.run.ranks * row.run.threads) as f64;
    let points = |is_wanted: fn(&Row) -> bool, seconds: &dyn Fn(&Row) -> f64| {
        let wanted = at_largest
            .iter()
            .filter(|row| row.run.nodes == 1 && is_wanted(row));
        Vec::from_iter(wanted.map(|row| (workers(row), seconds(serial) / seconds(row))))
    };
    let whole = |row: &Row| row.summary(|figures| figures.time_s).mean;
    // Workers filter different images at the same time, so the sum of their times is divided by their number.
    let filter = |row: &Row| row.summary(|figures| figures.filter_s).mean / workers(row);
    let mut curves = vec![
        ("ranks", points(|row| row.run.threads == 1, &whole)),
        ("threads", points(|row| row.run.ranks == 1, &whole)),
        ("threads, filter alone", points(|row| row.run.ranks == 1, &filter)),
    ];
    curves.retain(|(_, points)| points.len() > 1);
    curves
}

/// Charts of speed-up, with a fit of Amdahl's law, and of efficiency against workers. The first curve is the
/// ideal. It is the only one if one worker alone was not measured.
fn of_workers(at_largest: &[&Row], images: usize, cpus: usize) -> [Chart; 2] {
    let curves = speed_ups(at_largest);
    let all = curves.iter().flat_map(|(_, points)| points);
    let most = all.map(|point| point.0).fold(1.0, f64::max);
    let chart = |title: String, y_label: &str, value: fn(f64, f64) -> f64| {
        let curve = |name: &str, points: &[(f64, f64)], mark| Series {
            name: name.to_owned(),
            points: points
                .iter()
                .map(|&(workers, up)| (workers, value(workers, up)))
                .collect(),
            half_widths: Vec::new(),
            mark,
        };
        let mut series = vec![curve("ideal", &[(1.0, 1.0), (most, most)], Mark::Reference)];
        series.extend(
            curves
                .iter()
                .map(|(name, points)| curve(name, points, Mark::Points)),
        );
        Chart {
            title,
            x_label: "workers".to_owned(),
            y_label: y_label.to_owned(),
            logarithmic: false,
            legend: "more workers as".to_owned(),
            series,
        }
    };
    let title = format!("Speed-up, {images} images on {cpus} CPUs");
    let mut speed_up = chart(title, "speed-up", |_, up| up);
    for (name, points) in curves.iter().filter(|(name, _)| !name.contains("alone")) {
        let Some(serial_part) = serial_part(points, cpus) else {
            continue;
        };
        let steps = (0..=40).map(|step| 1.0 + (most - 1.0) * f64::from(step) / 40.0);
        speed_up.series.push(Series {
            name: format!("Amdahl, {name}: {:.1} % serial", serial_part * 100.0),
            points: steps
                .map(|workers| (workers, amdahl_speed_up(serial_part, workers)))
                .collect(),
            half_widths: Vec::new(),
            mark: Mark::Line,
        });
    }
    let title = format!("Efficiency (speed-up / workers), {images} images");
    [speed_up, chart(title, "efficiency", |workers, up| up / workers)]
}

/// Amdahl's serial part, fitted to the points with a CPU for every worker, or to all points if none of those
/// has several workers. With fewer CPUs, workers wait for CPUs, so the points do not describe the program.
pub(crate) fn serial_part(points: &[(f64, f64)], cpus: usize) -> Option<f64> {
    let within: Vec<_> = points
        .iter()
        .filter(|point| point.0 <= cpus as f64)
        .copied()
        .collect();
    amdahl_serial_part(&within).or_else(|| amdahl_serial_part(points))
}

#[cfg(test)]
mod tests {
    use super::super::tables::tests::run;
    use super::*;

    #[test]
    fn speed_ups_compare_with_one_worker() {
        let rows = rows(&[
            run(1, 1, 100, 1, 80.0),
            run(2, 1, 100, 1, 40.0),
            run(4, 1, 100, 1, 40.0),
        ]);
        let curves = speed_ups(&rows.iter().collect::<Vec<_>>());
        assert_eq!(curves[0], ("ranks", vec![(1.0, 1.0), (2.0, 2.0), (4.0, 2.0)]));
        assert_eq!(serial_part(&curves[0].1, 2), Some(0.0));
        let [chart, _] = of_workers(&Vec::from_iter(&rows), 100, 4);
        let names: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["ideal", "ranks", "Amdahl, ranks: 23.1 % serial"]);
    }
}
