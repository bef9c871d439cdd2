//! Plots of a study: time and memory against images, speed-up and efficiency against workers, and the stages'
//! shares.

use std::path::Path;

use super::folder::{StudySpec, write_text};
use super::record::{Figures, Run};
use super::tables::{Row, rows};
use crate::study::chart::{Bar, Chart, Mark, Series, stacked_bars_svg};
use crate::study::statistics::{amdahl_serial_part, amdahl_speed_up};

/// Writes `time.svg`, `memory.svg`, `speed-up.svg`, `efficiency.svg` and `shares.svg`, as far as there is
/// something to draw.
///
/// # Errors
/// A sentence naming the file that cannot be drawn or written.
pub(crate) fn write(folder: &Path, spec: &StudySpec, runs: &[Run]) -> Result<(), String> {
    let rows: Vec<Row> = rows(runs)
        .into_iter()
        .filter(|row| !row.figures.is_empty())
        .collect();
    let Some(largest) = rows.iter().map(|row| row.images).max() else {
        return Ok(());
    };
    let of_images = |title: &str, y_label: &str, value: fn(&Figures) -> f64, logarithmic| Chart {
        title: title.to_owned(),
        x_label: "images".to_owned(),
        y_label: y_label.to_owned(),
        logarithmic,
        series: groups(&rows)
            .into_iter()
            .map(|group| Series {
                name: name(group[0]),
                points: group
                    .iter()
                    .map(|row| (row.images as f64, row.summary(value).mean))
                    .collect(),
                mark: Mark::Points,
            })
            .collect(),
    };
    let time = of_images(
        "Time from launch to end",
        "seconds",
        |figures| figures.time_s,
        true,
    );
    write_text(&folder.join("time.svg"), &time.to_svg()?)?;
    let memory = of_images(
        "Memory of the largest rank",
        "MiB",
        |figures| figures.memory_bytes / f64::from(1 << 20),
        false,
    );
    write_text(&folder.join("memory.svg"), &memory.to_svg()?)?;
    let at_largest: Vec<&Row> = rows.iter().filter(|row| row.images == largest).collect();
    for (file, chart) in [
        ("speed-up.svg", speed_up(&at_largest, largest, spec.cpus)),
        ("efficiency.svg", efficiency(&at_largest, largest)),
    ] {
        if let Some(chart) = chart {
            write_text(&folder.join(file), &chart.to_svg()?)?;
        }
    }
    let bars: Vec<Bar> = at_largest
        .iter()
        .map(|row| {
            let per_image = |value| row.summary(value).mean / row.images as f64 * 1000.0;
            Bar {
                name: format!("{} × {}", row.ranks, row.threads),
                parts: vec![
                    per_image(|figures| figures.read_s),
                    per_image(|figures| figures.filter_s),
                    per_image(|figures| figures.write_s),
                ],
            }
        })
        .collect();
    let shares = stacked_bars_svg(
        &format!("An image's time by stage, {largest} images (ranks × threads)"),
        "milliseconds",
        &["read", "filter", "write"],
        &bars,
    )?;
    write_text(&folder.join("shares.svg"), &shares)
}

/// Rows of the same ranks, threads and nodes, as they follow each other.
fn groups(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match groups.last_mut() {
            Some(group)
                if (group[0].ranks, group[0].threads, group[0].nodes)
                    == (row.ranks, row.threads, row.nodes) =>
            {
                group.push(row);
            }
            _ => groups.push(vec![row]),
        }
    }
    groups
}

fn name(row: &Row) -> String {
    let nodes = if row.nodes > 1 {
        format!(", {} nodes", row.nodes)
    } else {
        String::new()
    };
    format!("{} × {}{nodes}", row.ranks, row.threads)
}

/// How much faster several workers are than one: the whole run with more ranks, with more threads, and the
/// filter alone. Points are (workers, speed-up); a line of one point is left out.
pub(crate) fn speed_ups(at_largest: &[&Row]) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let Some(serial) = at_largest
        .iter()
        .find(|row| (row.ranks, row.threads, row.nodes) == (1, 1, 1))
    else {
        return Vec::new();
    };
    let points = |is_wanted: fn(&Row) -> bool, seconds: fn(&Row) -> f64| -> Vec<(f64, f64)> {
        at_largest
            .iter()
            .filter(|row| row.nodes == 1 && is_wanted(row))
            .map(|row| ((row.ranks * row.threads) as f64, seconds(serial) / seconds(row)))
            .collect()
    };
    let whole = |row: &Row| row.summary(|figures| figures.time_s).mean;
    // Workers filter different images at the same time: their sum, shared among them.
    let filter = |row: &Row| row.summary(|figures| figures.filter_s).mean / (row.ranks * row.threads) as f64;
    [
        ("ranks", points(|row| row.threads == 1, whole)),
        ("threads", points(|row| row.ranks == 1, whole)),
        ("threads, filter alone", points(|row| row.ranks == 1, filter)),
    ]
    .into_iter()
    .filter(|(_, points)| points.len() > 1)
    .collect()
}

fn speed_up(at_largest: &[&Row], images: usize, cpus: usize) -> Option<Chart> {
    let title = format!("Speed-up, {images} images on {cpus} CPUs");
    let mut chart = against_workers(at_largest, title, "speed-up", |_, speed_up| speed_up)?;
    let most = chart.series[0].points[1].0;
    for (name, points) in speed_ups(at_largest) {
        let Some(serial_part) = serial_part(&points, cpus).filter(|_| !name.contains("alone")) else {
            continue;
        };
        let steps = (0..=40).map(|step| 1.0 + (most - 1.0) * f64::from(step) / 40.0);
        chart.series.push(Series {
            name: format!("Amdahl, {name}: {:.1} % serial", serial_part * 100.0),
            points: steps
                .map(|workers| (workers, amdahl_speed_up(serial_part, workers)))
                .collect(),
            mark: Mark::Line,
        });
    }
    Some(chart)
}

fn efficiency(at_largest: &[&Row], images: usize) -> Option<Chart> {
    let title = format!("Efficiency (speed-up / workers), {images} images");
    against_workers(at_largest, title, "efficiency", |workers, speed_up| {
        speed_up / workers
    })
}

/// A chart of `value(workers, speed-up)`, with the ideal as its first series.
fn against_workers(
    at_largest: &[&Row],
    title: String,
    y_label: &str,
    value: fn(f64, f64) -> f64,
) -> Option<Chart> {
    let curves = speed_ups(at_largest);
    let all = curves.iter().flat_map(|(_, points)| points);
    let most = all.map(|point| point.0).fold(1.0, f64::max);
    let mut series = vec![Series {
        name: "ideal".to_owned(),
        points: vec![(1.0, value(1.0, 1.0)), (most, value(most, most))],
        mark: Mark::Reference,
    }];
    series.extend(curves.into_iter().map(|(name, points)| {
        Series {
            name: name.to_owned(),
            points: points
                .into_iter()
                .map(|(workers, up)| (workers, value(workers, up)))
                .collect(),
            mark: Mark::Points,
        }
    }));
    (series.len() > 1).then(|| Chart {
        title,
        x_label: "workers".to_owned(),
        y_label: y_label.to_owned(),
        logarithmic: false,
        series,
    })
}

/// Amdahl's serial part by the points that had a CPU for every worker; beyond, workers wait for CPUs, which
/// is no property of the program. Where no such point has several workers, by all.
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
    use super::super::folder::tests::spec;
    use super::super::tables::tests::run;
    use super::*;

    #[test]
    fn a_study_becomes_five_plots() {
        let runs = [
            run(1, 1, 10, 1, 8.0),
            run(1, 1, 100, 1, 80.0),
            run(1, 2, 100, 1, 44.0),
            run(2, 1, 100, 1, 42.0),
        ];
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &spec(), &runs).unwrap();
        let svg = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(svg("time.svg").contains("1 × 2"));
        assert!(svg("memory.svg").contains("MiB"));
        // 1/S = 42/80 = f + (1 - f)/2 → f = 5 %.
        assert!(
            svg("speed-up.svg").contains("Amdahl, ranks: 5.0 % serial"),
            "{}",
            svg("speed-up.svg")
        );
        assert!(svg("efficiency.svg").contains("ideal"));
        assert!(svg("shares.svg").contains("filter"));
    }

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
    }
}
