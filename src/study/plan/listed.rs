//! The images of a plan, from their headers. Voxels are never read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use super::measured::{ImageClass, ImageFeatures, MemoryByKind};
use crate::image_io;
use crate::images::{self, ListRequest};
use crate::job::mask::fault_by_headers;
use crate::job::{ImageJob, cost};
use crate::parallel::par_map;
use crate::resources;
use crate::run::PROBE_THREADS;

// Rank 0's own cost per image, measured on lists of 20,000 to 1,000,000 images. The seconds are small
// compared with the work on an image. tests/planning compares the memory with real runs.

/// Seconds to partition an image and to gather its record.
const SHARE_S: f64 = 2e-6;
/// Seconds to write its row of the report.
const REPORT_S: f64 = 3e-6;
/// Upper bound of the bytes that rank 0 holds for an image, without the names of its files.
const IMAGE_BYTES: f64 = 850.0;
/// The same for the figures of an image that is measured.
const QUALITY_BYTES: f64 = 360.0;
/// Number of copies of each name: in the list and in the report.
const NAMES_HELD: f64 = 2.0;

/// An image on the disk.
#[derive(Clone, Debug)]
pub(crate) struct FoundImage {
    pub input: PathBuf,
    /// Its mask, if each image has its own.
    pub mask: Option<PathBuf>,
    pub features: ImageFeatures,
}

#[cfg(test)]
impl From<ImageFeatures> for FoundImage {
    fn from(features: ImageFeatures) -> Self {
        FoundImage {
            input: "x.nii".into(),
            mask: None,
            features,
        }
    }
}

/// The existing images, and the images of the plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    /// The images whose headers can be read and whose masks fit, in the list's order.
    pub found: Vec<FoundImage>,
    /// Number of existing images, including damaged ones.
    pub listed: usize,
    /// The images of the plan: the found images, repeated from the beginning until there are enough.
    pub planned: Vec<ImageFeatures>,
    /// Seconds that listing took per image.
    pub list_s: f64,
    /// Seconds that one thread took to read a header.
    pub probe_s: f64,
    /// Bytes of the names of an image, its results and its mask together.
    pub name_bytes: usize,
    /// Whether the images are measured.
    pub measured: bool,
}

/// Lists the images and reads their headers.
///
/// `wanted` is the number of images to plan for; `None`: the existing ones. If it exceeds the existing
/// images, they are repeated.
pub(crate) fn probe(request: &ListRequest, job: &ImageJob, wanted: Option<usize>) -> Result<Listed, String> {
    let started = Instant::now();
    let collected = images::collect(request)?;
    let entries = collected.entries;
    let listed = entries.len();
    let list_s = started.elapsed().as_secs_f64() / listed as f64;
    let whole = |path| std::path::absolute(path).unwrap_or_default().as_os_str().len();
    let names = entries.iter().flat_map(|entry| {
        let more = [&entry.mask, &entry.second].into_iter().flatten();
        [&entry.input, &entry.output].into_iter().chain(more)
    });
    let name_bytes = names.map(whole).sum::<usize>().div_ceil(listed);

    let started = Instant::now();
    let threads = resources::available_cpus().min(PROBE_THREADS);
    let threads = threads.min(listed.div_ceil(16)).max(1);
    let probes = par_map(&entries, threads, |entry| {
        let probe = image_io::probe(&entry.input).map_err(|error| error.to_string())?;
        let choice = job.mask.as_ref().map(|mask| &mask.choice);
        let mask = choice.and_then(|choice| choice.file(entry.mask.as_deref()));
        if let Some(fault) = mask.and_then(|mask| fault_by_headers(&entry.input, mask)) {
            return Err(fault);
        }
        let (datatype, scaled) = (probe.datatype, probe.scaled);
        Ok(ImageFeatures {
            class: ImageClass { datatype, scaled },
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
            Ok(features) => found.push(FoundImage {
                input: entry.input,
                mask: entry.mask,
                features,
            }),
            Err(fault) => first_fault = first_fault.or(Some(fault)),
        }
    }
    if found.is_empty() {
        return Err(format!(
            "none of the {listed} images can be filtered; the first: {}",
            first_fault.unwrap_or_default()
        ));
    }
    let wanted = wanted.unwrap_or(found.len());
    Ok(Listed {
        planned: found
            .iter()
            .map(|image| image.features)
            .cycle()
            .take(wanted)
            .collect(),
        found,
        listed,
        list_s,
        probe_s,
        name_bytes,
        measured: job.qc,
    })
}

impl Listed {
    /// The memory that an image needs, by class and voxels.
    pub fn memory_by_kind(&self) -> MemoryByKind {
        let mut memory = MemoryByKind::new();
        for FoundImage { features: image, .. } in &self.found {
            let bytes = memory.entry((image.class, image.voxels)).or_default();
            *bytes = image.memory_bytes.max(*bytes);
        }
        memory
    }

    /// Seconds of rank 0's own work on the images of the plan, without the report. All ranks share the
    /// reading of headers.
    pub fn rank0_s(&self, ranks: usize, threads: usize) -> f64 {
        let probing = (ranks * threads.clamp(1, PROBE_THREADS)).max(1) as f64;
        self.planned.len() as f64 * (SHARE_S + self.list_s + self.probe_s / probing)
    }

    /// Seconds for the report.
    pub fn report_s(&self) -> f64 {
        self.planned.len() as f64 * REPORT_S
    }

    /// Bytes that rank 0 holds for a listed image.
    pub fn bytes_per_image(&self) -> f64 {
        // The name of the picture is a part of that of the result, which is one of two or more.
        let (quality, names_held) = match self.measured {
            true => (QUALITY_BYTES, NAMES_HELD + 0.5),
            false => (0.0, NAMES_HELD),
        };
        IMAGE_BYTES + quality + names_held * self.name_bytes as f64
    }

    /// Images whose headers cannot be read or whose masks do not fit.
    pub fn unusable(&self) -> usize {
        self.listed - self.found.len()
    }

    /// Number of planned images of each class.
    pub fn classes(&self) -> BTreeMap<ImageClass, usize> {
        let mut classes = BTreeMap::new();
        for image in &self.planned {
            *classes.entry(image.class).or_insert(0) += 1;
        }
        classes
    }

    /// Largest memory that a worker needs for one image, in bytes.
    pub fn largest_bytes(&self) -> u64 {
        let bytes = self.planned.iter().map(|image| image.memory_bytes);
        bytes.max().unwrap_or(0)
    }
}
