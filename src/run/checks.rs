//! Checks of the folders that a run writes to, before it writes anything.

use std::io::ErrorKind;
use std::path::Path;

use super::{Config, SetupError};
use crate::image_io::file_name::is_image_name;
use crate::report::{self, destination};

/// Refuses an output folder or a report that cannot be written.
pub(super) fn check_folders(config: &Config) -> Result<(), SetupError> {
    let output = &config.list.output;
    match std::fs::metadata(output) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(SetupError(format!(
                "--output {}: is a file; give a folder, which is made if it is missing",
                output.display()
            )));
        }
        Ok(_) => writable(output, "--output")?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(SetupError(format!(
                "--output {}: {error}",
                output.display()
            )));
        }
    }
    if let Some(report) = &config.report {
        let folder = match report.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if report.is_dir() {
            return Err(SetupError(format!(
                "--report {}: is a folder; give a file name in it, such as {}",
                report.display(),
                report.join("report.json").display()
            )));
        }
        if report.file_name().is_some_and(is_image_name) {
            return Err(SetupError(format!(
                "--report {}: has the name of an image; give another, such as report.json",
                report.display()
            )));
        }
        if !folder.is_dir() {
            return Err(SetupError(format!(
                "--report {}: there is no folder {}; make it first",
                report.display(),
                folder.display()
            )));
        }
        let mut destinations = vec![(report.clone(), destination::REPORT)];
        if config.report_table {
            destinations.push((report.with_extension("txt"), destination::TABLE));
        }
        if config.report_csv {
            destinations.push((report.with_extension("ranks.csv"), destination::RANKS_CSV));
            destinations.push((report.with_extension("images.csv"), destination::IMAGES_CSV));
        }
        for (path, mark) in destinations {
            destination::check("--report", &path, mark).map_err(SetupError)?;
        }
        let place = if report::is_device(report) {
            report
        } else {
            folder
        };
        writable(place, "--report")?;
    }
    Ok(())
}

fn writable(folder: &Path, option: &str) -> Result<(), SetupError> {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        SetupError(format!(
            "{option} {}: cannot be written to: {}; check its permissions or choose another",
            folder.display(),
            error.desc()
        ))
    })
}
