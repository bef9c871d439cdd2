//! The request: what to ask of Slurm for a prediction, with its margin, and the batch script.

use crate::job::memory::WORKER_BYTES;
use std::ffi::OsString;

use super::predict::Prediction;
use crate::slurm::batch::{BatchScript, Request};
use crate::text::duration;

/// Time is asked for with this margin over the upper end of the interval, and a minute.
pub const TIME_MARGIN: f64 = 0.25;
const TIME_MARGIN_S: f64 = 60.0;
/// Memory is asked for with this margin over what is expected.
pub const MEMORY_MARGIN: f64 = 0.2;
/// What the program sets aside for each worker when it judges whether an image fits into its limit.

/// What to ask for. `largest_bytes` is the most that a worker holds for one image.
pub fn request(prediction: &Prediction, largest_bytes: u64, partition: Option<&str>) -> Request {
    let setting = prediction.setting;
    let threads = setting.threads as u64;
    // A rank admits an image only if it fits beside a reserve for each worker.
    let admitted = prediction.rss_per_rank_bytes + threads * (WORKER_BYTES + largest_bytes);
    let held = prediction.rss_per_rank_bytes as f64 * (1.0 + MEMORY_MARGIN);
    let rank_bytes = (held as u64).max(admitted);
    let seconds =
        prediction.elapsed_high_s * (1.0 + TIME_MARGIN) + prediction.launch_s + TIME_MARGIN_S;
    Request {
        nodes: setting.nodes,
        tasks_per_node: setting.ranks_per_node(),
        cpus_per_task: setting.threads,
        mem_per_cpu_mib: Some(rank_bytes.div_ceil(threads).div_ceil(1 << 20)),
        time_min: Some((seconds / 60.0).ceil() as u64),
        partition: partition.map(str::to_owned),
    }
}

/// What the script runs.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program.
    pub program: OsString,
    /// What follows `niimpi smooth`.
    pub words: Vec<OsString>,
    /// Where the report goes.
    pub report: OsString,
    /// How `srun` starts the ranks.
    pub mpi_type: String,
    /// Images planned for.
    pub images: usize,
}

/// The batch script for a request.
pub fn script(prediction: &Prediction, request: &Request, job: &Job) -> BatchScript {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let cpus = request.cpus_per_task as u64;
    let asked_mib = request.mem_per_cpu_mib.unwrap_or(0) * cpus;
    let remarks = vec![
        format!(
            "Written by niimpi plan {} for {} images.",
            env!("CARGO_PKG_VERSION"),
            job.images
        ),
        format!(
            "Time: {} expected, {} to {} with 90 % probability; asked for is the latter, {:.0} % and a minute.",
            duration(prediction.elapsed_s),
            duration(prediction.elapsed_low_s),
            duration(prediction.elapsed_high_s),
            TIME_MARGIN * 100.0
        ),
        format!(
            "Memory: {:.0} MiB a rank expected{}; asked for are {asked_mib} MiB a rank: {:.0} % more, or what a rank sets aside \
             to admit its largest images, whichever is more.",
            mib(prediction.rss_per_rank_bytes),
            if prediction.list_bytes >> 20 > 0 {
                format!(
                    ", {:.0} MiB of it for the list of images as rank 0 holds it when it writes the report",
                    mib(prediction.list_bytes)
                )
            } else {
                String::new()
            },
            MEMORY_MARGIN * 100.0
        ),
        "Submitted again after a time limit, --resume does what is left.".to_owned(),
    ];
    let mut command = vec![job.program.clone(), "smooth".into()];
    command.extend(job.words.iter().cloned());
    command.extend([
        "--threads".into(),
        prediction.setting.threads.to_string().into(),
    ]);
    command.extend(["--resume".into(), "--report".into(), job.report.clone()]);
    BatchScript {
        name: "niimpi".to_owned(),
        request: request.clone(),
        log: "niimpi-%j.log".into(),
        remarks,
        mpi_type: job.mpi_type.clone(),
        command,
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::Machine;
    use super::super::predict::tests::{predictions, setting};
    use super::*;

    #[test]
    fn the_request_holds_the_prediction_with_its_margin() {
        let mut prediction =
            predictions(&Machine::default(), 1, 4000, &[setting(2, 8, 2)]).remove(0);
        prediction.elapsed_high_s = 1000.0;
        prediction.launch_s = 10.0;
        prediction.rss_per_rank_bytes = 1 << 30;
        prediction.list_bytes = 0;
        let request = request(&prediction, 100 << 20, Some("cpu24"));
        assert_eq!(
            (request.nodes, request.tasks_per_node, request.cpus_per_task),
            (2, 4, 2)
        );
        // 1000 · 1.25 + 10 + 60 s, in whole minutes.
        assert_eq!(request.time_min, Some(22));
        // 1 GiB + 2 · (12 + 100) MiB, on two CPUs.
        assert_eq!(request.mem_per_cpu_mib, Some(624));
        let job = Job {
            program: "niimpi".into(),
            words: vec!["data".into(), "--sigma=2".into()],
            report: "r.json".into(),
            mpi_type: "pmix".to_owned(),
            images: 4000,
        };
        let text = script(&prediction, &request, &job).render().unwrap();
        for line in [
            "#SBATCH --nodes=2",
            "#SBATCH --ntasks-per-node=4",
            "#SBATCH --cpus-per-task=2",
            "#SBATCH --mem-per-cpu=624M",
            "#SBATCH --time=00:22:00",
            "#SBATCH --partition=cpu24",
            "srun --mpi=pmix --kill-on-bad-exit=1 niimpi smooth data --sigma=2 --threads 2 --resume --report r.json",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
