//! The images that are planned for, known by their headers: never by their voxels.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Instant;

use super::measured::{ImageClass, ImageFeatures};
use super::rank0::Rank0;
use crate::image_io;
use crate::images::{self, ListRequest};
use crate::job::{ImageJob, cost};
use crate::parallel::par_map;
use crate::resources;
use crate::run::PROBE_THREADS;

/// The images on the disk, and those planned for.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// The images whose headers can be read, in the list's order.
    pub found: Vec<(PathBuf, ImageFeatures)>,
    /// How many there are, damaged ones included.
    pub listed: usize,
    /// The images planned for: those found, from the beginning, again and again until there are enough.
    pub planned: Vec<ImageFeatures>,
    /// What rank 0 does for each image.
    pub rank0: Rank0,
}

/// Lists the images and reads their headers.
///
/// `wanted` is how many images to plan for, `None` for those that exist. More than exist stand for more of
/// the same mixture.
///
/// # Errors
/// A sentence when nothing is listed or no header can be read.
pub(crate) fn probe(request: &ListRequest, job: &ImageJob, wanted: Option<usize>) -> Result<Listed, String> {
    let started = Instant::now();
    let entries = images::collect(request)
        .map_err(|error| error.to_string())?
        .entries;
    let listed = entries.len();
    let list_s = started.elapsed().as_secs_f64() / listed as f64;
    let whole = |path: &PathBuf| {
        std::path::absolute(path).map_or(path.as_os_str().len(), |path| path.as_os_str().len())
    };
    let names = entries
        .iter()
        .map(|entry| whole(&entry.input) + whole(&entry.output));
    let name_bytes = names.sum::<usize>().div_ceil(listed);

    let started = Instant::now();
    let threads = resources::available_cpus()
        .min(PROBE_THREADS)
        .min(listed.div_ceil(16))
        .max(1);
    let probes = par_map(&entries, threads, |entry| {
        let probe = image_io::probe(&entry.input)?;
        let class = ImageClass {
            datatype: probe.datatype,
            scaled: probe.scaled,
        };
        Ok::<_, image_io::ImageError>(ImageFeatures {
            class,
            voxels: probe.shape.iter().map(|&length| length as u64).product(),
            file_bytes: probe.file_bytes,
            memory_bytes: cost::need(job, &probe).memory_bytes,
        })
    });
    let probe_s = started.elapsed().as_secs_f64() * threads as f64 / listed as f64;
    let mut first_fault = None;
    let mut found = Vec::with_capacity(listed);
    for (entry, probe) in entries.into_iter().zip(probes) {
        match probe {
            Ok(features) => found.push((entry.input, features)),
            Err(error) => first_fault = first_fault.or(Some(error.to_string())),
        }
    }
    if found.is_empty() {
        return Err(format!(
            "none of the {listed} images can be read; the first: {}",
            first_fault.unwrap_or_default()
        ));
    }
    let wanted = wanted.unwrap_or(found.len());
    Ok(Listed {
        planned: found.iter().map(|image| image.1).cycle().take(wanted).collect(),
        found,
        listed,
        rank0: Rank0 {
            list_s,
            probe_s,
            name_bytes,
        },
    })
}

impl Listed {
    /// The memory of each image that was found, by its path as it was given and from the root folder.
    pub fn memory_by_path(&self) -> HashMap<String, u64> {
        let names = |(path, features): &(PathBuf, ImageFeatures)| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            [path, &absolute].map(|path| (path.display().to_string(), features.memory_bytes))
        };
        self.found.iter().flat_map(names).collect()
    }

    /// Images whose headers cannot be read.
    pub fn unreadable(&self) -> usize {
        self.listed - self.found.len()
    }

    /// How many images of each class are planned for.
    pub fn classes(&self) -> BTreeMap<ImageClass, usize> {
        let mut classes = BTreeMap::new();
        for image in &self.planned {
            *classes.entry(image.class).or_insert(0) += 1;
        }
        classes
    }

    /// The most that a worker holds for one image, bytes.
    pub fn largest_bytes(&self) -> u64 {
        self.planned
            .iter()
            .map(|image| image.memory_bytes)
            .max()
            .unwrap_or(0)
    }
}
