//! Checks of the folders that a run writes to, before it writes anything.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Config;
use crate::comm::ROOT;
use crate::filter::{Filter, OutputType, Outside};
use crate::image_io;
use crate::image_io::file_name::is_image_name;
use crate::images::{ImageEntry, MaskChoice, resolve};
use crate::job::Masking;
use crate::report::{self, destination};
use crate::{fault, journal};

/// Refuses an output folder or a report that cannot be written.
pub(super) fn check_folders(config: &Config) -> Result<(), String> {
    let output = &config.list.output;
    match std::fs::metadata(output) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(format!(
                "--output {}: is a file; give a folder, which is made if it is missing",
                output.display()
            ));
        }
        Ok(_) => writable(output, "--output")?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(format!("--output {}: {error}", output.display()));
        }
    }
    let mut all = Vec::new();
    if let Some(report) = &config.report {
        let mut destinations = vec![(report.clone(), destination::REPORT)];
        if config.report_table {
            destinations.push((report.with_extension("txt"), destination::TABLE));
        }
        if config.report_csv {
            destinations.push((report.with_extension("ranks.csv"), destination::RANKS_CSV));
            destinations.push((report.with_extension("images.csv"), destination::IMAGES_CSV));
        }
        check_report("--report", report, "report.json", &destinations)?;
        all.extend(destinations);
    }
    if let Some(page) = &config.report_html {
        let destinations = [(page.clone(), destination::HTML)];
        check_report("--report-html", page, "report.html", &destinations)?;
        all.extend(destinations);
    }
    each_a_file_of_its_own(output, all.into_iter().map(|(path, _)| path))
}

/// Refuses two files of a report with the same path, and one with that of the output folder.
fn each_a_file_of_its_own(output: &Path, files: impl Iterator<Item = PathBuf>) -> Result<(), String> {
    let mut taken = BTreeSet::from([resolve(output)]);
    for file in files {
        if !taken.insert(resolve(&file)) {
            return Err(format!(
                "{}: is the name of two outputs of this run (the folder of the results, the report, its \
                 table, its CSV files, its page); give each its own name, such as --report run.json and \
                 --report-html run.html",
                file.display()
            ));
        }
    }
    Ok(())
}

/// Checks that the files of a report can be written, and that they replace only earlier ones. `example` is a
/// name for messages.
fn check_report(
    option: &str,
    report: &Path,
    example: &str,
    destinations: &[(PathBuf, &str)],
) -> Result<(), String> {
    let shown = report.display();
    let folder = match report.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if report.is_dir() {
        return Err(format!(
            "{option} {shown}: is a folder; give a file name in it, such as {}",
            report.join(example).display()
        ));
    }
    if report.file_name().is_some_and(is_image_name) {
        return Err(format!(
            "{option} {shown}: has the name of an image; give another, such as {example}"
        ));
    }
    if !folder.is_dir() {
        return Err(format!(
            "{option} {shown}: there is no folder {}; make it first",
            folder.display()
        ));
    }
    for (path, mark) in destinations {
        destination::check(option, path, mark)?;
    }
    let place = if report::is_device(report) { report } else { folder };
    writable(place, option)
}

/// Refuses options that the filter does not take together, a mask for all images that cannot be read, and a
/// result that cannot hold what is to be outside.
pub(super) fn check_filter(config: &Config) -> Result<(), String> {
    let filter = &config.job.filter;
    let Some(Masking { choice, outside }) = &config.job.mask else {
        return filter.validate().map_err(|error| format!("--{error}"));
    };
    filter.validate_masked().map_err(|error| format!("--{error}"))?;
    if let MaskChoice::File(path) = choice {
        image_io::probe(path).map_err(|error| format!("--mask {error}"))?;
    }
    match config.job.output.output_type {
        OutputType::As(datatype) if *outside == Some(Outside::Nan) && !datatype.is_float() => Err(format!(
            "--outside nan: {datatype} has no NaN; write float32, or say --outside zero or keep"
        )),
        _ => Ok(()),
    }
}

/// How long a rank waits for another rank's file: longer than network file systems cache attributes (NFS: up
/// to 60 s).
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);

/// Waits until this rank sees the root's journal below its own --output. Local.
///
/// # Errors
/// A message for the user if it does not, because the rank writes to another folder than the root.
pub(super) fn see_roots_journal(output: &Path, run: &str, rank: usize, host: &str) -> Result<(), String> {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let journal = journal::file_of(output, run, ROOT);
    let limit = fault::wait_limit(VISIBLE_WITHIN);
    let started = Instant::now();
    // Opening queries the server; a `stat` alone can be answered from a cache.
    while File::open(&journal).is_err() {
        if started.elapsed() >= limit {
            return Err(format!(
                "--output {}: rank {rank} on {host} does not see there what rank {ROOT} wrote, so it is \
                 another folder, such as a node's own disk. No image was written.\n  Choose a folder that \
                 all nodes share",
                output.display()
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Refuses links to folders below the output folder: results would be written somewhere else.
pub(super) fn refuse_links(config: &Config, entries: &[ImageEntry]) -> Result<(), String> {
    if config.list.follow_links {
        return Ok(());
    }
    let output = &config.list.output;
    let mut folders = BTreeSet::from([output.join(journal::FOLDER)]);
    for folder in entries.iter().filter_map(|entry| entry.output.parent()) {
        let below = folder.ancestors().take_while(|above| above != output);
        for folder in below {
            // Its parent folders were checked, too.
            if !folder.starts_with(output) || !folders.insert(folder.to_owned()) {
                break;
            }
        }
    }
    let is_link =
        |folder: &&PathBuf| std::fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_symlink());
    match folders.iter().find(is_link) {
        None => Ok(()),
        Some(link) => Err(format!(
            "--output {}: its folder {} is a link, so results would be written somewhere else; remove the \
             link, or use --follow-links",
            output.display(),
            link.display()
        )),
    }
}

fn writable(folder: &Path, option: &str) -> Result<(), String> {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        format!(
            "{option} {}: cannot be written to: {}; check its permissions or choose another",
            folder.display(),
            error.desc()
        )
    })
}
