//! The request to Slurm for a prediction, with its margins and the reasons for them.

use super::predict::Prediction;
use crate::job::memory::WORKER_BYTES;
use crate::slurm::batch::Request;
use crate::text::{duration, mib};

/// Margin of the requested time over the upper end of the interval. A minute is added.
pub(crate) const TIME_MARGIN: f64 = 0.25;
const TIME_MARGIN_S: f64 = 60.0;
/// Margin of the requested memory over the expected memory.
pub(crate) const MEMORY_MARGIN: f64 = 0.2;

/// The request. `largest_bytes` is the largest memory that a worker needs for one image.
pub(crate) fn request(prediction: &Prediction, largest_bytes: u64, partition: Option<&str>) -> Request {
    let layout = prediction.layout;
    let seconds = prediction.elapsed_high_s * (1.0 + TIME_MARGIN) + prediction.launch_s + TIME_MARGIN_S;
    Request {
        nodes: layout.nodes,
        tasks_per_node: layout.ranks_per_node(),
        cpus_per_task: layout.threads,
        mem_per_cpu_mib: Some(mib_per_cpu(
            prediction.rss_per_rank_bytes,
            layout.threads,
            largest_bytes,
        )),
        time_min: Some((seconds / 60.0).ceil() as u64),
        partition: partition.map(str::to_owned),
    }
}

/// The memory to request for each CPU of a rank that uses so many bytes.
pub(crate) fn mib_per_cpu(used_bytes: u64, threads: usize, largest_bytes: u64) -> u64 {
    let threads = threads as u64;
    // A rank starts an image only if it fits in addition to a reserve for each worker.
    let admitted = used_bytes + threads * (WORKER_BYTES + largest_bytes);
    let held = used_bytes as f64 * (1.0 + MEMORY_MARGIN);
    (held as u64).max(admitted).div_ceil(threads).div_ceil(1 << 20)
}

/// The request as options of `sbatch`.
pub(crate) fn in_words(request: &Request) -> String {
    let minutes = request.time_min.unwrap_or(0);
    format!(
        "--nodes={} --ntasks-per-node={} --cpus-per-task={} --mem-per-cpu={}M --time={:02}:{:02}:00",
        request.nodes,
        request.tasks_per_node,
        request.cpus_per_task,
        request.mem_per_cpu_mib.unwrap_or(0),
        minutes / 60,
        minutes % 60
    )
}

/// The comment lines of the script that explain its figures.
pub(crate) fn remarks(prediction: &Prediction, request: &Request, images: usize) -> Vec<String> {
    let requested_mib = request.mem_per_cpu_mib.unwrap_or(0) * request.cpus_per_task as u64;
    let [expected, low, high] = prediction.job_s().map(duration);
    let list = match prediction.list_bytes >> 20 {
        0 => String::new(),
        list_mib => format!(", {list_mib} MiB of it for the list of images on rank 0"),
    };
    vec![
        format!(
            "Written by niimpi plan {} for {images} images.",
            env!("CARGO_PKG_VERSION")
        ),
        format!(
            "Time: {expected} expected, {low} to {high} with 90 % probability. Requested: the upper end plus \
            {:.0} % and a minute.",
            TIME_MARGIN * 100.0
        ),
        format!(
            "Memory: {} MiB per rank expected{list}. Requested: {requested_mib} MiB per rank. This is \
            {:.0} % more, or enough for the reserve that a rank needs for its largest images.",
            mib(prediction.rss_per_rank_bytes),
            MEMORY_MARGIN * 100.0
        ),
        "After a time limit, submit this script again: --resume continues.".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::predict::tests::layout;
    use super::*;

    /// A rank of 20 MiB is not admitted with 24 MiB, although that is 20 % more.
    #[test]
    fn a_small_rank_gets_its_reserve() {
        assert_eq!(mib_per_cpu(20 << 20, 1, 0), 32);
        assert_eq!(mib_per_cpu(200 << 20, 1, 0), 240);
    }

    #[test]
    fn the_request_is_the_prediction_plus_margins() {
        let prediction = Prediction {
            layout: layout(2, 8, 2),
            elapsed_high_s: 1000.0,
            launch_s: 10.0,
            rss_per_rank_bytes: 1 << 30,
            ..Prediction::default()
        };
        let request = request(&prediction, 100 << 20, Some("cpu24"));
        // 1000 · 1.25 + 10 + 60 s; 1 GiB + 2 · (12 + 100) MiB, on two CPUs.
        assert_eq!(
            in_words(&request),
            "--nodes=2 --ntasks-per-node=4 --cpus-per-task=2 --mem-per-cpu=624M --time=00:22:00"
        );
    }
}
