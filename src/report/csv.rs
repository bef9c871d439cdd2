//! The rows of a report: ranks, images and Slurm's accounting as lists of columns, for tables and CSV.

use std::io::Write;

use super::{ImageRow, RankRow, Report};
use crate::columns::{Cell, Column, write_csv};
use crate::job::outcome::End;
use crate::slurm::steps::Account;

/// A column of tables and CSV.
macro_rules! column {
    ($name:literal, $head:literal, |$row:ident| $value:expr) => {
        Column {
            name: $name,
            head: $head,
            value: |$row| $value,
        }
    };
}

/// Columns of a rank's row.
pub(super) const RANKS: [Column<RankRow>; 21] = [
    column!("rank", "rank", |rank| Cell::Count(rank.rank as u64)),
    column!("host", "host", |rank| Cell::Text(rank.host.clone())),
    column!("images", "images", |rank| Cell::Count(rank.images as u64)),
    column!("done", "", |rank| Cell::Count(rank.done as u64)),
    column!("failed", "failed", |rank| Cell::Count(rank.failed as u64)),
    column!("skipped", "", |rank| Cell::Count(rank.skipped as u64)),
    column!("read_s", "read s", |rank| Cell::seconds(rank.read_s)),
    column!("filter_s", "filter s", |rank| Cell::seconds(rank.filter_s)),
    column!("write_s", "write s", |rank| Cell::seconds(rank.write_s)),
    column!("idle_s", "idle s", |rank| Cell::seconds(rank.idle_s)),
    column!("other_s", "other s", |rank| Cell::seconds(rank.other_s)),
    column!("elapsed_s", "elapsed s", |rank| Cell::seconds(rank.elapsed_s)),
    column!("publish_s", "publish s", |rank| Cell::seconds(rank.publish_s)),
    column!("cpu_s", "", |rank| Cell::seconds(rank.cpu_s)),
    column!("cpu_efficiency", "CPU %", |rank| Cell::Share(rank.cpu_efficiency)),
    column!("max_rss_bytes", "peak MiB", |rank| Cell::Bytes(
        rank.max_rss_bytes
    )),
    column!("bytes_in", "", |rank| Cell::Bytes(rank.bytes_in)),
    column!("bytes_out", "", |rank| Cell::Bytes(rank.bytes_out)),
    column!("threads", "", |rank| Cell::Count(rank.threads as u64)),
    column!("cpus", "", |rank| Cell::Count(rank.cpus as u64)),
    column!("cpu_model", "", |rank| Cell::Text(rank.cpu_model.clone())),
];

/// Columns of an image's row.
const IMAGES: [Column<ImageRow>; 22] = [
    column!("index", "", |image| Cell::Count(image.index as u64)),
    column!("input", "", |image| Cell::Text(image.input.clone())),
    column!("output", "", |image| Cell::Text(image.output.clone())),
    column!("rank", "", |image| Cell::Count(image.rank as u64)),
    column!("worker", "", |image| Cell::Count(image.worker as u64)),
    column!("status", "", |image| word(&image.status())),
    column!("reason", "", |image| match &image.end {
        End::Skipped(reason) => word(reason),
        _ => Cell::Unknown,
    }),
    column!("stage", "", |image| Cell::of(image.failure(), |failure| {
        word(&failure.stage)
    })),
    column!("error", "", |image| Cell::of(image.failure(), |failure| {
        Cell::Text(failure.error.clone())
    })),
    column!("start_s", "", |image| Cell::seconds(image.start_s)),
    column!("read_s", "", |image| Cell::seconds(image.timings.read_s)),
    column!("filter_s", "", |image| Cell::seconds(image.timings.filter_s)),
    column!("write_s", "", |image| Cell::seconds(image.timings.write_s)),
    column!("voxels", "", |image| Cell::Count(image.outcome.input.voxels)),
    column!("datatype", "", |image| Cell::of(
        image.outcome.input.datatype,
        |it| word(&it)
    )),
    column!("scaled", "", |image| Cell::Text(
        image.outcome.input.scaled.to_string()
    )),
    column!("bytes_in", "", |image| Cell::Bytes(image.outcome.input.bytes)),
    column!("bytes_out", "", |image| Cell::Bytes(image.bytes_out)),
    column!("nonfinite_voxels", "", |image| Cell::Count(
        image.outcome.input.nonfinite_voxels
    )),
    column!("publish_s", "", |image| Cell::seconds(image.timings.publish_s)),
    column!("voxel_size_mm", "", |image| Cell::of(
        image.outcome.input.voxel_size_mm,
        three
    )),
    column!("sigma_vox", "", |image| Cell::of(
        image.outcome.input.sigma_vox,
        three
    )),
];

/// Columns of a job, its script or a step.
pub(super) const ACCOUNTS: [Column<Account>; 11] = [
    column!("job_id", "job", |account| Cell::Text(account.job_id.clone())),
    column!("name", "name", |account| Cell::Text(account.name.clone())),
    column!("state", "state", |account| Cell::Text(account.state.clone())),
    column!("exit_code", "code", |account| Cell::Text(
        account.exit_code.clone()
    )),
    column!("elapsed_s", "elapsed", |account| Cell::Clock(account.elapsed_s)),
    column!("cpu_s", "CPU time", |account| Cell::Clock(account.cpu_s)),
    column!("cpu_efficiency", "CPU %", |account| Cell::of(
        account.cpu_efficiency,
        Cell::Share
    )),
    column!("cpus", "", |account| Cell::Count(account.cpus)),
    column!("max_rss_bytes", "peak MiB", |account| Cell::of(
        account.max_rss_bytes,
        Cell::Bytes
    )),
    column!("requested_memory", "", |account| Cell::Text(
        account.requested_memory.clone()
    )),
    column!("node_list", "nodes", |account| Cell::Text(
        account.node_list.clone()
    )),
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

/// Writes one row per rank. Seconds and bytes as in the JSON form.
///
/// # Errors
/// The writer's.
pub(crate) fn write_ranks(report: &Report, writer: impl Write) -> Result<(), ::csv::Error> {
    write_csv(&RANKS, &report.ranks, writer)
}

/// Writes one row per image.
///
/// # Errors
/// The writer's.
pub(crate) fn write_images(report: &Report, writer: impl Write) -> Result<(), ::csv::Error> {
    write_csv(&IMAGES, &report.images, writer)
}

/// Writes one row per job, script or step of Slurm's accounting.
///
/// # Errors
/// The writer's.
pub(crate) fn write_accounts(accounts: &[Account], writer: impl Write) -> Result<(), ::csv::Error> {
    write_csv(&ACCOUNTS, accounts, writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_heads_are_the_schema() {
        let report = crate::report::sample::report();
        let mut ranks = Vec::new();
        write_ranks(&report, &mut ranks).unwrap();
        insta::assert_snapshot!("ranks", String::from_utf8(ranks).unwrap());
        let mut images = Vec::new();
        write_images(&report, &mut images).unwrap();
        insta::assert_snapshot!("images", String::from_utf8(images).unwrap());
    }
}
