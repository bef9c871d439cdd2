//! The rows of a report: ranks and images as CSV, Slurm's accounting as CSV and as a table.

use super::{ImageRow, RankRow};
use crate::columns::{Cell, Column};
use crate::job::outcome::End;
use crate::slurm::steps::Account;

/// Columns of a rank in CSV.
pub(crate) const RANKS: [Column<RankRow>; 22] = [
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
];

/// Columns of an image's row.
pub(crate) const IMAGES: [Column<ImageRow>; 26] = [
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
];

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
    use crate::columns::write_csv;

    #[test]
    fn rows_and_heads_are_the_schema() {
        let report = crate::report::sample::report();
        let mut ranks = Vec::new();
        write_csv(&RANKS, &report.ranks, &mut ranks).unwrap();
        insta::assert_snapshot!("ranks", String::from_utf8(ranks).unwrap());
        let mut images = Vec::new();
        write_csv(&IMAGES, &report.images, &mut images).unwrap();
        insta::assert_snapshot!("images", String::from_utf8(images).unwrap());
    }
}
