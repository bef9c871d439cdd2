//! The report as comma-separated values (RFC 4180): a row a rank, and a row an image.

use std::io::Write;

use super::{ImageRow, Report};
use crate::slurm::steps::Account;
use crate::text::printable;

/// Writes one row a rank, with a head row. Seconds and bytes as in the JSON form.
///
/// # Errors
/// The writer's.
pub fn write_ranks(report: &Report, writer: impl Write) -> Result<(), ::csv::Error> {
    let mut csv = ::csv::Writer::from_writer(writer);
    for rank in &report.ranks {
        csv.serialize(rank)?;
    }
    csv.flush()?;
    Ok(())
}

/// The columns of an image's row: head and value. What is not known is empty.
const IMAGE_COLUMNS: [(&str, fn(&ImageRow) -> String); 21] = [
    ("index", |image| image.index.to_string()),
    ("input", |image| printable(&image.input)),
    ("output", |image| printable(&image.output)),
    ("rank", |image| image.rank.to_string()),
    ("worker", |image| image.worker.to_string()),
    ("status", |image| word(&image.status())),
    ("stage", |image| {
        let failure = image.failure();
        failure.map_or(String::new(), |failure| failure.stage.name().to_owned())
    }),
    ("error", |image| {
        let failure = image.failure();
        failure.map_or(String::new(), |failure| printable(&failure.error))
    }),
    ("start_s", |image| image.start_s.to_string()),
    ("read_s", |image| image.timings.read_s.to_string()),
    ("filter_s", |image| image.timings.filter_s.to_string()),
    ("write_s", |image| image.timings.write_s.to_string()),
    ("voxels", |image| image.outcome.input.voxels.to_string()),
    ("datatype", |image| {
        let datatype = image.outcome.input.datatype;
        datatype.map_or(String::new(), |datatype| datatype.to_string())
    }),
    ("scaled", |image| image.outcome.input.scaled.to_string()),
    ("bytes_in", |image| image.outcome.input.bytes.to_string()),
    ("bytes_out", |image| image.bytes_out.to_string()),
    ("nonfinite_voxels", |image| {
        image.outcome.input.nonfinite_voxels.to_string()
    }),
    ("publish_s", |image| image.timings.publish_s.to_string()),
    ("voxel_size_mm", |image| {
        sizes(image.outcome.input.voxel_size_mm)
    }),
    ("sigma_vox", |image| sizes(image.outcome.input.sigma_vox)),
];

/// The word that a value is in JSON.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Three sizes as one cell.
fn sizes(xyz: Option<[f64; 3]>) -> String {
    xyz.map_or(String::new(), |[x, y, z]| format!("{x} {y} {z}"))
}

/// Writes one row an image, with a head row. Control characters in names and messages are escaped.
///
/// # Errors
/// The writer's.
pub fn write_images(report: &Report, writer: impl Write) -> Result<(), ::csv::Error> {
    let mut csv = ::csv::Writer::from_writer(writer);
    csv.write_record(IMAGE_COLUMNS.map(|(head, _)| head))?;
    for image in &report.images {
        csv.write_record(IMAGE_COLUMNS.map(|(_, value)| value(image)))?;
    }
    csv.flush()?;
    Ok(())
}

/// Writes one row a job, script or step of the accounts, with a head row.
///
/// # Errors
/// The writer's.
pub fn write_accounts(accounts: &[Account], writer: impl Write) -> Result<(), ::csv::Error> {
    let mut csv = ::csv::Writer::from_writer(writer);
    for account in accounts {
        csv.serialize(account)?;
    }
    csv.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_heads_are_there() {
        let report = crate::report::sample::report();
        let mut ranks = Vec::new();
        write_ranks(&report, &mut ranks).unwrap();
        let ranks = String::from_utf8(ranks).unwrap();
        assert_eq!(ranks.lines().count(), 3);
        assert!(
            ranks
                .starts_with("rank,host,images,done,failed,skipped,read_s,filter_s,write_s,idle_s")
        );
        let mut images = Vec::new();
        write_images(&report, &mut images).unwrap();
        let images = String::from_utf8(images).unwrap();
        assert_eq!(images.lines().count(), 5);
        assert!(
            images.contains("2,in/2.nii,out/2.nii,0,0,failed,read,the file is empty,"),
            "{images}"
        );
    }
}
