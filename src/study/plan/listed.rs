//! The images that are planned for, known by their headers: never by their voxels.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::measured::{ImageClass, ImageFeatures};
use crate::image_io;
use crate::images::{self, ListRequest};
use crate::job::{ImageJob, cost};
use crate::resources;

/// The images on the disk, and those planned for.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The images whose headers can be read, in the list's order.
    pub found: Vec<(PathBuf, ImageFeatures)>,
    /// How many there are, broken ones included.
    pub listed: usize,
    /// The images planned for: those found, from the beginning, again and again until there are enough.
    pub planned: Vec<ImageFeatures>,
    /// Mean bytes of the names of the listed images' inputs and outputs, from the root folder.
    pub name_bytes: [usize; 2],
    /// Seconds that listing took for each image.
    pub list_s: f64,
    /// Seconds that one thread took to look at each image.
    pub look_s: f64,
}

/// Lists the images and reads their headers.
///
/// `wanted` is how many images to plan for, `None` for those that there are. More than there are stand for more of the same
/// mixture.
///
/// # Errors
/// A sentence when nothing is listed or no header can be read.
pub fn look(
    request: &ListRequest,
    job: &ImageJob,
    wanted: Option<usize>,
) -> Result<Listed, String> {
    let begun = Instant::now();
    let entries = images::collect(request)
        .map_err(|error| error.to_string())?
        .entries;
    let listed = entries.len();
    let list_s = begun.elapsed().as_secs_f64() / listed as f64;
    let name_bytes = [
        mean_length(entries.iter().map(|entry| &entry.input)),
        mean_length(entries.iter().map(|entry| &entry.output)),
    ];

    let begun = Instant::now();
    let threads = resources::available_cpus()
        .min(8)
        .min(listed.div_ceil(16))
        .max(1);
    let next = AtomicUsize::new(0);
    let look = || {
        let mut seen = Vec::new();
        while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let probe = image_io::probe(&entry.input);
            seen.push((
                entry.index,
                probe.map(|probe| ImageFeatures {
                    class: ImageClass {
                        datatype: probe.datatype,
                        scaled: probe.scaled,
                    },
                    voxels: probe.shape.iter().map(|&length| length as u64).product(),
                    file_bytes: probe.file_bytes,
                    memory_bytes: cost::need(job, &probe).memory_bytes,
                }),
            ));
        }
        seen
    };
    let mut seen = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(look)).collect();
        let mut seen = look();
        for other in others {
            seen.extend(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        seen
    });
    let look_s = begun.elapsed().as_secs_f64() * threads as f64 / listed as f64;
    seen.sort_by_key(|(index, _)| *index);
    let mut first_fault = None;
    let mut found = Vec::with_capacity(listed);
    for (index, probe) in seen {
        match probe {
            Ok(features) => found.push((entries[index - 1].input.clone(), features)),
            Err(error) => first_fault = first_fault.or(Some(error.to_string())),
        }
    }
    if found.is_empty() {
        return Err(format!(
            "none of the {listed} images can be read; the first: {}",
            first_fault.unwrap_or_default()
        ));
    }
    let planned = (0..wanted.unwrap_or(found.len()))
        .map(|place| found[place % found.len()].1)
        .collect();
    Ok(Listed {
        found,
        listed,
        planned,
        name_bytes,
        list_s,
        look_s,
    })
}

/// Mean length of paths from the root folder in bytes, rounded up; 0 of none.
fn mean_length<'a>(paths: impl ExactSizeIterator<Item = &'a PathBuf>) -> usize {
    let count = paths.len().max(1);
    let whole = |path: &PathBuf| {
        std::path::absolute(path).map_or(path.as_os_str().len(), |path| path.as_os_str().len())
    };
    paths.map(whole).sum::<usize>().div_ceil(count)
}

impl Listed {
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
