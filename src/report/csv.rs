//! The report as comma-separated values (RFC 4180): a row a rank, and a row an image.

use std::io::Write;

use super::Report;
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

/// Writes one row an image, with a head row. Control characters in names and messages are escaped.
///
/// # Errors
/// The writer's.
pub fn write_images(report: &Report, writer: impl Write) -> Result<(), ::csv::Error> {
    let mut csv = ::csv::Writer::from_writer(writer);
    for image in &report.images {
        let mut image = image.clone();
        image.input = printable(&image.input);
        image.output = printable(&image.output);
        image.error = image.error.as_deref().map(printable);
        csv.serialize(image)?;
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
        let report = super::super::tests::report();
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
