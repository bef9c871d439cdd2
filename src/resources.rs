//! Resources: what this process was given (CPUs, host) and what it has used (CPU time, memory), from the kernel.

use nix::sys::resource::{UsageWho, getrusage};

/// The host's name; "unknown" where the kernel does not tell.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The CPUs that this process may run on, by number: its affinity mask, never the machine's count. Empty where the
/// system has no such mask.
pub fn affinity() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) {
        return (0..nix::sched::CpuSet::count())
            .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
            .collect();
    }
    Vec::new()
}

/// How many threads the system lets run at once for this process: affinity and CPU quota of its control group together.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// CPU seconds that all threads of this process have used so far, user and system.
pub fn cpu_seconds() -> f64 {
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

/// The most memory that this process has held at any moment (resident set, high-water mark), in bytes.
///
/// `VmHWM` of /proc/self/status, which starts anew with the program; `ru_maxrss`, used elsewhere, is inherited from the
/// process that started it.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let high_water = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok());
    high_water.map_or_else(
        || {
            getrusage(UsageWho::RUSAGE_SELF)
                .map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
        },
        |kib| kib * 1024,
    )
}

/// CPUs for one of several ranks of a host: `masks` are the affinity masks of the host's ranks. CPUs that several ranks
/// may use (an unbound `mpirun -n 4`) are divided among them; at least 1.
pub fn fair_cpus(own: &[usize], masks: &[&[usize]]) -> usize {
    let share: f64 = own
        .iter()
        .map(|cpu| {
            1.0 / masks
                .iter()
                .filter(|mask| mask.contains(cpu))
                .count()
                .max(1) as f64
        })
        .sum();
    // The sum of thirds is not quite whole.
    ((share + 1e-9) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(peak_rss_bytes() > 100_000);
        assert!(!host_name().is_empty());
        assert!(available_cpus() >= 1);
        let before = cpu_seconds();
        let mut sum = 0_u64;
        while cpu_seconds() - before < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        #[cfg(target_os = "linux")]
        assert!(!affinity().is_empty());
    }

    #[test]
    fn shared_cpus_are_divided_and_bound_ones_kept() {
        let all = [0, 1, 2, 3, 4, 5];
        assert_eq!(fair_cpus(&all, &[all.as_slice(); 3]), 2);
        assert_eq!(fair_cpus(&all, &[all.as_slice(); 12]), 1);
        assert_eq!(fair_cpus(&[0, 1], &[&[0, 1], &[2, 3]]), 2);
        assert_eq!(fair_cpus(&[], &[]), 1);
    }
}
