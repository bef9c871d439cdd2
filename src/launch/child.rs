//! A child process: started in its own process group, timed, and ended with all its descendants at its time
//! limit.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::UsageWho;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::resources::cpu_seconds_of;

/// Interval between two polls of a child, and therefore the error of its measured time.
const LOOK: Duration = Duration::from_millis(2);
/// How long a child can take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Conditions for ending a child.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Its time limit; `None` for no limit.
    pub time: Option<Duration>,
    /// Set when it must end now.
    pub stop: &'a AtomicBool,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// Seconds from its start to its end.
    pub wall_s: f64,
    /// The reason.
    pub how: How,
    /// Mean number of CPUs used by other processes meanwhile; `None` if the system does not report it.
    pub others_cpus: Option<f64>,
}

/// Why a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal from outside.
    Killed(i32),
    /// The system killed it because memory was full.
    OutOfMemory,
    /// It reached its time limit.
    TimedOut,
    /// It was stopped by the caller.
    Stopped,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Exited(code) => write!(f, "it ended with exit code {code}"),
            How::Killed(signal) => write!(f, "signal {signal} ended it"),
            How::OutOfMemory => f.write_str("it was killed because memory was full"),
            How::TimedOut => f.write_str("it reached the time limit"),
            How::Stopped => f.write_str("it was stopped"),
        }
    }
}

/// Runs a command to its end and writes its output to the file `log`.
///
/// # Panics
/// If `words` is empty.
pub fn run(words: &[OsString], log: &Path, limits: &Limits<'_>) -> Result<Ended, String> {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let open = |file: std::io::Result<File>| {
        file.map_err(|error| format!("{}: cannot be written: {error}", log.display()))
    };
    let out = open(File::create(log))?;
    let err = open(out.try_clone())?;
    let oom_kills = oom_kills();
    let busy_before_s = others_busy_s();
    let started = Instant::now();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0);
    end_with_this_process(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| format!("{}: cannot be started: {error}", Path::new(program).display()))?;
    let group = Pid::from_raw(child.id() as i32);
    let mut signalled: Option<(How, Instant)> = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let wall_s = started.elapsed().as_secs_f64();
                // Its descendants end with it.
                let _ = killpg(group, Signal::SIGKILL);
                let killed = status.signal().or_else(|| {
                    status
                        .code()
                        .filter(|code| (129..=192).contains(code))
                        .map(|code| code - 128)
                });
                let how = match (signalled, killed) {
                    (Some((how, _)), _) => how,
                    (None, Some(_)) if self::oom_kills() > oom_kills => How::OutOfMemory,
                    (None, Some(signal)) => How::Killed(signal),
                    (None, None) => How::Exited(status.code().unwrap_or(-1)),
                };
                let others_cpus = busy_before_s
                    .zip(others_busy_s())
                    .map(|(before, after)| ((after - before) / wall_s).max(0.0));
                return Ok(Ended {
                    wall_s,
                    how,
                    others_cpus,
                });
            }
            Ok(None) => {}
            Err(error) => return Err(format!("waiting for the run failed: {error}")),
        }
        match signalled {
            Some((_, at)) if at.elapsed() > GRACE => {
                let _ = killpg(group, Signal::SIGKILL);
            }
            Some(_) => {}
            None => {
                let late = limits.time.is_some_and(|time| started.elapsed() >= time);
                let stop = limits.stop.load(Ordering::Relaxed);
                if late || stop {
                    let how = if stop { How::Stopped } else { How::TimedOut };
                    signalled = Some((how, Instant::now()));
                    let _ = killpg(group, Signal::SIGTERM);
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Makes the system send the child a signal when this process ends, even if it is killed. The launcher then
/// ends its ranks. The system watches the thread that starts the child, which waits for it here.
fn end_with_this_process(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = nix::unistd::getpid();
        let ask = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // The parent can have ended already; then no signal is sent.
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, and no memory is allocated.
        unsafe { command.pre_exec(ask) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// CPU seconds used on this machine by processes other than this one and its ended children.
fn others_busy_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    let per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()?? as f64;
    let own_s = cpu_seconds_of(UsageWho::RUSAGE_SELF) + cpu_seconds_of(UsageWho::RUSAGE_CHILDREN);
    Some((user + nice + system + irq + softirq + steal) / per_s - own_s)
}

/// Number of processes that the system has killed because memory was full, since boot; 0 if unknown.
fn oom_kills() -> u64 {
    std::fs::read_to_string("/proc/vmstat")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, time: Option<Duration>) -> (Ended, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let stop = AtomicBool::new(false);
        let words = ["sh", "-c", script].map(OsString::from);
        let ended = run(&words, &log, &Limits { time, stop: &stop }).unwrap();
        (ended, std::fs::read_to_string(log).unwrap())
    }

    #[test]
    fn a_childs_own_work_is_not_taken_for_others() {
        let (ended, _) = sh("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", None);
        let cpus = std::thread::available_parallelism().unwrap().get() as f64;
        // Independent of other load: this child itself used a part of the CPUs.
        let others = ended.others_cpus.unwrap();
        assert!(others <= cpus + 0.2, "{others} of {cpus}");
        assert!(others_busy_s().unwrap() > 0.0);
    }

    #[test]
    fn exit_codes_signals_and_words_are_kept() {
        let (ended, words) = sh("echo out; echo err >&2; exit 3", None);
        assert_eq!(ended.how, How::Exited(3));
        assert_eq!(words, "out\nerr\n");
        assert_eq!(sh("kill -9 $$", None).0.how, How::Killed(9));
        assert_eq!(sh("exit 137", None).0.how, How::Killed(9));
    }

    #[test]
    fn a_child_whose_time_is_up_ends_with_its_children() {
        let (ended, _) = sh("sleep 100 & sleep 100", Some(Duration::from_millis(100)));
        assert_eq!(ended.how, How::TimedOut);
        assert!(ended.wall_s < 9.0, "{ended:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let limits = Limits {
            time: None,
            stop: &stop,
        };
        let words = ["/no/such/program".into()];
        let error = run(&words, &folder.path().join("log"), &limits).unwrap_err();
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
