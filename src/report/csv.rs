//! The rows of a report: ranks and images as CSV, Slurm's accounting as CSV and as a table.

use std::io::Write;

use super::{ImageRow, RankRow};
use crate::columns::{Cell, Column, write_csv};
use crate::job::outcome::End;
use crate::job::quality::Figures;
use crate::slurm::steps::Account;

/// Columns of a rank in CSV.
pub(crate) const RANKS: [Column<RankRow>; 23] = [
    Column::csv("rank", |rank| Cell::Count(rank.rank as u64)),
    Column::csv("host", |rank| Cell::Text(rank.host.clone())),
    Column::csv("images", |rank| Cell::Count(rank.images as u64)),
    Column::csv("done", |rank| Cell::Count(rank.done as u64)),
    Column::csv("failed", |rank| Cell::Count(rank.failed as u64)),
    Column::csv("skipped", |rank| Cell::Count(rank.skipped as u64)),
    Column::csv("read_s", |rank| Cell::Seconds(rank.read_s)),
    Column::csv("filter_s", |rank| Cell::Seconds(rank.filter_s)),
    Column::csv("write_s", |rank| Cell::Seconds(rank.write_s)),
    Column::csv("idle_s", |rank| Cell::Seconds(rank.idle_s)),
    Column::csv("other_s", |rank| Cell::Seconds(rank.other_s)),
    Column::csv("elapsed_s", |rank| Cell::Seconds(rank.elapsed_s)),
    Column::csv("publish_s", |rank| Cell::Seconds(rank.publish_s)),
    Column::csv("cpu_s", |rank| Cell::Seconds(rank.cpu_s)),
    Column::csv("cpu_efficiency", |rank| Cell::Share(rank.cpu_efficiency)),
    Column::csv("max_rss_bytes", |rank| Cell::Bytes(rank.max_rss_bytes)),
    Column::csv("bytes_in", |rank| Cell::Bytes(rank.bytes_in)),
    Column::csv("bytes_out", |rank| Cell::Bytes(rank.bytes_out)),
    Column::csv("threads", |rank| Cell::Count(rank.threads as u64)),
    Column::csv("cpus", |rank| Cell::Count(rank.cpus as u64)),
    Column::csv("cpu_model", |rank| Cell::Text(rank.cpu_model.clone())),
    Column::csv("device", |rank| Cell::Text(rank.device.clone())),
    Column::csv("start_s", |rank| Cell::Seconds(rank.start_s)),
];

/// Columns of an image's row.
pub(crate) const IMAGES: [Column<ImageRow>; 27] = [
    Column::csv("index", |image| Cell::Count(image.index as u64)),
    Column::csv("input", |image| Cell::Text(image.input.clone())),
    Column::csv("output", |image| Cell::Text(image.output.clone())),
    Column::csv("rank", |image| Cell::Count(image.rank as u64)),
    Column::csv("worker", |image| Cell::Count(image.worker as u64)),
    Column::csv("status", |image| word(&image.status())),
    Column::csv("reason", |image| match &image.end {
        End::Skipped(reason) => word(reason),
        _ => Cell::Unknown,
    }),
    Column::csv("stage", |image| {
        Cell::of(image.failure(), |failure| word(&failure.stage))
    }),
    Column::csv("error", |image| {
        Cell::of(image.failure(), |failure| Cell::Text(failure.error.clone()))
    }),
    Column::csv("start_s", |image| Cell::Seconds(image.start_s)),
    Column::csv("read_s", |image| Cell::Seconds(image.timings.read_s)),
    Column::csv("filter_s", |image| Cell::Seconds(image.timings.filter_s)),
    Column::csv("write_s", |image| Cell::Seconds(image.timings.write_s)),
    Column::csv("voxels", |image| Cell::Count(image.outcome.input.voxels)),
    Column::csv("datatype", |image| {
        Cell::of(image.outcome.input.datatype, |it| word(&it))
    }),
    Column::csv("scaled", |image| {
        Cell::Text(image.outcome.input.scaled.to_string())
    }),
    Column::csv("bytes_in", |image| Cell::Bytes(image.outcome.input.bytes)),
    Column::csv("bytes_out", |image| Cell::Bytes(image.bytes_out)),
    Column::csv("nonfinite_voxels", |image| {
        Cell::Count(image.outcome.input.nonfinite_voxels)
    }),
    Column::csv("publish_s", |image| Cell::Seconds(image.timings.publish_s)),
    Column::csv("voxel_size_mm", |image| {
        Cell::of(image.outcome.input.voxel_size_mm, three)
    }),
    Column::csv("sigma_vox", |image| {
        Cell::of(image.outcome.input.sigma_vox, three)
    }),
    Column::csv("output_noise", |image| {
        Cell::of(image.output_noise.clone(), Cell::Text)
    }),
    Column::csv("retries", |image| Cell::Count(u64::from(image.retries))),
    Column::csv("warnings", |image| {
        let texts: Vec<&str> = image
            .warnings
            .iter()
            .map(|warning| warning.text.as_str())
            .collect();
        Cell::Text(texts.join("; "))
    }),
    Column::csv("shared", |image| {
        let ranks: Vec<String> = image
            .shared
            .iter()
            .map(|sharer| sharer.rank.to_string())
            .collect();
        Cell::Text(ranks.join(" "))
    }),
    Column::csv("problem", |image| {
        Cell::of(image.failure().and_then(|failure| failure.problem), |it| {
            word(&it)
        })
    }),
];

/// The columns of a figure before and after filtering.
macro_rules! quality_columns {
    ($($before:literal, $after:literal, $figure:expr;)*) => {
        [
            $(
                Column::csv($before, |image| {
                    let figure: fn(&Figures) -> Cell = $figure;
                    Cell::of(image.quality.as_deref(), |quality| figure(&quality.before))
                }),
                Column::csv($after, |image| {
                    let figure: fn(&Figures) -> Cell = $figure;
                    Cell::of(image.quality.as_deref(), |quality| figure(&quality.after))
                }),
            )*
            Column::csv("picture", |image| {
                let picture = image.quality.as_ref().and_then(|quality| quality.picture.clone());
                Cell::of(picture, Cell::Text)
            }),
        ]
    };
}

/// More columns of an image's row, if images were measured.
pub(crate) const QUALITY: [Column<ImageRow>; 19] = quality_columns! {
    "before_min", "after_min", |it| number(it.min);
    "before_max", "after_max", |it| number(it.max);
    "before_mean", "after_mean", |it| number(it.mean);
    "before_sd", "after_sd", |it| number(it.sd);
    "before_noise", "after_noise", |it| number(it.noise);
    "before_fwhm_mm", "after_fwhm_mm", |it| {
        let axes = it.fwhm_mm.map(|axis| axis.map_or("nan".to_owned(), |mm| mm.to_string()));
        Cell::Text(axes.join(" "))
    };
    "before_nonfinite_voxels", "after_nonfinite_voxels", |it| Cell::Count(it.nonfinite_voxels);
    "before_saturated_voxels", "after_saturated_voxels", |it| Cell::Count(it.saturated_voxels);
    "before_zero_voxels", "after_zero_voxels", |it| Cell::Count(it.zero_voxels);
};

fn number(figure: Option<f64>) -> Cell {
    Cell::of(figure, |figure| Cell::Number(figure, 3))
}

/// Writes the rows of the images as CSV, with their figures if there are any.
pub(crate) fn write_images(images: &[ImageRow], writer: impl Write) -> Result<(), csv::Error> {
    let measured = images.iter().any(|image| image.quality.is_some());
    let more = if measured { &QUALITY[..] } else { &[] };
    write_csv(IMAGES.iter().chain(more), images, writer)
}

/// Columns of a job, its script or a step.
pub(crate) const ACCOUNTS: [Column<Account>; 11] = [
    Column::new("job_id", "job", |account| Cell::Text(account.job_id.clone())),
    Column::both("name", |account| Cell::Text(account.name.clone())),
    Column::both("state", |account| Cell::Text(account.state.clone())),
    Column::new("exit_code", "code", |account| {
        Cell::Text(account.exit_code.clone())
    }),
    Column::new("elapsed_s", "elapsed", |account| Cell::Clock(account.elapsed_s)),
    Column::new("cpu_s", "CPU time", |account| Cell::Clock(account.cpu_s)),
    Column::new("cpu_efficiency", "CPU %", |account| {
        Cell::of(account.cpu_efficiency, Cell::Share)
    }),
    Column::csv("cpus", |account| Cell::Count(account.cpus)),
    Column::new("max_rss_bytes", "peak MiB", |account| {
        Cell::of(account.max_rss_bytes, Cell::Bytes)
    }),
    Column::csv("requested_memory", |account| {
        Cell::Text(account.requested_memory.clone())
    }),
    Column::new("node_list", "nodes", |account| {
        Cell::Text(account.node_list.clone())
    }),
];

/// The JSON string of a value.
fn word(value: &impl serde::Serialize) -> Cell {
    let value = serde_json::to_value(value).unwrap_or_default();
    Cell::Text(value.as_str().unwrap_or_default().to_owned())
}

/// Three numbers as one cell.
fn three([x, y, z]: [f64; 3]) -> Cell {
    Cell::Text(format!("{x} {y} {z}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn rows_and_heads_are_the_schema() {
        let report = crate::report::sample::report();
        let mut ranks = Vec::new();
        write_csv(&RANKS, &report.ranks, &mut ranks).unwrap();
        insta::assert_snapshot!("ranks", String::from_utf8(ranks).unwrap());
        let mut images = Vec::new();
        write_images(&report.images, &mut images).unwrap();
        insta::assert_snapshot!("images", String::from_utf8(images).unwrap());
    }

    #[test]
    fn measured_images_have_more_columns() {
        let mut report = crate::report::sample::report();
        let mut quality = crate::job::quality::Quality::default();
        quality.before.mean = Some(1.5);
        quality.after.fwhm_mm = [Some(2.0), None, Some(3.0)];
        report.images[1].quality = Some(Box::new(quality));
        let mut images = Vec::new();
        write_images(&report.images, &mut images).unwrap();
        let text = String::from_utf8(images).unwrap();
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].ends_with("before_zero_voxels,after_zero_voxels,picture"));
        assert!(rows[1].ends_with(",,,,"), "{}", rows[1]);
        assert!(
            rows[2].contains(",1.5,") && rows[2].contains(",2 nan 3,"),
            "{}",
            rows[2]
        );
    }
}
