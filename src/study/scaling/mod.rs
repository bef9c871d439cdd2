//! Scaling studies: run the same filter with different numbers of images, ranks and threads, and tabulate
//! time and memory.
//!
//! | file | what it holds |
//! |---|---|
//! | `folder` | the varied numbers, the configurations, and the study's folder |
//! | `record` | a configuration and the outcome of its run |
//! | `local` | runs every configuration on this machine |
//! | `batch` | submits every configuration to Slurm, and collects the results |
//! | `tables` | the runs as tables: CSV and Markdown |
//! | `plots` | the runs as charts |
//!
//! A study keeps its state in its folder. Each run writes a record there when it ends, and the same command
//! continues the study.

pub(crate) mod batch;
pub(crate) mod folder;
pub(crate) mod local;
pub(crate) mod plots;
pub(crate) mod record;
pub(crate) mod tables;

use folder::StudyFolder;

/// Writes tables and plots of all runs in the folder. Returns the text of the Markdown tables, and whether
/// every run completed.
pub(crate) fn write_results(folder: &StudyFolder) -> Result<(String, bool), String> {
    let spec = folder.read_spec()?;
    let runs = folder.read_runs(&spec)?;
    let text = tables::write(folder.path(), &spec, &runs)?;
    plots::write(folder.path(), &spec, &runs)?;
    let completed = runs.iter().all(|run| run.record.state == record::COMPLETED);
    Ok((text, completed))
}
