//! Resources: the CPUs and host of this process, and its CPU time and memory, from the kernel.

use std::collections::HashMap;
use std::path::Path;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use serde::{Deserialize, Serialize};

use crate::slurm;

/// The model of this host's CPUs; empty if unknown.
pub fn cpu_model() -> String {
    cpu_model_in(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn cpu_model_in(cpuinfo: &str) -> String {
    let value = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim().to_owned())
    };
    // ARM CPUs have numbers instead of a name.
    let numbered = || Some(format!("{} {}", value("CPU implementer")?, value("CPU part")?));
    value("model name").or_else(numbered).unwrap_or_default()
}

/// The host name; "unknown" if the kernel does not report it.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The numbers of the CPUs that this process can run on: its affinity mask, not all CPUs of the machine.
/// Empty if the system has no such mask.
pub fn affinity() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) {
        return (0..nix::sched::CpuSet::count())
            .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
            .collect();
    }
    Vec::new()
}

/// How many threads of this process can run at once, from its affinity mask and the CPU quota of its control
/// group.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// CPU seconds that all threads of this process have used so far, user and system.
pub fn cpu_seconds() -> f64 {
    cpu_seconds_of(UsageWho::RUSAGE_SELF)
}

pub(crate) fn cpu_seconds_of(who: UsageWho) -> f64 {
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    getrusage(who).map_or(0.0, |usage| {
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

/// CPU seconds since a point in time.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    before_s: f64,
}

impl CpuMeter {
    /// Starts counting now.
    pub fn start() -> Self {
        CpuMeter {
            before_s: cpu_seconds(),
        }
    }

    /// CPU seconds that all threads of this process have used since then, user and system.
    pub fn seconds(&self) -> f64 {
        cpu_seconds() - self.before_s
    }
}

/// The peak memory of this process since its start or since [`forget_peak_rss`] (resident set, high-water
/// mark), in bytes.
///
/// `VmHWM` of /proc/self/status, which starts from zero with the program; `ru_maxrss`, used elsewhere, is
/// inherited from the process that started it.
pub fn peak_rss_bytes() -> u64 {
    status_bytes("VmHWM:").unwrap_or_else(|| {
        getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
    })
}

/// Returns freed memory to the system, so that later allocations show up in [`rss_bytes`]. Does nothing with
/// C libraries other than GNU's.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes no pointer and may be called at any time by any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Resets [`peak_rss_bytes`]. Returns whether the kernel supports it: Linux with a writable /proc.
pub fn forget_peak_rss() -> bool {
    // proc_pid_clear_refs(5): 5 resets the high-water mark, since Linux 4.0.
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A field of /proc/self/status in KiB; `None` if the kernel does not report it.
fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib = value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib * 1024)
}

/// A limit on the memory of this process, and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// The limit of this process alone, in bytes.
    pub bytes: u64,
    /// Its source, for messages: "ulimit -v", "Slurm's --mem", …
    pub source: String,
    /// Whether it limits the address space, not only resident memory.
    pub address_space: bool,
}

/// The lowest memory limit from the environment and the kernel. Shared limits are divided among the ranks of
/// the host.
///
/// - `ulimit -v` (`RLIMIT_AS`) applies to this process only.
/// - The control group's limit (version 2 and 1, of the group or a parent group) is shared by all ranks in
///   that group, such as the ranks of a job on a node.
/// - Slurm's `--mem` and `--mem-per-cpu` count if Slurm does not enforce them through a control group.
///
/// `ranks_on_host` is the number of this run's ranks on this host. `None` if there is no limit.
pub fn memory_limit(ranks_on_host: usize) -> Option<MemoryLimit> {
    let ranks = ranks_on_host.max(1) as u64;
    let own = |bytes: u64, source: &str| MemoryLimit {
        bytes,
        source: source.to_owned(),
        address_space: false,
    };
    let limits = [
        address_space_limit_bytes().map(|bytes| MemoryLimit {
            address_space: true,
            ..own(bytes, "ulimit -v")
        }),
        cgroup_limit_bytes(Path::new("/"))
            .map(|bytes| own(bytes / ranks, "the memory limit of the control group")),
        slurm::memory_bytes()
            .map(|(bytes, source)| own(bytes / if source.per_node() { ranks } else { 1 }, source.option())),
    ];
    limits.into_iter().flatten().min_by_key(|limit| limit.bytes)
}

/// Current memory of this process in bytes (resident set); 0 if the kernel does not report it.
pub fn rss_bytes() -> u64 {
    status_bytes("VmRSS:").unwrap_or(0)
}

/// Current address space of this process in bytes, which `ulimit -v` limits; 0 if the kernel does not report
/// it.
pub fn address_space_bytes() -> u64 {
    status_bytes("VmSize:").unwrap_or(0)
}

/// `RLIMIT_AS` of this process; `None` if unlimited.
fn address_space_limit_bytes() -> Option<u64> {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != nix::sys::resource::rlim_t::MAX && soft < i64::MAX as u64).then_some(soft)
}

/// The lowest memory limit of this process's control group and its parents. `root` is `/` except in tests.
fn cgroup_limit_bytes(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let least = groups.lines().filter_map(|line| {
        // hierarchy-ID:controllers:path
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let mount = root.join(mount);
        // In a container the path can be the one outside it. Unreadable groups are skipped; the root of the
        // mount comes last.
        mount
            .join(path.trim_start_matches('/'))
            .ancestors()
            .take_while(|folder| folder.starts_with(&mount))
            .filter_map(|folder| {
                let text = std::fs::read_to_string(folder.join(file)).ok()?;
                text.trim().parse::<u64>().ok()
            })
            .min()
    });
    // Version 1 uses a number near 2⁶³ for "no limit".
    least.min().filter(|&bytes| bytes < 1 << 62)
}

/// Counts the ranks that can use each CPU of a host: `masks` are the affinity masks of the host's ranks.
pub fn ranks_on_cpus<'a>(masks: impl IntoIterator<Item = &'a [usize]>) -> HashMap<usize, usize> {
    let mut ranks_on = HashMap::new();
    for &cpu in masks.into_iter().flatten() {
        *ranks_on.entry(cpu).or_default() += 1;
    }
    ranks_on
}

/// CPUs for one of several ranks of a host, from its affinity mask and the result of [`ranks_on_cpus`]. CPUs
/// shared by several ranks (an unbound `mpirun -n 4`) are divided among them; at least 1.
pub fn fair_cpus(own: &[usize], ranks_on: &HashMap<usize, usize>) -> usize {
    let share: f64 = own
        .iter()
        .map(|cpu| 1.0 / ranks_on.get(cpu).copied().unwrap_or(1) as f64)
        .sum();
    // The sum of thirds is not exactly an integer.
    ((share + 1e-9) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(peak_rss_bytes() > 100_000);
        let now = rss_bytes();
        assert!(peak_rss_bytes() >= now);
        #[cfg(target_os = "linux")]
        assert!(rss_bytes() > 100_000 && address_space_bytes() > rss_bytes());
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
    fn a_meter_leaves_out_what_was_used_before_it() {
        let use_up = |from: f64| {
            while cpu_seconds() - from < 0.02 {
                std::hint::black_box(0_u64);
            }
        };
        use_up(cpu_seconds());
        let before = cpu_seconds();
        let meter = CpuMeter::start();
        let after = cpu_seconds();
        use_up(after);
        let counted = meter.seconds();
        let all = cpu_seconds();
        assert!(counted >= 0.02 - 1e-9, "{counted}");
        assert!(counted <= all - before, "{counted} {before} {all}");
    }

    #[test]
    fn the_least_limit_of_the_control_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(cgroup_limit_bytes(root.path()), None);
        write("proc/self/cgroup", "0::/system.slice/job_7/step_0\n");
        assert_eq!(cgroup_limit_bytes(root.path()), None);
        write("sys/fs/cgroup/system.slice/job_7/memory.max", "2147483648\n");
        write("sys/fs/cgroup/system.slice/job_7/step_0/memory.max", "max\n");
        assert_eq!(cgroup_limit_bytes(root.path()), Some(2 << 30));
        write(
            "proc/self/cgroup",
            "12:cpu,cpuacct:/a\n11:memory:/slurm/uid_0/job_9\n0::/x\n",
        );
        let v1 = "sys/fs/cgroup/memory/slurm/uid_0/job_9/memory.limit_in_bytes";
        write(v1, "9223372036854771712\n");
        assert_eq!(cgroup_limit_bytes(root.path()), None);
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(cgroup_limit_bytes(root.path()), Some(1 << 30));
    }

    #[test]
    fn shared_cpus_are_divided_and_bound_ones_kept() {
        let all = [0, 1, 2, 3, 4, 5];
        assert_eq!(fair_cpus(&all, &ranks_on_cpus([all.as_slice(); 3])), 2);
        assert_eq!(fair_cpus(&all, &ranks_on_cpus([all.as_slice(); 12])), 1);
        let bound = ranks_on_cpus([&[0, 1][..], &[2, 3]]);
        assert_eq!(fair_cpus(&[0, 1], &bound), 2);
        assert_eq!(fair_cpus(&[], &ranks_on_cpus([])), 1);
    }
}
