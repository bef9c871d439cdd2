//! Agreement: the ranks exchange who they are, receive the list of images, and probe the images together.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::checks::{check_filter, check_folders, refuse_links};
use super::renamed::refuse_renamed;
use super::resume::{self, Claims, Found};
use super::{Config, rivals};
use crate::comm::{self, Communicator, ROOT};
use crate::fault::Fault;
use crate::images::bids::Metadata;
use crate::images::probe::{self, ImageFacts, NeedOf};
use crate::images::{self, ImageEntry, PathPattern};
use crate::job::cost;
use crate::job::mask::fault_by_headers;
use crate::journal::past::Past;
use crate::parallel::par_map;
use crate::text::counted;
use crate::{resources, slurm};

impl Config {
    /// Values that must be equal on all ranks.
    pub(crate) fn request(&self) -> comm::Request {
        let list = &self.list;
        let paths = |paths: &[PathBuf]| -> String {
            let texts: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            texts.join(" ")
        };
        let patterns = |patterns: &[PathPattern]| format!("{patterns:?}");
        let optional = |value: Option<String>| value.unwrap_or_else(|| "not given".to_owned());
        let values = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("the command", self.job.filter.command().join(" ")),
            ("--dry-run", self.dry_run.to_string()),
            ("the input", paths(&list.inputs)),
            ("--list", paths(list.list_file.as_slice())),
            ("--output", paths(std::slice::from_ref(&list.output))),
            ("--name", optional(list.name.as_ref().map(ToString::to_string))),
            (
                "--mask",
                optional(self.job.mask.as_ref().map(|mask| mask.choice.to_string())),
            ),
            (
                "--bids",
                optional(list.bids.as_ref().map(|bids| format!("{bids:?}"))),
            ),
            ("--base", paths(list.base.as_slice())),
            ("--include", patterns(&list.include)),
            ("--exclude", patterns(&list.exclude)),
            ("--follow-links", list.follow_links.to_string()),
            ("--limit", optional(self.limit.map(|limit| limit.to_string()))),
            ("--shard", optional(self.shard.map(|shard| shard.to_string()))),
            (
                "the treatment of existing results",
                format!("{:?}", self.existing),
            ),
            ("--strategy", self.strategy.name().to_owned()),
            ("--split", self.split.name().to_owned()),
            ("--device", self.device.to_string()),
        ];
        let mut request = values.map(|(name, value)| (name.to_owned(), value)).to_vec();
        push_leaves("", &self.job.options(), &mut request);
        request
    }
}

impl Config {
    /// The metadata of the dataset that is the input, if it is one.
    pub(super) fn metadata(&self) -> Option<Metadata> {
        let root = self.list.bids.as_ref().and(self.list.inputs.first())?;
        Some(Metadata::new(root, self.job.options()).following_links(self.list.follow_links))
    }
}

/// Adds each value of nested options under its own name.
fn push_leaves(name: &str, value: &serde_json::Value, request: &mut comm::Request) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                push_leaves(name, value, request);
            }
        }
        single => request.push((name.to_owned(), single.to_string())),
    }
}

/// The first message of each rank.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    host: String,
    affinity: Vec<usize>,
    available_cpus: usize,
    /// Threads requested on its command line.
    threads: Option<usize>,
}

/// The ranks of the run: one entry per rank in each list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ranks {
    pub(super) hosts: Vec<String>,
    /// CPUs allocated to each rank.
    pub(super) cpus: Vec<usize>,
    /// Threads of each rank.
    pub(super) threads: Vec<usize>,
    /// The number of CPUs that all ranks together can use, each counted once; `None` if the system does not
    /// report them.
    pub(super) distinct_cpus: Option<usize>,
}

impl Ranks {
    /// How many ranks run on the host of this one.
    pub(super) fn on_host_of(&self, rank: usize) -> usize {
        let host = &self.hosts[rank];
        self.hosts.iter().filter(|other| *other == host).count()
    }
}

/// Exchanges the first messages of all ranks. Collective.
pub(super) fn meet(comm: &impl Communicator, config: &Config) -> Ranks {
    let hello = Hello {
        host: resources::host_name(),
        affinity: resources::affinity(),
        available_cpus: resources::available_cpus(),
        threads: config.threads,
    };
    let hellos = comm::gather(comm, hello).unwrap_or_default();
    comm::from_root(comm, || {
        let cpus = cpus_of_ranks(&hellos);
        Ranks {
            threads: hellos
                .iter()
                .zip(&cpus)
                .map(|(hello, &cpus)| hello.threads.unwrap_or(cpus))
                .collect(),
            cpus,
            distinct_cpus: distinct_cpus(&hellos),
            hosts: hellos.into_iter().map(|hello| hello.host).collect(),
        }
    })
}

/// The images, and the journal records of each if the run is resumed.
#[derive(Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) entries: Vec<ImageEntry>,
    /// Folders of the input that cannot be read.
    pub(super) unreadable_folders: usize,
    pub(super) claims: Vec<Claims>,
    /// Digest of the list.
    pub(super) digest: String,
}

/// Lists the images on the root and broadcasts the list. Collective.
///
/// # Errors
/// The same error on every rank: a problem with the inputs, the output folder or the report.
pub(super) fn list(comm: &impl Communicator, config: &Config) -> Result<Listed, String> {
    comm::from_root(comm, || list_on_root(config))
}

fn list_on_root(config: &Config) -> Result<Listed, String> {
    if config.fault == Some(Fault::FailSetup { rank: ROOT }) {
        return Err("rank 0 fails in set-up, as requested by NIIMPI_TEST_FAULT".to_owned());
    }
    check_folders(config)?;
    check_filter(config)?;
    let images::ImageList {
        mut entries,
        unreadable_folders,
    } = images::collect(&config.list)?;
    if let Some(limit) = config.limit {
        entries.truncate(limit);
    }
    refuse_links(config, &entries)?;
    let digest = rivals::digest(&entries, &config.list.output);
    if !config.dry_run {
        let work = rivals::Work {
            list_digest: &digest,
            shard: config.shard,
        };
        rivals::refuse_before(&config.list.output, &work)?;
        rivals::refuse_other_division(&config.list.output, &work)?;
    }
    let past = past_of(config)?;
    let (output, options) = (&config.list.output, config.job.options());
    refuse_renamed(&past, &entries, output, &options)?;
    let claims = match config.existing.resumes() {
        true => resume::claims(past, &entries, output, &options),
        false => {
            drop(past);
            Vec::new()
        }
    };
    // Free the memory of sorting names and reading journals; otherwise it stays allocated for the whole run.
    resources::release_freed_memory();
    Ok(Listed {
        entries,
        unreadable_folders,
        claims,
        digest,
    })
}

/// The records in the journals of earlier runs. Only a resumed run depends on them.
fn past_of(config: &Config) -> Result<Past, String> {
    let past = Past::load(&config.list.output, resources::available_cpus());
    let past = match (past, config.existing.resumes()) {
        (Ok(past), _) => past,
        (Err(error), true) => {
            return Err(format!(
                "--resume: the journals of earlier runs cannot be read: {error}"
            ));
        }
        (Err(_), false) => Past::default(),
    };
    if past.torn_lines > 0 {
        tracing::info!(
            "ignoring {} (left by killed ranks); their images are processed again",
            counted(past.torn_lines, "incomplete journal line")
        );
    }
    Ok(past)
}

/// What a rank finds out about an image before any image is read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Look {
    pub(super) facts: ImageFacts,
    /// The files under its result's name.
    pub(super) found: Found,
    /// Why its mask cannot be used.
    pub(super) mask_fault: Option<String>,
}

/// The maximum number of threads per rank that read headers.
pub(crate) const PROBE_THREADS: usize = 8;

/// Probes all images, each on one of the ranks. Collective; the root receives the results in list order.
pub(super) fn look_at_images(
    comm: &impl Communicator,
    config: &Config,
    listed: &Listed,
) -> Option<Vec<Look>> {
    let mine: Vec<(&ImageEntry, Option<&Claims>)> = listed
        .entries
        .iter()
        .enumerate()
        .map(|(place, entry)| (entry, listed.claims.get(place)))
        .skip(comm.rank())
        .step_by(comm.size())
        .collect();
    let needs_headers = config.strategy.needs_costs() || config.dry_run || slurm::memory_bytes().is_some();
    let need_of: NeedOf<'_> = &|probe| cost::need(&config.job, probe);
    let threads = resources::available_cpus().min(PROBE_THREADS);
    let metadata = config.metadata();
    let looks = par_map(&mine, threads, |&(entry, claim)| {
        let mut facts = probe::probe(entry, needs_headers.then_some(need_of));
        if !config.dry_run {
            facts.widths = None;
        }
        let mask = config.job.mask.as_ref();
        let mask = mask.and_then(|mask| mask.choice.file(entry.mask.as_deref()));
        let mask_fault = mask.and_then(|mask| fault_by_headers(&entry.input, mask));
        if facts.error.is_none() {
            facts.error.clone_from(&mask_fault);
        }
        Look {
            facts,
            found: resume::look(entry, mask, metadata.as_ref(), claim),
            mask_fault,
        }
    });
    comm::gather(comm, looks).map(probe::interleave)
}

/// The number of CPUs of all ranks. CPUs shared by several ranks of a host count once; `None` if a rank does
/// not know its CPUs.
fn distinct_cpus(hellos: &[Hello]) -> Option<usize> {
    let mut cpus = HashSet::new();
    for hello in hellos {
        if hello.affinity.is_empty() {
            return None;
        }
        cpus.extend(hello.affinity.iter().map(|cpu| (&hello.host, cpu)));
    }
    Some(cpus.len())
}

/// CPUs of each rank: those that Slurm reports for a task, but not more than affinity mask and quota allow,
/// divided among the ranks of a host that share them.
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
    fn cpus_of_one_host_are_not_divided_with_another() {
        let hello = |host: &str| Hello {
            host: host.to_owned(),
            affinity: vec![0, 1, 2, 3],
            available_cpus: 4,
            threads: None,
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
            threads: None,
        };
        let shared = [hello("a", &[0, 1]), hello("a", &[0, 1]), hello("b", &[0])];
        assert_eq!(distinct_cpus(&shared), Some(3));
        assert_eq!(distinct_cpus(&[hello("a", &[])]), None);
    }
}
