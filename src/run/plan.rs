//! The plan: the images, their costs and the ranks' shares, agreed on by all ranks before anything is written.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::resume::{self, Claim, Standing};
use super::{Clock, Config, SetupError, request};
use crate::comm::{self, Communicator, ROOT};
use crate::fault::Fault;
use crate::filter::OutputSpec;
use crate::image_io;
use crate::image_io::file_name::{is_image_name, pair_partner};
use crate::images::{self, ImageEntry, ListError};
use crate::journal::past::Past;
use crate::partition::{self, Strategy};
use crate::report::{self, ResumeCounts, destination};
use crate::{journal, resources, slurm};

/// What is done when a result is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// An error, before anything is written.
    #[default]
    Refuse,
    /// It is left alone and its image skipped, if it is what the journal says and its input and options are the same.
    Resume,
    /// It is replaced.
    Overwrite,
}

/// One of several shares of the list, each done by a run of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1.
    pub number: usize,
    /// Of how many.
    pub count: usize,
}

impl FromStr for Shard {
    type Err = String;

    /// # Errors
    /// A sentence for the user when the text is neither `K/N` with 1 ≤ K ≤ N nor `slurm` inside an array task.
    fn from_str(text: &str) -> Result<Self, String> {
        // Far more than any array has tasks; each share costs root some memory.
        const MOST: usize = 1_000_000;
        if text == "slurm" {
            let (number, count) = slurm::array_shard()?;
            return Ok(Self { number, count });
        }
        let parsed = text.split_once('/').and_then(|(number, count)| {
            Some(Self {
                number: number.parse().ok()?,
                count: count.parse().ok()?,
            })
        });
        parsed
            .filter(|shard| shard.number >= 1 && shard.number <= shard.count && shard.count <= MOST)
            .ok_or_else(|| {
                format!(
                    "give K/N with K from 1 to N and N up to {MOST}, such as 1/4, or slurm inside an array task"
                )
            })
    }
}

/// A file's device and its number there.
type FileId = (u64, u64);

/// What is known of an image before it is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Size of its file; 0 when it cannot be seen.
    pub file_bytes: u64,
    /// Size of its file without compression, as the header tells; `None` when the header was not read or is broken.
    pub raw_bytes: Option<u64>,
    /// Voxels of all volumes, as the header tells.
    pub voxels: Option<u64>,
    /// Bytes that it takes in memory, as the header tells.
    pub memory_bytes: Option<u64>,
    /// Whether its result is there already.
    pub output_exists: bool,
    /// What names its file among all: device and number.
    pub input_id: Option<FileId>,
    /// The same of the files that its result would replace, as far as each has one name only.
    pub replaces: Vec<FileId>,
    /// How that result stands, when a run is resumed.
    pub standing: Standing,
    /// What is wrong with the header.
    pub error: Option<String>,
}

/// What all ranks have agreed on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The images of this run, in the list's order.
    pub entries: Vec<ImageEntry>,
    /// What is known of each.
    #[serde(skip)]
    pub facts: Vec<ImageFacts>,
    /// Estimated seconds of each image.
    pub costs: Vec<f64>,
    /// Places in `entries` that are skipped, since their results are there.
    pub skipped: Vec<usize>,
    /// How the results of earlier runs stand, when one is resumed.
    pub resume: Option<ResumeCounts>,
    /// A share a rank: places in `entries` in the order in which they are done. With `dynamic` the root's one list of all.
    pub shares: Vec<Vec<usize>>,
    /// Workers of each rank.
    pub threads: Vec<usize>,
    /// CPUs that each rank was given.
    pub cpus: Vec<usize>,
    /// Hosts of the ranks.
    pub hosts: Vec<String>,
    /// The CPUs that all ranks together may run on, each counted once; `None` where the system does not tell.
    pub distinct_cpus: Option<usize>,
    /// The run's own name, in its journals' names.
    pub run: String,
    /// When the run was begun, seconds since 1970.
    pub run_unix_s: f64,
    /// No image is begun that would not be finished by then, seconds since the run's start.
    pub finish_by_s: Option<f64>,
    /// Whether an earlier run wrote to the same output folder.
    pub earlier_run: bool,
    /// The root's seconds since the run's start when this was sent.
    sent_s: f64,
    #[serde(skip)]
    received: Option<Instant>,
}

impl Plan {
    /// Seconds since the run's start, as the root counts them.
    pub(crate) fn clock(&self) -> Clock {
        Clock {
            base: self.received.unwrap_or_else(Instant::now),
            offset_s: self.sent_s,
        }
    }
}

/// What each rank tells the root first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    host: String,
    affinity: Vec<usize>,
    available_cpus: usize,
}

/// Estimated seconds of an image: inflating and compressing by its bytes, filtering by its voxels and the kernel's width.
///
/// The rates are of one core of a current CPU; only their proportions matter for a balanced partition. An image whose
/// header is unknown is taken for one that was compressed to a third, with two bytes a voxel.
pub(crate) fn cost_s(facts: &ImageFacts, kernel_width_vox: f64) -> f64 {
    const CODEC_S_PER_BYTE: f64 = 4e-9;
    const FILTER_S_PER_VOXEL: f64 = 1e-9;
    const FILTER_S_PER_VOXEL_AND_TAP: f64 = 3e-11;
    const FILE_S: f64 = 2e-4;
    let raw_bytes = facts
        .raw_bytes
        .unwrap_or(facts.file_bytes.saturating_mul(3)) as f64;
    let voxels = facts.voxels.map_or(raw_bytes / 2.0, |voxels| voxels as f64);
    FILE_S
        + CODEC_S_PER_BYTE * raw_bytes
        + voxels * (FILTER_S_PER_VOXEL + FILTER_S_PER_VOXEL_AND_TAP * kernel_width_vox)
}

/// Lists the images on the root, looks at each on all ranks together, and shares them out. Collective.
///
/// # Errors
/// The same on every rank: what is wrong with the inputs, the output folder or the request. Nothing was written then.
pub(super) fn agree(
    comm: &impl Communicator,
    config: &Config,
    begun: Instant,
) -> Result<Plan, SetupError> {
    let is_root = comm.rank() == ROOT;
    let hello = Hello {
        host: resources::host_name(),
        affinity: resources::affinity(),
        available_cpus: resources::available_cpus(),
    };
    let hellos = comm.gather(comm::encode(&hello));

    let listed: Result<Listed, String> = match is_root {
        true => list(config, hello.available_cpus).map_err(|error| error.0),
        false => Ok(Listed::default()),
    };
    let listed_s = begun.elapsed().as_secs_f64();
    let listed = from_root(comm, listed);
    let Listed { entries, claims } = listed.map_err(SetupError)?;
    let sent_s = begun.elapsed().as_secs_f64();

    let mine: Vec<(&ImageEntry, Option<&Claim>)> = entries
        .iter()
        .enumerate()
        .map(|(place, entry)| (entry, claims.get(place)))
        .skip(comm.rank())
        .step_by(comm.size())
        .collect();
    let needs_headers =
        config.strategy.needs_costs() || config.dry_run || slurm::memory_bytes().is_some();
    let header_for = needs_headers.then_some(&config.job.output);
    let facts = look_at(&mine, header_for, hello.available_cpus.min(8));
    let count = entries.len();
    drop(mine);
    drop(claims);
    let encoded = comm::encode(&facts);
    drop(facts);
    let gathered = comm.gather(encoded);
    let looked_s = begun.elapsed().as_secs_f64();

    let plan = match (hellos, gathered) {
        (Some(hellos), Some(gathered)) => {
            let hellos = hellos.iter().map(|bytes| comm::decode(bytes)).collect();
            share_out(config, entries, interleave(gathered), hellos, begun).map_err(|error| error.0)
        }
        // Ranks besides the root send nothing; what they pass is not read. Their list comes again with the plan.
        _ => {
            drop(entries);
            Err(String::new())
        }
    };
    if is_root {
        let sent = match &plan {
            Ok(plan) => Ok(plan),
            Err(message) => Err(message),
        };
        if comm.size() > 1 {
            comm.broadcast(comm::encode(&sent));
        }
        tracing::debug!(
            "{count} images: listed after {listed_s:.3} s, the list sent after {sent_s:.3} s, all looked at after \
             {looked_s:.3} s, shared out and sent after {:.3} s",
            begun.elapsed().as_secs_f64()
        );
        return plan.map(now_received).map_err(SetupError);
    }
    let received: Result<Plan, String> = comm::decode(&comm.broadcast(Vec::new()));
    received.map(now_received).map_err(SetupError)
}

fn now_received(mut plan: Plan) -> Plan {
    plan.received = Some(Instant::now());
    plan
}

/// Gives the root's value to every rank. Collective.
fn from_root<T: Serialize + for<'de> Deserialize<'de>>(comm: &impl Communicator, value: T) -> T {
    if comm.size() == 1 {
        value
    } else if comm.rank() == ROOT {
        comm.broadcast(comm::encode(&value));
        value
    } else {
        comm::decode(&comm.broadcast(Vec::new()))
    }
}

/// The images, and what the journals say of each when a run is resumed.
#[derive(Default, Serialize, Deserialize)]
struct Listed {
    entries: Vec<ImageEntry>,
    claims: Vec<Claim>,
}

fn list(config: &Config, threads: usize) -> Result<Listed, SetupError> {
    if config.fault == Some(Fault::FailSetup { rank: ROOT }) {
        return Err(SetupError(
            "rank 0 fails in set-up, as NIIMPI_TEST_FAULT asks".to_owned(),
        ));
    }
    check_folders(config)?;
    let mut entries =
        images::collect(&config.list).map_err(|error| SetupError(error.to_string()))?;
    if let Some(limit) = config.limit {
        entries.truncate(limit);
    }
    let mut claims = Vec::new();
    if config.existing == Existing::Resume {
        let output = &config.list.output;
        let past = Past::load(output, threads).map_err(|error| {
            SetupError(format!(
                "--resume: the journals of earlier runs cannot be read: {error}"
            ))
        })?;
        if past.torn_lines > 0 {
            tracing::info!(
                "{} of the journals' lines are torn, as a rank leaves one when it is killed; their images are done again",
                past.torn_lines
            );
        }
        claims = resume::claims(&past, &entries, output, &config.job.options());
    }
    // What sorting names and reading journals took would otherwise stay in the heap beside all that comes.
    resources::release_freed_memory();
    Ok(Listed { entries, claims })
}

/// What can be said of the folders that are written to, before anything is.
fn check_folders(config: &Config) -> Result<(), SetupError> {
    let output = &config.list.output;
    match std::fs::metadata(output) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(SetupError(format!(
                "--output {}: is a file; give a folder, which is made if it is missing",
                output.display()
            )));
        }
        Ok(_) => writable(output, "--output")?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(SetupError(format!(
                "--output {}: {error}",
                output.display()
            )));
        }
    }
    if let Some(report) = &config.report {
        let folder = match report.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if report.is_dir() {
            return Err(SetupError(format!(
                "--report {}: is a folder; give a file name in it, such as {}",
                report.display(),
                report.join("report.json").display()
            )));
        }
        if report.file_name().is_some_and(is_image_name) {
            return Err(SetupError(format!(
                "--report {}: has the name of an image; give another, such as report.json",
                report.display()
            )));
        }
        if !folder.is_dir() {
            return Err(SetupError(format!(
                "--report {}: there is no folder {}; make it first",
                report.display(),
                folder.display()
            )));
        }
        let mut destinations = vec![(report.clone(), destination::REPORT)];
        if config.report_table {
            destinations.push((report.with_extension("txt"), destination::TABLE));
        }
        if config.report_csv {
            destinations.push((report.with_extension("ranks.csv"), destination::RANKS_CSV));
            destinations.push((report.with_extension("images.csv"), destination::IMAGES_CSV));
        }
        for (path, mark) in destinations {
            destination::check("--report", &path, mark).map_err(SetupError)?;
        }
        let place = if report::is_device(report) {
            report
        } else {
            folder
        };
        writable(place, "--report")?;
    }
    Ok(())
}

fn writable(folder: &Path, option: &str) -> Result<(), SetupError> {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        SetupError(format!(
            "{option} {}: cannot be written to: {}; check its permissions or choose another",
            folder.display(),
            error.desc()
        ))
    })
}

/// Most images that a thread takes at a time to look at.
const LOOKED_AT_TOGETHER: usize = 16;

/// Looks at images on a few threads: sizes, headers where they are needed, results that are there.
fn look_at(
    entries: &[(&ImageEntry, Option<&Claim>)],
    header_for: Option<&OutputSpec>,
    threads: usize,
) -> Vec<ImageFacts> {
    let mut facts = vec![ImageFacts::default(); entries.len()];
    let together = entries
        .len()
        .div_ceil(threads.max(1))
        .clamp(1, LOOKED_AT_TOGETHER);
    let batches = entries.chunks(together).zip(facts.chunks_mut(together));
    let threads = threads.clamp(1, batches.len().max(1));
    let batches = Mutex::new(batches);
    let next = || {
        batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let look = || {
        while let Some((entries, facts)) = next() {
            for (&(entry, claim), facts) in entries.iter().zip(facts) {
                *facts = look_at_one(entry, claim, header_for);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(look);
        }
        look();
    });
    facts
}

fn look_at_one(
    entry: &ImageEntry,
    claim: Option<&Claim>,
    header_for: Option<&OutputSpec>,
) -> ImageFacts {
    let input = std::fs::metadata(&entry.input).ok();
    let replaced = there_already(&entry.output);
    let mut facts = ImageFacts {
        file_bytes: input.as_ref().map_or(0, Metadata::len),
        output_exists: !replaced.is_empty(),
        input_id: input.as_ref().map(file_id),
        replaces: only_names(&replaced),
        ..ImageFacts::default()
    };
    if let Some(claim) = claim {
        facts.standing = resume::check(entry, claim);
    }
    if let Some(output) = header_for {
        match image_io::probe(&entry.input) {
            Ok(probe) => {
                facts.raw_bytes = Some(probe.raw_bytes);
                facts.memory_bytes =
                    Some(output.memory_bytes(&probe.shape, probe.datatype, probe.scaled));
                facts.voxels = Some(probe.shape.iter().map(|&length| length as u64).product());
            }
            Err(error) => facts.error = Some(error.to_string()),
        }
    }
    facts
}

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The files of a result that are there: one, or both halves of a pair. Of a link it is the link itself, since that is what
/// a result replaces.
fn there_already(output: &Path) -> Vec<Metadata> {
    let other_half = output.file_name().and_then(pair_partner);
    let other_half = other_half.map(|name| output.with_file_name(name));
    [Some(output), other_half.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(|path| std::fs::symlink_metadata(path).ok())
        .collect()
}

/// The files among these that have no second name under which they would stay.
fn only_names(files: &[Metadata]) -> Vec<FileId> {
    files
        .iter()
        .filter(|metadata| metadata.nlink() == 1)
        .map(file_id)
        .collect()
}

/// Undoes the dealing-out of the look: rank r looked at images r, r + ranks, …
pub(crate) fn interleave(gathered: Vec<Vec<u8>>) -> Vec<ImageFacts> {
    // Each message goes as soon as it is read: a list may have a million images.
    let mut parts: Vec<Vec<ImageFacts>> = gathered
        .into_iter()
        .map(|bytes| comm::decode(&bytes))
        .collect();
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut facts = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let ranks = parts.len();
    while let Some(next) = parts[facts.len() % ranks].next() {
        facts.push(next);
    }
    facts
}

fn share_out(
    config: &Config,
    entries: Vec<ImageEntry>,
    facts: Vec<ImageFacts>,
    hellos: Vec<Hello>,
    begun: Instant,
) -> Result<Plan, SetupError> {
    let width = config.job.kernel_width_vox();
    let costs: Vec<f64> = facts.iter().map(|facts| cost_s(facts, width)).collect();
    refuse_replacing_inputs(&entries, &facts)?;
    let (entries, facts, costs) = take_shard(config, entries, facts, costs);

    let existing: Vec<usize> = (0..entries.len())
        .filter(|&place| facts[place].output_exists)
        .collect();
    if let (Existing::Refuse, Some(&first)) = (config.existing, existing.first()) {
        return Err(SetupError(format!(
            "{} of {} results exist already, the first is {}; choose another --output, or say --resume to keep what is \
             there and do the rest, or --overwrite to replace it",
            existing.len(),
            entries.len(),
            entries[first].output.display()
        )));
    }
    let resume = (config.existing == Existing::Resume)
        .then(|| resume::count(facts.iter().map(|facts| facts.standing)));
    let skipped: Vec<usize> = (0..entries.len())
        .filter(|&place| facts[place].standing == Standing::Kept)
        .collect();
    let mut is_skipped = vec![false; entries.len()];
    skipped.iter().for_each(|&place| is_skipped[place] = true);
    let todo: Vec<usize> = (0..entries.len())
        .filter(|&place| !is_skipped[place])
        .collect();
    let todo_costs: Vec<f64> = todo.iter().map(|&place| costs[place]).collect();
    let places = |items: Vec<usize>| items.into_iter().map(|item| todo[item]).collect::<Vec<_>>();
    let shares = match config.strategy {
        Strategy::Dynamic => vec![places(partition::largest_first(&todo_costs))],
        fixed => partition::partition(fixed, &todo_costs, hellos.len())
            .into_iter()
            .map(places)
            .collect(),
    };
    let cpus = cpus_of_ranks(&hellos);
    let distinct_cpus = distinct_cpus(&hellos);
    let threads = cpus
        .iter()
        .map(|&cpus| config.threads.unwrap_or(cpus))
        .collect();
    let root_host = hellos.first().map(|hello| &hello.host);
    let ranks_on_host = hellos
        .iter()
        .filter(|hello| Some(&hello.host) == root_host)
        .count();
    let in_memory = todo.iter().filter_map(|&place| {
        let bytes = facts[place].memory_bytes?;
        Some((entries[place].input.as_path(), bytes))
    });
    request::check(in_memory, ranks_on_host).map_err(SetupError)?;
    let now = SystemTime::now();
    let earlier_run = config.list.output.join(journal::FOLDER).exists();
    if !config.dry_run {
        let output = &config.list.output;
        std::fs::create_dir_all(output).map_err(|error| {
            SetupError(format!(
                "--output {}: the folder cannot be made: {error}",
                output.display()
            ))
        })?;
    }
    Ok(Plan {
        entries,
        facts,
        costs,
        skipped,
        resume,
        shares,
        threads,
        cpus,
        hosts: hellos.into_iter().map(|hello| hello.host).collect(),
        distinct_cpus,
        finish_by_s: finish_by_s(config.stop_before_s, slurm::job_end_unix_s(), now, begun),
        earlier_run,
        run: journal::new_run_name(now),
        run_unix_s: journal::unix_s(now),
        sent_s: begun.elapsed().as_secs_f64(),
        received: None,
    })
}

/// When every image must be finished, in seconds since the run's start: after what was asked for, or else before the job
/// ends, with time left for the report.
fn finish_by_s(
    asked_s: Option<f64>,
    job_end_unix_s: Option<f64>,
    now: SystemTime,
    begun: Instant,
) -> Option<f64> {
    const REPORT_S: f64 = 5.0;
    asked_s.or_else(|| {
        let left_s = job_end_unix_s? - journal::unix_s(now) - REPORT_S;
        Some(begun.elapsed().as_secs_f64() + left_s)
    })
}

/// Refuses results that would take the place of inputs, whatever names and links these are reached by.
fn refuse_replacing_inputs(entries: &[ImageEntry], facts: &[ImageFacts]) -> Result<(), SetupError> {
    let replaced: HashMap<FileId, usize> = facts
        .iter()
        .enumerate()
        .flat_map(|(place, facts)| facts.replaces.iter().map(move |&id| (id, place)))
        .collect();
    if replaced.is_empty() {
        return Ok(());
    }
    let clash = facts
        .iter()
        .enumerate()
        .filter_map(|(place, facts)| Some((place, *replaced.get(&facts.input_id?)?)))
        // Device numbers are each node's own, so what other ranks saw is looked at again.
        .find(|&(input, by)| {
            std::fs::metadata(&entries[input].input).is_ok_and(|metadata| {
                only_names(&there_already(&entries[by].output)).contains(&file_id(&metadata))
            })
        });
    match clash {
        Some((input, by)) => Err(SetupError(
            ListError::InputOverwritten {
                input: entries[input].input.clone(),
                by: entries[by].input.clone(),
            }
            .to_string(),
        )),
        None => Ok(()),
    }
}

type Images = (Vec<ImageEntry>, Vec<ImageFacts>, Vec<f64>);

/// The images of this shard, in the list's order. Shares are made by the same strategy as among ranks.
fn take_shard(
    config: &Config,
    entries: Vec<ImageEntry>,
    facts: Vec<ImageFacts>,
    costs: Vec<f64>,
) -> Images {
    let Some(shard) = config.shard else {
        return (entries, facts, costs);
    };
    let mut places =
        partition::partition(config.strategy, &costs, shard.count).swap_remove(shard.number - 1);
    places.sort_unstable();
    (
        places.iter().map(|&place| entries[place].clone()).collect(),
        places.iter().map(|&place| facts[place].clone()).collect(),
        places.iter().map(|&place| costs[place]).collect(),
    )
}

/// The CPUs of all ranks, those that several ranks of a host may use counted once; `None` where one rank knows of none.
fn distinct_cpus(hellos: &[Hello]) -> Option<usize> {
    let mut cpus = std::collections::HashSet::new();
    for hello in hellos {
        if hello.affinity.is_empty() {
            return None;
        }
        cpus.extend(hello.affinity.iter().map(|cpu| (&hello.host, cpu)));
    }
    Some(cpus.len())
}

/// CPUs of each rank: what Slurm gave a task where it says so, and never more than affinity and quota allow, divided
/// among the ranks of a host that may use the same ones.
fn cpus_of_ranks(hellos: &[Hello]) -> Vec<usize> {
    let slurm_cpus = slurm::cpus_per_task();
    let mut masks: HashMap<&str, Vec<&[usize]>> = HashMap::new();
    for hello in hellos {
        masks.entry(&hello.host).or_default().push(&hello.affinity);
    }
    let ranks_on: HashMap<&str, HashMap<usize, usize>> = masks
        .into_iter()
        .map(|(host, masks)| (host, resources::ranks_on_cpus(masks)))
        .collect();
    hellos
        .iter()
        .map(|hello| {
            let ranks_on = &ranks_on[hello.host.as_str()];
            let fair = resources::fair_cpus(&hello.affinity, ranks_on).min(hello.available_cpus);
            slurm_cpus
                .map_or(fair, |cpus| cpus.min(hello.available_cpus))
                .max(1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read() {
        assert_eq!(
            "2/4".parse(),
            Ok(Shard {
                number: 2,
                count: 4
            })
        );
        for wrong in ["0/4", "5/4", "4", "a/b", "1/0", "1/99999999999999", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_larger_image_and_a_wider_kernel_cost_more() {
        let facts = |raw_bytes, voxels| ImageFacts {
            file_bytes: 1000,
            raw_bytes: Some(raw_bytes),
            voxels: Some(voxels),
            ..ImageFacts::default()
        };
        assert!(cost_s(&facts(2000, 1000), 51.0) > cost_s(&facts(1000, 500), 51.0));
        assert!(cost_s(&facts(2000, 1000), 195.0) > cost_s(&facts(2000, 1000), 51.0));
        let unknown = ImageFacts {
            file_bytes: 1_000_000,
            ..ImageFacts::default()
        };
        assert!(cost_s(&unknown, 51.0) > cost_s(&facts(1_000_000, 500_000), 51.0));
    }

    #[test]
    fn cpus_of_one_host_are_not_divided_with_another() {
        let hello = |host: &str| Hello {
            host: host.to_owned(),
            affinity: vec![0, 1, 2, 3],
            available_cpus: 4,
        };
        let cpus = cpus_of_ranks(&[hello("a"), hello("b"), hello("a")]);
        assert_eq!(cpus, [2, 4, 2]);
    }

    #[test]
    fn cpus_that_ranks_share_are_counted_once() {
        let hello = |host: &str, affinity: &[usize]| Hello {
            host: host.to_owned(),
            affinity: affinity.to_vec(),
            available_cpus: affinity.len(),
        };
        let shared = [hello("a", &[0, 1]), hello("a", &[0, 1]), hello("b", &[0])];
        assert_eq!(distinct_cpus(&shared), Some(3));
        assert_eq!(distinct_cpus(&[hello("a", &[])]), None);
    }

    #[test]
    fn looks_of_several_threads_are_those_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let entries: Vec<ImageEntry> = (1..=50)
            .map(|index| {
                let input = dir.path().join(format!("{index}.nii"));
                std::fs::write(&input, vec![0; index]).unwrap();
                ImageEntry {
                    index,
                    input,
                    output: dir.path().join(format!("out_{index}.nii")),
                }
            })
            .collect();
        for count in [0, 1, 3, 17, 50] {
            let some: Vec<_> = entries[..count].iter().map(|entry| (entry, None)).collect();
            let alone: Vec<ImageFacts> = some
                .iter()
                .map(|(entry, _)| look_at_one(entry, None, None))
                .collect();
            for threads in [1, 4, 100] {
                let sizes = |facts: &[ImageFacts]| -> Vec<u64> {
                    facts.iter().map(|facts| facts.file_bytes).collect()
                };
                let together = look_at(&some, None, threads);
                assert_eq!(together, alone, "{count} images on {threads} threads");
                assert_eq!(sizes(&together), (1..=count as u64).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_looks_of_the_ranks_come_back_in_the_lists_order() {
        let facts = |file_bytes| ImageFacts {
            file_bytes,
            ..ImageFacts::default()
        };
        let gathered = [
            vec![facts(0), facts(3)],
            vec![facts(1), facts(4)],
            vec![facts(2)],
        ];
        let encoded: Vec<Vec<u8>> = gathered.iter().map(comm::encode).collect();
        let sizes: Vec<u64> = interleave(encoded)
            .iter()
            .map(|facts| facts.file_bytes)
            .collect();
        assert_eq!(sizes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_input_is_not_replaced_by_whatever_name_it_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("out")).unwrap();
        for name in ["a.nii", "b.hdr", "b.img", "out/old.nii"] {
            std::fs::write(path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink(path("a.nii"), path("link.nii")).unwrap();
        std::os::unix::fs::symlink(path("a.nii"), path("out/link.nii")).unwrap();
        let refused = |input: &str, output: &str| {
            let entries = [ImageEntry {
                index: 1,
                input: path(input),
                output: path(output),
            }];
            let facts = [look_at_one(&entries[0], None, None)];
            refuse_replacing_inputs(&entries, &facts).is_err()
        };
        assert!(refused("a.nii", "./a.nii"));
        assert!(refused("link.nii", "a.nii"));
        assert!(refused("b.hdr", "out/../b.img"));
        assert!(!refused("a.nii", "out/old.nii"));
        assert!(!refused("a.nii", "out/link.nii"));
        assert!(!refused("a.nii", "out/new.nii"));
    }

    #[test]
    fn half_a_pair_is_a_result_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.img"), b"x").unwrap();
        let entry = ImageEntry {
            index: 1,
            input: dir.path().join("in.hdr"),
            output: dir.path().join("a.hdr"),
        };
        assert!(look_at_one(&entry, None, None).output_exists);
    }
}
