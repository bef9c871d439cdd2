//! Running a study on a cluster: a Slurm job for each configuration, and what `sacct` knows of them
//! afterwards.

use std::time::{Duration, Instant};

use super::folder::{StudyFolder, StudySpec, write_text};
use super::record::{COMPLETED, RunRecord};
use crate::console;
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::{self, BatchScript, Request, Submission};
use crate::text::counted;

/// How long between two questions to Slurm.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long accounting may lag behind the queue before a job that has left it is given up.
const ACCOUNTING_LAG: Duration = Duration::from_secs(30);

/// Submits every configuration that is neither done nor has a job in progress, with what `asked` requests for
/// each and ranks that `srun --mpi` starts so. One that Slurm refuses is recorded as failed, with the reason;
/// the next call submits it again.
///
/// # Errors
/// A sentence when a script cannot be written or there is no `sbatch`.
pub(crate) fn submit(
    folder: &StudyFolder,
    spec: &StudySpec,
    asked: &Request,
    mpi_type: &str,
    quiet: bool,
) -> Result<(), String> {
    let scripts = folder.path().join("scripts");
    std::fs::create_dir_all(&scripts)
        .map_err(|error| format!("{}: cannot be made: {error}", scripts.display()))?;
    for configuration in spec.configurations() {
        let record = folder.read_record(&configuration)?;
        let under_way = record.is_some_and(|record| record.job_id.is_some() && !record.is_final());
        if folder.is_done(&configuration) || under_way {
            continue;
        }
        let run = folder.run(spec, &configuration);
        let script = BatchScript {
            name: "niimpi-scaling".to_owned(),
            request: Request {
                nodes: configuration.nodes,
                tasks_per_node: configuration.ranks / configuration.nodes,
                cpus_per_task: configuration.threads,
                ..asked.clone()
            },
            command: run.command()?,
            log: run.log.into(),
            remarks: vec![configuration.to_string()],
            mpi_type: mpi_type.to_owned(),
        };
        let path = scripts.join(format!("{}.sbatch", configuration.id()));
        write_text(&path, &script.render()?)?;
        let mut record = RunRecord {
            configuration,
            state: "PENDING".to_owned(),
            ..RunRecord::default()
        };
        match batch::submit(&path)? {
            Submission::Job(job_id) => {
                if !quiet {
                    console::note(format!("job {job_id}: {configuration}"));
                }
                record.job_id = Some(job_id);
            }
            Submission::Refused(reason) => {
                console::error(format!("{configuration}: Slurm refuses the job: {reason}"));
                record.state = "FAILED".to_owned();
                record.message = Some(reason);
            }
        }
        folder.write_record(&record)?;
    }
    Ok(())
}

/// Asks Slurm once for every job that has not ended. Returns how many are still under way.
///
/// # Errors
/// A sentence when `sacct` fails or a record cannot be written.
pub(crate) fn collect(folder: &StudyFolder, spec: &StudySpec, keep: bool) -> Result<usize, String> {
    let mut left = 0;
    for record in open(folder, spec)? {
        let Some(job_id) = &record.job_id else {
            left += 1;
            continue;
        };
        let accounting = Accounting::of_job(job_id)
            .map_err(|error| format!("how job {job_id} of the study ended is unknown: {error}"))?;
        match accounting.filter(Accounting::is_final) {
            Some(accounting) => {
                let output = folder.output(&record.configuration);
                folder.write_record(&ended(record, accounting))?;
                if !keep {
                    let _ = std::fs::remove_dir_all(output);
                }
            }
            None => left += 1,
        }
    }
    Ok(left)
}

/// The records of the runs that have not ended.
fn open(folder: &StudyFolder, spec: &StudySpec) -> Result<Vec<RunRecord>, String> {
    let mut open = Vec::new();
    for configuration in spec.configurations() {
        let record = folder.read_record(&configuration)?;
        open.extend(record.filter(|record| !record.is_final()));
    }
    Ok(open)
}

/// Waits until every job has ended.
///
/// # Errors
/// A sentence when Slurm cannot be asked.
pub(crate) fn wait(
    folder: &StudyFolder,
    spec: &StudySpec,
    keep: bool,
    quiet: bool,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<bool, String> {
    let mut told = usize::MAX;
    let mut gone_since: Option<Instant> = None;
    loop {
        let left = collect(folder, spec, keep)?;
        if left == 0 {
            return Ok(true);
        }
        if left != told && !quiet {
            console::note(format!("{} pending or running", counted(left, "job")));
        }
        told = left;
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(false);
        }
        // A cluster whose accounting does not take a job's end up would be waited for endlessly.
        let is_queued = |job_id: &String| batch::is_queued(job_id) != Some(false);
        if open(folder, spec)?
            .iter()
            .any(|record| record.job_id.as_ref().is_some_and(is_queued))
        {
            gone_since = None;
        } else if gone_since.get_or_insert_with(Instant::now).elapsed() > ACCOUNTING_LAG {
            give_up(folder, spec)?;
            return Ok(true);
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Jobs that have left the queue and of which accounting never told the end: their report decides.
fn give_up(folder: &StudyFolder, spec: &StudySpec) -> Result<(), String> {
    for mut record in open(folder, spec)? {
        let has_report = folder.report(&record.configuration).is_file();
        record.state = if has_report { COMPLETED } else { "UNKNOWN" }.to_owned();
        record.message = Some("Slurm's accounting does not know how the job ended".to_owned());
        folder.write_record(&record)?;
    }
    Ok(())
}

fn ended(record: RunRecord, accounting: Accounting) -> RunRecord {
    let message = (accounting.state != COMPLETED).then(|| {
        format!(
            "job {} ended {} (exit code {})",
            accounting.job_id, accounting.state, accounting.exit_code
        )
    });
    RunRecord {
        state: accounting.state.clone(),
        wall_s: Some(accounting.elapsed_s),
        message,
        accounting: Some(accounting),
        ..record
    }
}
