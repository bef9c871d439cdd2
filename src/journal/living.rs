//! Whether the run that wrote a journal is still alive.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Line, RunLine, past};
use crate::atomic_file::file_system_now;
use crate::slurm::running::Queue;
use crate::slurm::{self, Job};

/// A live rank writes a line every 30 s. If neither its process nor its job can be checked, a run counts as
/// dead when its journal has not grown for this long.
const SILENT_FOR: Duration = Duration::from_secs(90);

/// The journal of a run's rank 0. A run is alive while its rank 0 is.
#[derive(Clone, Debug)]
pub(crate) struct RunJournal {
    path: PathBuf,
    pub(crate) run: RunLine,
    /// Whether there is more than the first line, which means that the run has passed its last check.
    pub(crate) works: bool,
    pub(crate) closed: bool,
    modified: SystemTime,
}

/// Whether a run is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Dead,
    Living,
    /// Its heartbeat decides: it is dead if it writes nothing for this long.
    DeadAfter(Duration),
}

/// The journals of all runs below an output folder.
///
/// # Errors
/// The error of the file system if the folder cannot be listed.
pub(crate) fn runs(output: &Path) -> io::Result<Vec<RunJournal>> {
    let paths = past::journal_paths(output)?;
    let roots = paths.into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with("-00000.jsonl")
    });
    Ok(roots.filter_map(RunJournal::read).collect())
}

/// The jobs of these runs in Slurm's queue.
pub(crate) fn queue(runs: &[RunJournal]) -> Queue {
    Queue::of(runs.iter().filter_map(|journal| journal.run.slurm_job.as_deref()))
}

impl RunJournal {
    /// `None` if the journal does not exist or has no first line yet.
    fn read(path: PathBuf) -> Option<Self> {
        const TAIL_BYTES: u64 = 4096;
        const MOST_FIRST_LINE_BYTES: u64 = 1 << 20;
        let file = File::open(&path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut file = BufReader::new(file);
        let mut first = Vec::new();
        let read = (&mut file)
            .take(MOST_FIRST_LINE_BYTES)
            .read_until(b'\n', &mut first);
        let length = read.ok()? as u64;
        let Some(Ok(Line::Run(run))) = Line::parse(&first) else {
            return None;
        };
        let tail_at = metadata.len().saturating_sub(TAIL_BYTES).max(length);
        file.seek(SeekFrom::Start(tail_at)).ok()?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
        let last = tail.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty());
        let closed = matches!(last.and_then(Line::parse), Some(Ok(Line::Close { .. })));
        Some(Self {
            works: metadata.len() > length,
            modified: metadata.modified().ok()?,
            closed,
            run,
            path,
        })
    }

    /// The journal as it is now; `None` if it does not exist or is closed.
    pub(crate) fn again(&self) -> Option<Self> {
        Self::read(self.path.clone()).filter(|journal| !journal.closed)
    }

    /// Whether something was written since the earlier check.
    pub(crate) fn has_grown_since(&self, before: &Self) -> bool {
        self.modified != before.modified
    }

    /// Whether the run is alive, by its process, by its Slurm job, or else by its last line. A suspended
    /// Slurm job is silent but alive.
    pub(crate) fn life(&self) -> Life {
        self.life_in(&queue(std::slice::from_ref(self)))
    }

    /// The same, with one query for several runs.
    pub(crate) fn life_in(&self, queue: &Queue) -> Life {
        let run = &self.run;
        if let Some(lives) = run.process.as_ref().and_then(|process| process.lives(run.pid)) {
            return if lives { Life::Living } else { Life::Dead };
        }
        if let Some(runs) = self.runs_in_slurm(queue) {
            return if runs { Life::Living } else { Life::Dead };
        }
        let silent_for = crate::fault::wait_limit(SILENT_FOR);
        let folder = self.path.parent();
        let age = folder
            .and_then(file_system_now)
            .and_then(|now| now.duration_since(self.modified).ok())
            .unwrap_or_default();
        let left = silent_for.saturating_sub(age);
        match left.is_zero() {
            true => Life::Dead,
            false => Life::DeadAfter(left),
        }
    }

    /// Slurm's state of the run; `None` outside Slurm, or if Slurm does not respond.
    fn runs_in_slurm(&self, queue: &Queue) -> Option<bool> {
        let run = &self.run;
        let job_id = run.slurm_job.as_deref()?;
        let restarts = |job: &Job| {
            job.restart_count
                .as_deref()
                .map_or(Some(0), |text| text.parse().ok())
        };
        match slurm::Job::from_env() {
            Some(own) if own.job_id == job_id => {
                if run.slurm_restarts.unwrap_or(0) < restarts(&own)? {
                    return Some(false);
                }
                queue.step_runs(&own, run.slurm_step.as_deref()?)
            }
            _ => queue.job_runs(job_id),
        }
    }
}
