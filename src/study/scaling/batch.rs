//! Runs a study on a cluster: submits a Slurm job for each configuration and reads its accounting from
//! `sacct`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::folder::{StudyFolder, StudySpec, write_text};
use super::record::{COMPLETED, RunRecord};
use crate::console;
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::{self, BatchScript, Request, Submission};
use crate::text::counted;

/// Time between two queries of Slurm.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Time for accounting to record the end of a job that has left the queue.
const ACCOUNTING_LAG: Duration = Duration::from_secs(30);

/// Submits every configuration that is neither done nor has a job in progress. `asked` contains the parts of
/// the request that are the same for all, `mpi_type` the value of `srun --mpi`. A job that Slurm refuses is
/// recorded as failed, with the reason; the next call submits it again.
pub(crate) fn submit(
    folder: &StudyFolder,
    spec: &StudySpec,
    asked: &Request,
    mpi_type: &str,
    quiet: bool,
) -> Result<(), String> {
    let scripts = folder.path().join("scripts");
    std::fs::create_dir_all(&scripts)
        .map_err(|error| format!("{}: cannot be created: {error}", scripts.display()))?;
    for configuration in spec.configurations() {
        let record = folder.read_record(&configuration)?;
        let in_progress = record.is_some_and(|record| record.job_id.is_some() && !record.is_final());
        if folder.is_done(&configuration) || in_progress {
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

/// Queries Slurm once for every job that has not ended. Returns the number of jobs that are still in
/// progress.
pub(crate) fn collect(folder: &StudyFolder, spec: &StudySpec, keep: bool) -> Result<usize, String> {
    let mut left = 0;
    for record in open(folder, spec)? {
        let Some(job_id) = &record.job_id else {
            left += 1;
            continue;
        };
        let accounting = Accounting::of_job(job_id)
            .map_err(|error| format!("cannot find out how job {job_id} of the study ended: {error}"))?;
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
pub(crate) fn wait(
    folder: &StudyFolder,
    spec: &StudySpec,
    keep: bool,
    quiet: bool,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<bool, String> {
    let mut reported = usize::MAX;
    let mut gone_since: Option<Instant> = None;
    // Jobs whose reason for waiting was printed.
    let mut warned = HashSet::new();
    loop {
        let left = collect(folder, spec, keep)?;
        if left == 0 {
            return Ok(true);
        }
        if left != reported && !quiet {
            console::note(format!("{} pending or running", counted(left, "job")));
        }
        reported = left;
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(false);
        }
        let jobs = open(folder, spec)?.into_iter().filter_map(|record| record.job_id);
        let queue: Vec<_> = jobs.map(|job_id| (batch::in_queue(&job_id), job_id)).collect();
        for (queued, job_id) in &queue {
            let waits_for = queued
                .as_ref()
                .and_then(|queued| queued.as_ref()?.waits_for.as_ref());
            if let Some(reason) = waits_for.filter(|_| warned.insert(job_id.clone())) {
                console::note(format!(
                    "job {job_id} is pending ({reason}); if Slurm cannot start it, end the wait with \
                     scancel {job_id}"
                ));
            }
        }
        // Without this limit, the loop would never end on a cluster whose accounting misses the end of a job.
        if queue.iter().any(|(queued, _)| *queued != Some(None)) {
            gone_since = None;
        } else if gone_since.get_or_insert_with(Instant::now).elapsed() > ACCOUNTING_LAG {
            give_up(folder, spec)?;
            return Ok(true);
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Closes the records of jobs that have left the queue without an end in the accounting. A job with a report
/// counts as completed.
fn give_up(folder: &StudyFolder, spec: &StudySpec) -> Result<(), String> {
    for mut record in open(folder, spec)? {
        let has_report = folder.report(&record.configuration).is_file();
        record.state = if has_report { COMPLETED } else { "UNKNOWN" }.to_owned();
        record.message = Some("Slurm's accounting has no record of the end of the job".to_owned());
        folder.write_record(&record)?;
    }
    Ok(())
}

fn ended(record: RunRecord, accounting: Accounting) -> RunRecord {
    let message = (accounting.state != COMPLETED).then(|| {
        format!(
            "job {} ended as {} (exit code {})",
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
