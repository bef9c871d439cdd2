//! Measurements: reports → samples of images and of runs. Refuses those that cannot be fitted together.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;

use crate::filter::{OutputSpec, OutputType, Rounding};
use crate::report::{FilterDescription, ImageRow, Report, Status};
use crate::run::RESULTS_BEHIND_A_WORKER;
use crate::study::statistics::{Summary, median};
use crate::volume::Datatype;

/// Fewer images than this say nothing of how much they differ.
pub const FEWEST_IMAGES: usize = 5;

/// Others are mentioned when they kept more CPUs busy than this.
const BUSY_CPUS: f64 = 0.2;

/// What decides an image's cost besides its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageClass {
    /// The type of its voxels.
    pub datatype: Datatype,
    /// Whether it has an intensity scale, and so is computed in floating point.
    pub scaled: bool,
}

impl std::fmt::Display for ImageClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scaled = if self.scaled {
            " with an intensity scale"
        } else {
            ""
        };
        write!(f, "{}{scaled}", self.datatype)
    }
}

/// What is known of an image before it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageFeatures {
    /// Its class.
    pub class: ImageClass,
    /// Voxels of all its volumes.
    pub voxels: u64,
    /// Bytes of its file as it lies on the disk.
    pub file_bytes: u64,
    /// Bytes that a worker holds for it.
    pub memory_bytes: u64,
}

/// A stage's number in arrays of three: read, filter, write.
pub const STAGES: [&str; 3] = ["read", "filter", "write"];

/// One measured image.
#[derive(Clone, Copy, Debug)]
pub struct ImageSample {
    /// What it is.
    pub features: ImageFeatures,
    /// Seconds that each stage kept the worker: writing without the wait for the disk that goes on behind it.
    pub stage_s: [f64; 3],
    /// Which run.
    pub run: usize,
    /// Which worker of the run: its rank, and its number there.
    pub worker: (usize, usize),
    /// Whether it was the first of its worker, whose buffers were still empty.
    pub is_first: bool,
    /// Whether it took what further images would: neither the first, nor, of a worker that did many, before as many results
    /// as may wait for the disk behind it could do so.
    pub is_settled: bool,
}

impl ImageSample {
    /// Seconds that the image kept its worker.
    pub fn taken_s(&self) -> f64 {
        self.stage_s.iter().sum()
    }
}

/// One measured run.
#[derive(Clone, Debug)]
pub struct RunSample {
    /// Images done.
    pub images: usize,
    /// Ranks.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    /// Nodes.
    pub nodes: usize,
    /// CPUs of all nodes together; `None` where the report does not tell.
    pub cpus: Option<usize>,
    /// Results of a worker that were on their way to the disk behind it at the same time: the mean.
    pub results_behind: f64,
    /// From MPI's start until the first image was begun, seconds.
    pub setup_s: f64,
    /// Between two images of a worker, seconds: the mean.
    pub gap_s: f64,
    /// From the last image's end until the records were together, seconds.
    pub finish_s: f64,
    /// What launching took on top of the run's own time, seconds; `None` where nobody measured it.
    pub launch_s: Option<f64>,
    /// The most that one rank held, bytes.
    pub rss_bytes: u64,
    /// The most that one worker held for an image, bytes.
    pub largest_bytes: u64,
}

impl RunSample {
    /// Workers at work on a node at the same time, on the average of the nodes.
    pub fn workers_per_node(&self) -> f64 {
        (self.ranks * self.threads).min(self.images).max(1) as f64 / self.nodes.max(1) as f64
    }

    /// Workers at work at the same time on all nodes.
    pub fn workers(&self) -> f64 {
        (self.ranks * self.threads).min(self.images).max(1) as f64
    }

    /// How many workers share a CPU, at least 1.
    pub fn crowding(&self) -> f64 {
        self.cpus
            .map_or(1.0, |cpus| (self.workers() / cpus.max(1) as f64).max(1.0))
    }
}

/// Everything measured that a model is fitted to.
#[derive(Clone, Debug)]
pub struct Measurements {
    /// The runs.
    pub runs: Vec<RunSample>,
    /// The images of all runs.
    pub images: Vec<ImageSample>,
    /// The filter that they were measured with.
    pub filter: FilterDescription,
    /// How many images were measured, each as often as it may be.
    pub distinct_images: usize,
    /// The hosts.
    pub hosts: Vec<String>,
    /// What the reader should know of them.
    pub notes: Vec<String>,
}

/// Where a worker's publishers, half of what may wait behind it, have all but one a result in hand all the time, less a little
/// for a run's beginning, the disk holds the worker up: the one that it waits for is then still its own.
const DISK_RULES: f64 = 0.7 * RESULTS_BEHIND_A_WORKER as f64 / 2.0;

impl Measurements {
    /// Whether the disk held the workers up: what they took was then ruled by how fast results reach it.
    pub fn disk_rules(&self) -> bool {
        let behind: Vec<f64> = self.runs.iter().map(|run| run.results_behind).collect();
        median(&behind) >= DISK_RULES
    }
}

/// A report with what is known of it besides.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name for messages.
    pub name: String,
    /// The report.
    pub report: Report,
    /// Seconds from the launcher's start to its end, where somebody measured them.
    pub wall_s: Option<f64>,
    /// CPUs of the machine that others kept busy meanwhile, where somebody looked.
    pub others_cpus: Option<f64>,
    /// How many times as long reading takes where files are not in memory yet, as they were here; 1 where that is not known.
    pub reading_factor: f64,
}

/// What a plan is asked for and measurements must agree with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The filter.
    pub filter: FilterDescription,
    /// `--compression`.
    pub compression: String,
    /// Not `--no-sync`.
    pub sync: bool,
}

/// Reads samples out of reports.
///
/// # Errors
/// A sentence when there is too little, or when the reports were measured with another filter or output, on machines of
/// different kinds, or do not say what is needed.
pub fn gather(sources: &[Source], wanted: &Wanted) -> Result<Measurements, String> {
    if sources.is_empty() {
        return Err(
            "there is no measurement; give reports with --from, or let --pilot 20 measure"
                .to_owned(),
        );
    }
    for source in sources {
        agree(source, wanted)?;
    }
    let kinds: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.report.launch.nodes.iter())
        .map(|host| kind_of_host(host))
        .collect();
    if kinds.len() > 1 {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        return Err(format!(
            "the measurements come from machines of different kinds ({}…), which are not equally fast; give those of one \
             cluster",
            kinds.join("…, ")
        ));
    }
    let spec = OutputSpec {
        output_type: OutputType::from_str(&wanted.filter.output_type, false).unwrap_or_default(),
        round: Rounding::from_str(&wanted.filter.round, false).unwrap_or_default(),
    };
    let mut measurements = Measurements {
        runs: Vec::new(),
        images: Vec::new(),
        filter: wanted.filter.clone(),
        distinct_images: 0,
        hosts: BTreeSet::from_iter(
            sources
                .iter()
                .flat_map(|source| source.report.launch.nodes.clone()),
        )
        .into_iter()
        .collect(),
        notes: Vec::new(),
    };
    let (mut done, mut failed) = (0, 0);
    for source in sources {
        failed += source.report.totals.failed;
        done += source.report.totals.done;
        take_run(source, &spec, &mut measurements)?;
    }
    if done == 0 {
        return Err(format!(
            "all {failed} images of the measurements failed, so nothing is known of what one takes; see the report for why"
        ));
    }
    let distinct: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.report.images.iter())
        .filter(|image| image.status() == Status::Done)
        .map(|image| image.input.as_str())
        .collect();
    measurements.distinct_images = distinct.len();
    if distinct.len() < FEWEST_IMAGES {
        return Err(format!(
            "{} measured image{} cannot tell how much images differ; measure {FEWEST_IMAGES} or more (--pilot 20)",
            distinct.len(),
            if distinct.len() == 1 { "" } else { "s" }
        ));
    }
    if failed > done {
        return Err(format!(
            "{failed} images of the measurements failed and only {done} were done: those need not be like the others"
        ));
    }
    if failed > 0 {
        measurements.notes.push(format!(
            "{failed} of {} measured images failed and are left out",
            failed + done
        ));
    }
    let others: Vec<f64> = sources
        .iter()
        .filter_map(|source| source.others_cpus)
        .collect();
    let busy = Summary::of(&others).mean;
    if busy > BUSY_CPUS {
        measurements.notes.push(format!(
            "other programs kept {busy:.1} CPUs of the machine busy during the measurements, which may have slowed them"
        ));
    }
    Ok(measurements)
}

/// A host's name without its number and domain: nodes of one kind are numbered.
fn kind_of_host(host: &str) -> &str {
    host.split('.')
        .next()
        .unwrap_or(host)
        .trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Whether the report was measured with what is planned for.
fn agree(source: &Source, wanted: &Wanted) -> Result<(), String> {
    let (name, report) = (&source.name, &source.report);
    if report.filter != wanted.filter {
        return Err(format!(
            "{name}: was measured with another filter ({}) than the one that is planned for ({}); measure that one, or \
             plan with the same options",
            in_words(&report.filter),
            in_words(&wanted.filter)
        ));
    }
    let compression = option(&report.command, "--compression").unwrap_or_else(|| "1".to_owned());
    let sync = !report.command.iter().any(|word| word == "--no-sync");
    if compression != wanted.compression || sync != wanted.sync {
        return Err(format!(
            "{name}: was measured with --compression {compression}{}, planned for is --compression {}{}; the two do not \
             write at the same speed",
            if sync { "" } else { " --no-sync" },
            wanted.compression,
            if wanted.sync { "" } else { " --no-sync" },
        ));
    }
    Ok(())
}

/// The value of an option in a command line, given as `--name value` or `--name=value`.
fn option(command: &[String], name: &str) -> Option<String> {
    let mut words = command.iter();
    while let Some(word) = words.next() {
        if word == name {
            return words.next().cloned();
        }
        if let Some(value) = word
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
        {
            return Some(value.to_owned());
        }
    }
    None
}

fn in_words(filter: &FilterDescription) -> String {
    let list = |values: &[f64]| {
        let values: Vec<String> = values.iter().map(f64::to_string).collect();
        values.join(",")
    };
    let width = if filter.fwhm_mm.is_empty() {
        format!("sigma {} voxels", list(&filter.sigma_vox))
    } else {
        format!("FWHM {} mm", list(&filter.fwhm_mm))
    };
    format!(
        "{} {width}, {}, truncate {}, output {} {}",
        filter.name, filter.boundary, filter.truncate, filter.output_type, filter.round
    )
}

/// About the bytes that an image takes in memory while it is filtered.
fn memory_bytes(spec: &OutputSpec, voxels: u64, datatype: Datatype, scaled: bool) -> u64 {
    let result = spec.resolve_for(datatype, scaled).size_bytes();
    let own = datatype.size_bytes();
    voxels * (own + if result == own { 0 } else { result }) as u64
}

fn take_run(source: &Source, spec: &OutputSpec, into: &mut Measurements) -> Result<(), String> {
    let report = &source.report;
    let run = into.runs.len();
    let by_worker = done_by_worker(report);
    if by_worker.is_empty() {
        return Ok(());
    }
    let (mut gaps, mut largest_bytes, mut images) = (Vec::new(), 0, 0);
    let (mut behind_s, mut working_s) = (0.0, 0.0);
    let (mut first_start_s, mut last_end_s) = (f64::INFINITY, 0.0_f64);
    for (worker, rows) in by_worker {
        let writing_s = writing_on_the_worker(&rows);
        let end = |place: usize| {
            let image = rows[place];
            image.start_s + image.timings.read_s + image.timings.filter_s + writing_s[place]
        };
        // Of a worker that did few, all but the first must do.
        let settled_from = if rows.len() >= 2 * RESULTS_BEHIND_A_WORKER {
            RESULTS_BEHIND_A_WORKER
        } else {
            1
        };
        for (place, image) in rows.iter().enumerate() {
            let Some(datatype) = image.outcome.input.datatype else {
                return Err(format!(
                    "{}: does not say the datatypes of its images, as reports of older versions do not; measure again",
                    source.name
                ));
            };
            let class = ImageClass {
                datatype,
                scaled: image.outcome.input.scaled,
            };
            let memory_bytes = memory_bytes(
                spec,
                image.outcome.input.voxels,
                datatype,
                image.outcome.input.scaled,
            );
            largest_bytes = largest_bytes.max(memory_bytes);
            images += 1;
            first_start_s = first_start_s.min(image.start_s);
            last_end_s = last_end_s.max(end(place));
            behind_s += written_s(image) - writing_s[place];
            if place > 0 {
                gaps.push((image.start_s - end(place - 1)).max(0.0));
            }
            into.images.push(ImageSample {
                features: ImageFeatures {
                    class,
                    voxels: image.outcome.input.voxels,
                    file_bytes: image.outcome.input.bytes,
                    memory_bytes,
                },
                stage_s: [
                    image.timings.read_s * source.reading_factor,
                    image.timings.filter_s,
                    writing_s[place],
                ],
                run,
                worker,
                is_first: place == 0,
                is_settled: place >= settled_from,
            });
        }
        working_s += end(rows.len() - 1) - rows[0].start_s;
    }
    into.runs.push(RunSample {
        images,
        ranks: report.launch.ranks,
        threads: report.launch.threads_per_rank,
        nodes: report.launch.nodes.len().max(1),
        cpus: report.launch.cpus,
        // Little's law.
        results_behind: if working_s > 0.0 {
            behind_s / working_s
        } else {
            0.0
        },
        setup_s: first_start_s,
        gap_s: Summary::of(&gaps).mean,
        finish_s: (report.elapsed_s - last_end_s).max(0.0),
        launch_s: source
            .wall_s
            .map(|wall_s| (wall_s - report.elapsed_s).max(0.0)),
        rss_bytes: report.totals.max_rss_bytes,
        largest_bytes,
    });
    Ok(())
}

/// Seconds of writing and of waiting for the disk.
fn written_s(image: &ImageRow) -> f64 {
    image.timings.write_s + image.timings.publish_s
}

/// The images that were done, of each worker by their start.
fn done_by_worker(report: &Report) -> BTreeMap<(usize, usize), Vec<&ImageRow>> {
    let mut by_worker: BTreeMap<(usize, usize), Vec<&ImageRow>> = BTreeMap::new();
    for image in report
        .images
        .iter()
        .filter(|image| image.status() == Status::Done)
    {
        by_worker
            .entry((image.rank, image.worker))
            .or_default()
            .push(image);
    }
    for rows in by_worker.values_mut() {
        rows.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    }
    by_worker
}

/// Seconds from when the last worker had made its last result until the last one was on the disk.
pub(super) fn waiting_for_disk_s(report: &Report) -> f64 {
    let (mut made_s, mut on_disk_s) = (0.0_f64, 0.0_f64);
    for rows in done_by_worker(report).values() {
        for (image, writing_s) in rows.iter().zip(writing_on_the_worker(rows)) {
            let filtered_s = image.start_s + image.timings.read_s + image.timings.filter_s;
            made_s = made_s.max(filtered_s + writing_s);
            on_disk_s = on_disk_s.max(filtered_s + written_s(image));
        }
    }
    on_disk_s - made_s
}

/// Seconds of writing for which a worker's images kept it; `rows` by start. A result waits for the disk while its worker is
/// at the next image, so writing that reaches beyond the next one's start is cut there, and of the last image, as of the others.
fn writing_on_the_worker(rows: &[&ImageRow]) -> Vec<f64> {
    let mut on_worker: Vec<f64> = rows
        .windows(2)
        .map(|pair| {
            let [image, next] = [pair[0], pair[1]];
            let until_next_s =
                next.start_s - image.start_s - image.timings.read_s - image.timings.filter_s;
            until_next_s.clamp(0.0, written_s(image))
        })
        .collect();
    if let Some(last) = rows.last() {
        let all: f64 = rows[..rows.len() - 1]
            .iter()
            .map(|row| written_s(row))
            .sum();
        let part = on_worker.iter().sum::<f64>() / all;
        on_worker.push(written_s(last) * if part.is_finite() { part } else { 1.0 });
    }
    on_worker
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::outcome::{End, Timings};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Normal};

    /// A machine whose costs are known, of which reports are made.
    pub(crate) struct Machine {
        pub(crate) read_s_per_byte: f64,
        pub(crate) filter_s_per_voxel: f64,
        pub(crate) write_s_per_voxel: f64,
        pub(crate) image_s: f64,
        /// How much each further worker on the node slows all stages.
        pub(crate) contention: f64,
        /// Standard deviation of an image's time, as a part of it.
        pub(crate) image_spread: f64,
        /// Standard deviation of a whole run's speed.
        pub(crate) run_spread: f64,
        pub(crate) host: &'static str,
    }

    impl Default for Machine {
        fn default() -> Self {
            Self {
                read_s_per_byte: 4e-9,
                filter_s_per_voxel: 5e-9,
                write_s_per_voxel: 6e-9,
                image_s: 4e-4,
                contention: 0.05,
                image_spread: 0.1,
                run_spread: 0.02,
                host: "node1",
            }
        }
    }

    pub(crate) fn failed_end() -> End {
        crate::report::sample::image(1, 0, Status::Failed).end
    }

    pub(crate) fn wanted() -> Wanted {
        Wanted {
            filter: crate::report::sample::report().filter,
            compression: "1".to_owned(),
            sync: true,
        }
    }

    /// Voxels of the images that the machine is given, in turn.
    pub(crate) const SIZES: [u64; 3] = [900_000, 450_000, 2_000_000];

    impl Machine {
        /// Seconds of the three stages without noise, alone on the node.
        pub(crate) fn stages_s(&self, voxels: u64) -> [f64; 3] {
            let voxels = voxels as f64;
            [
                self.image_s + self.read_s_per_byte * voxels / 2.0,
                self.filter_s_per_voxel * voxels,
                self.image_s + self.write_s_per_voxel * voxels,
            ]
        }

        /// A report of `images` images on `ranks` ranks of one worker.
        pub(crate) fn source(
            &self,
            images: usize,
            ranks: usize,
            sizes: &[u64],
            seed: u64,
        ) -> Source {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let image_noise = Normal::new(0.0, self.image_spread).unwrap();
            let run_factor = Normal::new(0.0, self.run_spread)
                .unwrap()
                .sample(&mut random)
                .exp();
            let crowd = 1.0 + self.contention * (ranks.min(images) - 1) as f64;
            let mut report = crate::report::sample::report();
            let template = report.images[0].clone();
            let mut clocks: Vec<f64> = vec![0.05; ranks];
            report.images = (0..images)
                .map(|place| {
                    let voxels = sizes[place % sizes.len()];
                    let (rank, clock) = clocks
                        .iter_mut()
                        .enumerate()
                        .min_by(|a, b| f64::total_cmp(a.1, b.1))
                        .unwrap();
                    let noise = image_noise.sample(&mut random).exp();
                    let [read_s, filter_s, write_s] = self
                        .stages_s(voxels)
                        .map(|seconds| seconds * crowd * run_factor * noise);
                    let start_s = *clock;
                    *clock += read_s + filter_s + write_s + 1e-5;
                    let mut row = template.clone();
                    row.input = format!("in/{place}.nii.gz");
                    (row.index, row.rank, row.start_s) = (place + 1, rank, start_s);
                    row.timings = Timings {
                        read_s,
                        filter_s,
                        write_s,
                        publish_s: 0.0,
                    };
                    row.outcome.input.voxels = voxels;
                    row.outcome.input.bytes = voxels / 2;
                    row
                })
                .collect();
            report.launch.ranks = ranks;
            report.launch.threads_per_rank = 1;
            report.launch.nodes = vec![self.host.to_owned()];
            report.launch.cpus = Some(8);
            report.totals.done = images;
            report.totals.failed = 0;
            report.totals.max_rss_bytes = (16 << 20) + sizes.iter().max().unwrap();
            report.elapsed_s = clocks.iter().copied().fold(0.0, f64::max) + 0.02;
            let wall_s = Some(report.elapsed_s + 0.5);
            Source {
                name: format!("report {seed}"),
                report,
                wall_s,
                others_cpus: None,
                reading_factor: 1.0,
            }
        }

        /// Five passes over 20 images with 1 and with 2 ranks, as a pilot makes them.
        pub(crate) fn pilot(&self, sizes: &[u64], seed: u64) -> Vec<Source> {
            (0..5)
                .flat_map(|pass| [(1, pass * 2), (2, pass * 2 + 1)])
                .map(|(ranks, pass)| self.source(20, ranks, sizes, seed * 1000 + pass))
                .collect()
        }
    }

    #[test]
    fn writing_behind_the_worker_costs_it_nothing() {
        let mut source = Machine::default().source(10, 1, &SIZES, 1);
        for (place, image) in source.report.images.iter_mut().enumerate() {
            (image.start_s, image.timings.read_s) = (1.0 + 0.5 * place as f64, 0.125);
            (image.timings.filter_s, image.timings.write_s) = (0.125, 1.0);
        }
        source.report.elapsed_s = 6.75;
        let measured = gather(&[source], &wanted()).unwrap();
        for image in &measured.images {
            assert_eq!(image.stage_s, [0.125, 0.125, 0.25]);
        }
        let run = &measured.runs[0];
        assert_eq!((run.gap_s, run.setup_s, run.finish_s), (0.0, 1.0, 0.75));
    }

    #[test]
    fn images_count_from_when_as_many_results_wait_as_may() {
        let settled = |images: usize, ranks| -> usize {
            let source = Machine::default().source(images, ranks, &[900_000], 1);
            let measured = gather(&[source], &wanted()).unwrap();
            let settled = measured.images.iter().filter(|image| image.is_settled);
            settled.count()
        };
        assert_eq!(settled(400, 1), 400 - RESULTS_BEHIND_A_WORKER);
        assert_eq!(settled(400, 2), 400 - 2 * RESULTS_BEHIND_A_WORKER);
        assert_eq!(settled(10, 1), 9, "of few images, all but the first");
    }

    #[test]
    fn reading_counts_as_of_files_that_are_not_in_memory() {
        let source = Machine::default().source(20, 1, &SIZES, 1);
        let cold = Source {
            reading_factor: 3.0,
            ..source.clone()
        };
        let stages = |source| gather(&[source], &wanted()).unwrap().images;
        for (cold, warm) in stages(cold).iter().zip(stages(source)) {
            assert_eq!(cold.stage_s[0], 3.0 * warm.stage_s[0]);
            assert_eq!(cold.stage_s[1..], warm.stage_s[1..]);
        }
    }

    #[test]
    fn a_disk_rules_where_workers_wait_for_it() {
        // Syncing that takes so many times as long as the work on an image.
        let rules = |over: f64| {
            let mut source = Machine::default().source(100, 1, &[900_000], 1);
            let rows = &mut source.report.images;
            let interval_s = (rows[99].start_s - rows[0].start_s) / 99.0;
            for row in rows {
                row.timings.write_s += over * interval_s;
            }
            let measured = gather(&[source], &wanted()).unwrap();
            let behind = measured.runs[0].results_behind;
            assert!((behind - over).abs() < 0.1, "{behind}");
            measured.disk_rules()
        };
        assert!(!rules(0.0));
        assert!(
            !rules(2.5),
            "four publishers bring results away faster than they come"
        );
        assert!(rules(3.3));
    }

    #[test]
    fn a_run_is_read_with_its_own_costs() {
        let machine = Machine {
            image_spread: 0.0,
            run_spread: 0.0,
            ..Machine::default()
        };
        let measured = gather(&[machine.source(20, 2, &SIZES, 1)], &wanted()).unwrap();
        let run = &measured.runs[0];
        assert_eq!(
            (run.images, run.ranks, run.workers_per_node()),
            (20, 2, 2.0)
        );
        assert!((run.setup_s - 0.05).abs() < 1e-9 && (run.gap_s - 1e-5).abs() < 1e-9);
        assert!(
            (run.finish_s - 0.02).abs() < 1e-4
                && run.launch_s.is_some_and(|s| (s - 0.5).abs() < 1e-9)
        );
        assert_eq!(run.largest_bytes, 2_000_000);
        assert_eq!(
            measured
                .images
                .iter()
                .filter(|image| image.is_first)
                .count(),
            2
        );
    }

    #[test]
    fn what_cannot_be_fitted_is_refused_with_the_reason() {
        let machine = Machine::default();
        let good = machine.source(20, 1, &SIZES, 1);
        let refusal = |sources: &[Source], wanted: &Wanted| gather(sources, wanted).unwrap_err();

        assert!(refusal(&[], &wanted()).contains("no measurement"));
        let one = machine.source(1, 1, &SIZES, 1);
        assert!(refusal(&[one], &wanted()).contains("1 measured image cannot tell"));

        let mut failed = good.clone();
        failed
            .report
            .images
            .iter_mut()
            .for_each(|image| image.end = failed_end());
        (failed.report.totals.done, failed.report.totals.failed) = (0, 20);
        assert!(refusal(&[failed], &wanted()).contains("all 20 images of the measurements failed"));

        let mut other_filter = wanted();
        other_filter.filter.sigma_vox = vec![3.0; 3];
        let message = refusal(std::slice::from_ref(&good), &other_filter);
        assert!(
            message.contains("another filter") && message.contains("sigma 3,3,3"),
            "{message}"
        );

        let unsynced = Wanted {
            sync: false,
            ..wanted()
        };
        assert!(refusal(std::slice::from_ref(&good), &unsynced).contains("--no-sync"));

        let elsewhere = Machine {
            host: "laptop",
            ..Machine::default()
        };
        let mixed = [good.clone(), elsewhere.source(20, 1, &SIZES, 2)];
        let message = refusal(&mixed, &wanted());
        assert!(
            message.contains("laptop") && message.contains("node"),
            "{message}"
        );

        let mut old = good.clone();
        old.report
            .images
            .iter_mut()
            .for_each(|image| image.outcome.input.datatype = None);
        assert!(refusal(&[old], &wanted()).contains("datatypes"));

        let mut mostly_failed = good;
        mostly_failed.report.totals.failed = 30;
        assert!(refusal(&[mostly_failed], &wanted()).contains("only 20 were done"));
    }

    #[test]
    fn nodes_of_one_cluster_are_of_one_kind() {
        for (host, kind) in [
            ("n1", "n"),
            ("n12.cluster.org", "n"),
            ("vm", "vm"),
            ("gpu07", "gpu"),
        ] {
            assert_eq!(kind_of_host(host), kind);
        }
    }

    #[test]
    fn options_are_found_in_both_spellings() {
        let command: Vec<String> = ["niimpi", "--compression=6", "--x", "3"]
            .map(String::from)
            .to_vec();
        assert_eq!(option(&command, "--compression").as_deref(), Some("6"));
        assert_eq!(option(&command, "--x").as_deref(), Some("3"));
        assert_eq!(option(&command, "--y"), None);
    }
}
