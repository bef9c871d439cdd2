//! Rank 0's own work: listing, sharing out, gathering and reporting grow with the list, not with anyone's share. They are
//! measured here with the program's own functions on made-up records, so that 10⁶ images need not be on a disk for it.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use crate::comm;
use crate::images::ImageEntry;
use crate::images::probe::{ImageFacts, interleave};
use crate::job::outcome::{End, InputFacts, Outcome};
use crate::partition::{Strategy, partition};
use crate::report::{FilterDescription, RankRecord, Report, RunFacts};
use crate::resources;
use crate::volume::Datatype;

/// What rank 0 does for every image of the list, in seconds and bytes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RootWork {
    /// Before the first image: sharing out and sending the plan, listing and looking included.
    pub before_s: f64,
    /// Of these, looking at headers, which all ranks share.
    pub look_s: f64,
    /// After the last image, until the records are together.
    pub gather_s: f64,
    /// After that: putting the report together and writing it.
    pub report_s: f64,
    /// Answering one request of the dynamic strategy.
    pub request_s: f64,
    /// Bytes that rank 0 holds for an image when it holds the most: what it knows of the image before the run, or its entry,
    /// its record and its row of the report after it.
    pub bytes: f64,
}

/// Fewest and most images that are made up to measure on.
const MEASURED_ON: std::ops::RangeInclusive<usize> = 50_000..=1_000_000;
/// Ranks among which they are shared out.
const RANKS: usize = 64;

/// Measures on as many images as are planned for, but 50,000 at least and a million at most. `name_bytes` are the bytes of an
/// input's and of an output's name with their folders; `list_s` and `look_s` what listing and looking at a header took, in
/// seconds an image, which depend on the disk. Gives freed memory back to the system and lets the process's peak be counted
/// anew.
pub fn measure(images: usize, name_bytes: [usize; 2], list_s: f64, look_s: f64) -> RootWork {
    let count = images.clamp(*MEASURED_ON.start(), *MEASURED_ON.end());
    let each = |begun: Instant| begun.elapsed().as_secs_f64() / count as f64;
    let mut memory = MemoryMeter::start();

    let begun = Instant::now();
    let entries: Vec<ImageEntry> = (1..=count)
        .map(|index| ImageEntry {
            index,
            input: name_of_length(index, name_bytes[0]),
            output: name_of_length(index, name_bytes[1]),
        })
        .collect();
    let looked_at = vec![ImageFacts::default(); count];
    let making_s = each(begun);
    let begun = Instant::now();
    let gathered = looked_at
        .chunks(count.div_ceil(RANKS))
        .map(comm::encode)
        .collect::<Vec<_>>();
    drop(looked_at);
    let looked_at: Vec<ImageFacts> =
        interleave(gathered.iter().map(|part| comm::decode(part)).collect());
    memory.look();
    drop(looked_at);
    let costs: Vec<f64> = (0..count)
        .map(|place| 1.0 + (place % 7) as f64 * 0.1)
        .collect();
    let shares = partition(Strategy::Size, &costs, RANKS);
    let message = comm::encode(&(&entries, &shares));
    let received: (Vec<ImageEntry>, Vec<Vec<usize>>) = comm::decode(&message);
    let before_s = each(begun) + list_s;
    memory.look();
    drop((message, received));

    let records: Vec<Vec<u8>> = shares
        .iter()
        .enumerate()
        .map(|(rank, share)| comm::encode(&record(rank, share)))
        .collect();
    let begun = Instant::now();
    // Each message goes as soon as it is read, as in a run.
    let records: Vec<RankRecord> = records
        .into_iter()
        .map(|bytes| comm::decode(&bytes))
        .collect();
    let gather_s = each(begun);

    drop((costs, shares));
    let begun = Instant::now();
    let names = entries.iter().map(|entry| {
        (
            entry.index,
            entry.input.display().to_string(),
            entry.output.display().to_string(),
        )
    });
    let report = Report::assemble(facts(), names, records);
    memory.look();
    let bytes = memory.most_bytes as f64 / count as f64;
    let written = serde_json::to_writer_pretty(std::io::BufWriter::new(std::io::sink()), &report);
    debug_assert!(written.is_ok());
    let report_s = each(begun);

    let begun = Instant::now();
    for place in 0..count {
        let request = comm::encode(&std::hint::black_box(1_usize));
        let wanted: usize = comm::decode(&request);
        std::hint::black_box(comm::encode(&(wanted, vec![place])));
    }
    let request_s = each(begun);
    tracing::debug!(
        "rank 0's work was measured on {count} images (making them up took {making_s:.1e} s each)"
    );
    RootWork {
        before_s,
        look_s,
        gather_s,
        report_s,
        request_s,
        bytes,
    }
}

impl RootWork {
    /// Seconds before the first image, for so many images and ranks.
    pub fn setup_s(&self, images: usize, ranks: usize, threads_looking: usize) -> f64 {
        let lookers = (ranks * threads_looking.clamp(1, 8)).max(1) as f64;
        images as f64 * (self.before_s + self.look_s / lookers)
    }

    /// Seconds after the last image until the records are together.
    pub fn finish_s(&self, images: usize) -> f64 {
        images as f64 * self.gather_s
    }
}

/// Tells the most memory that the process held beyond what it held at first.
struct MemoryMeter {
    at_first_bytes: u64,
    /// Whether the kernel tells the peak since then; if not, what is held at each look stands for it.
    peak_is_told: bool,
    most_bytes: u64,
}

impl MemoryMeter {
    fn start() -> Self {
        resources::release_freed_memory();
        let peak_is_told = resources::forget_peak_rss();
        Self {
            at_first_bytes: resources::rss_bytes(),
            peak_is_told,
            most_bytes: 0,
        }
    }

    fn look(&mut self) {
        let held = if self.peak_is_told {
            resources::peak_rss_bytes()
        } else {
            resources::rss_bytes()
        };
        let more = held.saturating_sub(self.at_first_bytes);
        self.most_bytes = self.most_bytes.max(more);
    }
}

/// A path of so many bytes, or of the index's digits where these are more, in as much memory as that takes.
fn name_of_length(index: usize, bytes: usize) -> PathBuf {
    let mut name = String::with_capacity(bytes);
    // Writing to a string does not fail.
    let _ = write!(name, "{index:0>bytes$}");
    PathBuf::from(name)
}

fn record(rank: usize, share: &[usize]) -> RankRecord {
    let images = share
        .iter()
        .map(|&place| Outcome {
            index: place + 1,
            rank,
            start_s: place as f64,
            input: InputFacts {
                bytes: 1_000_000,
                datatype: Some(Datatype::Int16),
                voxels: 900_000,
                ..InputFacts::default()
            },
            bytes_out: 1_000_000,
            end: End::Done(Vec::new()),
            ..Outcome::default()
        })
        .collect();
    RankRecord {
        rank,
        host: "node001".to_owned(),
        threads: 1,
        cpus: 1,
        elapsed_s: 1.0,
        cpu_s: 1.0,
        max_rss_bytes: 20 << 20,
        idle_s: None,
        cpu_model: String::new(),
        images,
    }
}

fn facts() -> RunFacts {
    RunFacts {
        command: Vec::new(),
        interrupted: false,
        started: std::time::UNIX_EPOCH,
        elapsed_s: 1.0,
        cpus: None,
        mpi: String::new(),
        slurm: None,
        sync: None,
        filter: FilterDescription {
            name: "gaussian".to_owned(),
            sigma_vox: vec![2.0; 3],
            fwhm_mm: Vec::new(),
            boundary: "reflect".to_owned(),
            cval: 0.0,
            truncate: 4.0,
            radius_vox: vec![8; 3],
            output_type: "same".to_owned(),
            round: "truncate".to_owned(),
            nan: "propagate".to_owned(),
        },
        options: serde_json::Value::Null,
        strategy: Strategy::Size,
        shard: None,
        journals: None,
        resume: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_measured_and_small() {
        let work = measure(1, [60, 60], 1e-6, 1e-5);
        for (name, seconds) in [
            ("before", work.before_s),
            ("gather", work.gather_s),
            ("report", work.report_s),
            ("request", work.request_s),
        ] {
            assert!(seconds > 1e-9 && seconds < 1e-3, "{name}: {seconds}");
        }
        // Other tests of this process take and free memory meanwhile; tests/peak_memory.rs looks closer.
        assert!(work.bytes < 1e5, "{}", work.bytes);
        // Looking is shared among ranks, the rest is not.
        let one = work.setup_s(1000, 1, 1);
        let many = work.setup_s(1000, 10, 1);
        assert!((one - many - 1000.0 * 1e-5 * 0.9).abs() < 1e-9);
    }
}
