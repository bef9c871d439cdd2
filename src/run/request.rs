//! The request: checks before anything is written that the memory requested from Slurm is enough for the
//! largest image.

use std::path::Path;

use crate::job::memory;
use crate::resources::{self, MemoryLimit};
use crate::slurm::{self, MemoryOption};

/// Refuses a job whose ranks cannot hold the largest of these images (bytes in memory of each). Local to the
/// root, which works with `threads`. Outside a Slurm job only the image that does not fit fails.
pub(super) fn check<'a>(
    images: impl Iterator<Item = (&'a Path, u64)>,
    ranks_on_host: usize,
    threads: usize,
) -> Result<(), String> {
    let Some((_, option)) = slurm::memory_bytes() else {
        return Ok(());
    };
    let Some(limit) = resources::memory_limit(ranks_on_host) else {
        return Ok(());
    };
    let cpus = slurm::cpus_per_task().unwrap_or(1);
    let own = resources::rss_bytes() + memory::threads_bytes(threads, 0, false);
    match images.max_by_key(|&(_, bytes)| bytes) {
        Some((path, bytes)) => fits(path, bytes, &limit, option, own, ranks_on_host, cpus),
        None => Ok(()),
    }
}

fn fits(
    path: &Path,
    image_bytes: u64,
    limit: &MemoryLimit,
    option: MemoryOption,
    own_bytes: u64,
    ranks_on_host: usize,
    cpus_per_rank: usize,
) -> Result<(), String> {
    let rank_bytes = image_bytes.saturating_add(own_bytes);
    if rank_bytes <= limit.bytes {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    // A tenth more than the minimum, because headers do not determine everything.
    let wanted_mib = mib(rank_bytes.saturating_add(rank_bytes / 10));
    let (name, value_mib) = match option {
        MemoryOption::PerCpu => ("mem-per-cpu", wanted_mib.div_ceil(cpus_per_rank as u64)),
        MemoryOption::PerNode => ("mem", wanted_mib.saturating_mul(ranks_on_host as u64)),
    };
    Err(format!(
        "{}: the largest image needs {} MiB of memory and the program itself {} MiB, but each rank has {} \
         MiB ({}). Nothing was written.\n  Request more: #SBATCH --{name}={value_mib}M",
        path.display(),
        mib(image_bytes),
        mib(own_bytes),
        limit.bytes >> 20,
        limit.source,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_change_would_do() {
        let path = Path::new("in/large.nii");
        let check = |limit_mib: u64, option, ranks, cpus| {
            let limit = MemoryLimit {
                bytes: limit_mib << 20,
                source: "Slurm's --mem".to_owned(),
                address_space: false,
            };
            // An image of 900 MiB, and 32 MiB for the program and its worker.
            fits(path, 900 << 20, &limit, option, 32 << 20, ranks, cpus)
        };
        assert_eq!(check(932, MemoryOption::PerNode, 4, 1), Ok(()));
        let message = check(931, MemoryOption::PerNode, 4, 1).unwrap_err();
        assert_eq!(
            message,
            "in/large.nii: the largest image needs 900 MiB of memory and the program itself 32 MiB, but \
             each rank has 931 MiB (Slurm's --mem). Nothing was written.\n  Request more: #SBATCH --mem=4104M"
        );
        let message = check(931, MemoryOption::PerCpu, 4, 2).unwrap_err();
        assert!(message.ends_with("#SBATCH --mem-per-cpu=513M"), "{message}");
    }
}
