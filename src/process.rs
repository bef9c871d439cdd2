//! Identifies this process, so that another process can check later if it is still alive.

use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, gethostname};
use serde::{Deserialize, Serialize};

/// Together with the PID, identifies a process among all machines and times. Host names are not used, because
/// containers and cloned machines share them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The boot ID of the machine.
    pub(crate) boot_id: String,
    pub(crate) pid_namespace: u64,
    /// Its start time, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl ProcessId {
    /// This process; `None` if the system does not report it.
    pub(crate) fn current() -> Option<Self> {
        Some(Self {
            boot_id: boot_id()?.trim().to_owned(),
            pid_namespace: pid_namespace()?,
            start_ticks: start_ticks()?,
        })
    }

    /// Whether the process with this PID and identity is alive; `None` on another machine or in another
    /// namespace.
    pub(crate) fn lives(&self, pid: u32) -> Option<bool> {
        let own = Self::current()?;
        if (&own.boot_id, own.pid_namespace) != (&self.boot_id, self.pid_namespace) {
            return None;
        }
        let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
        Some(lives_since(pid, self.start_ticks))
    }
}

/// Whether a process of this host is alive. A zombie process is not.
pub(crate) fn lives(pid: i32) -> bool {
    lives_as(pid, |_| true)
}

/// The same, and it is the process that started at this time.
pub(crate) fn lives_since(pid: i32, start_ticks: u64) -> bool {
    lives_as(pid, |stat| stat.start_ticks == start_ticks)
}

fn lives_as(pid: i32, is_meant: impl Fn(&Stat) -> bool) -> bool {
    // Another user's process can be hidden. It is alive then, but its start is unknown.
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
        && Stat::of(&pid.to_string()).is_none_or(|stat| is_meant(&stat) && !matches!(stat.state, 'Z' | 'X'))
}

/// When this process started, in clock ticks since boot; `None` if the system does not report it.
pub(crate) fn start_ticks() -> Option<u64> {
    Some(Stat::of("self")?.start_ticks)
}

/// Identifies the scope of PIDs: this boot of this host, and this PID namespace. Digits and letters.
pub(crate) fn space() -> &'static str {
    static SPACE: LazyLock<String> = LazyLock::new(|| {
        let host = || gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let boot = boot_id().unwrap_or_else(host);
        let namespace = pid_namespace().map_or(String::new(), |number| number.to_string());
        format!("{:08x}n{namespace}", crc32fast::hash(boot.as_bytes()))
    });
    &SPACE
}

fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// The number of this process's PID namespace.
fn pid_namespace() -> Option<u64> {
    // "pid:[4026531836]"
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let text = link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?;
    text.parse().ok()
}

struct Stat {
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn of(process: &str) -> Option<Self> {
        let text = std::fs::read(Path::new("/proc").join(process).join("stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// The fields follow the name, which is in parentheses and can contain any character.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        // The state is field 3, the start field 22.
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_lives_until_it_ends_and_its_number_alone_does_not_count() {
        let own = ProcessId::current().unwrap();
        let pid = std::process::id();
        assert_eq!(own.lives(pid), Some(true));
        let earlier = ProcessId {
            start_ticks: own.start_ticks - 1,
            ..own.clone()
        };
        assert_eq!(earlier.lives(pid), Some(false), "the PID was used before");
        let elsewhere = ProcessId {
            boot_id: "another".to_owned(),
            ..own.clone()
        };
        assert_eq!(elsewhere.lives(pid), None);
        let contained = ProcessId {
            pid_namespace: own.pid_namespace + 1,
            ..own.clone()
        };
        assert_eq!(contained.lives(pid), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = child.id();
        let until = Instant::now() + Duration::from_secs(20);
        while lives(ended as i32) {
            assert!(Instant::now() < until, "a zombie is not alive");
        }
        child.wait().unwrap();
        assert_eq!((lives(ended as i32), own.lives(ended)), (false, Some(false)));
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = Stat::parse(&format!("7 (a) S (b) R {}", fields.join(" "))).unwrap();
        assert_eq!((stat.state, stat.start_ticks), ('R', 22));
    }
}
