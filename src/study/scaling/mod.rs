//! Scaling studies: the same smoothing with more and more images, ranks and threads, measured and tabulated.
//!
//! | file | what it holds |
//! |---|---|
//! | `folder` | what is varied, the configurations that follow, and the study's folder |
//! | `record` | one cell of a study, and what became of its run |
//! | `local` | runs every configuration on this machine |
//! | `batch` | submits every configuration to Slurm, and collects what has ended |
//! | `tables` | the runs as tables: CSV and Markdown |
//! | `plots` | the runs as charts |
//!
//! A study is its folder: each run leaves a record there at once, and a study that is started again does what
//! is missing.

pub(crate) mod batch;
pub(crate) mod folder;
pub(crate) mod local;
pub(crate) mod plots;
pub(crate) mod record;
pub(crate) mod tables;

use folder::StudyFolder;

/// Writes tables and plots of all runs that the folder holds; returns the text of the Markdown tables, and
/// whether every run that was made ended well.
///
/// # Errors
/// A sentence when a file cannot be read or written.
pub(crate) fn write_results(folder: &StudyFolder) -> Result<(String, bool), String> {
    let spec = folder.read_spec()?;
    let runs = folder.read_runs(&spec)?;
    let text = tables::write(folder.path(), &spec, &runs)?;
    plots::write(folder.path(), &spec, &runs)?;
    let completed = runs.iter().all(|run| run.record.state == record::COMPLETED);
    Ok((text, completed))
}
