//! `niimpi --version -v`: the parts of this program and of this machine that a bug report should name.

use std::fmt::Write;

use super::devices;
use crate::comm;

/// The commit that the program was built from, as `git describe` names it.
const COMMIT: &str = match option_env!("NIIMPI_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Whether these arguments, without the program's name, ask for the details.
pub(super) fn details_wanted(args: &[String]) -> bool {
    let is = |arg: &String, names: [&str; 2]| names.contains(&arg.as_str());
    let (version, verbose) = (["--version", "-V"], ["--verbose", "-v"]);
    match args {
        [a, b] => is(a, version) && is(b, verbose) || is(a, verbose) && is(b, version),
        [a] => a == "-vV" || a == "-Vv",
        _ => false,
    }
}

/// One line for each part.
pub(super) fn details() -> String {
    let mut text = format!("niimpi {}\n", env!("CARGO_PKG_VERSION"));
    let isal = cfg!(any(feature = "isal", feature = "isal-bundled"));
    let lines = [
        ("commit", COMMIT.to_owned()),
        ("MPI", comm::library().unwrap_or_else(|| "none".to_owned())),
        ("gzip codec", if isal { "ISA-L" } else { "flate2" }.to_owned()),
        ("devices", devices::in_a_line()),
        ("CPU features", cpu_features().join(" ")),
        (
            "target",
            format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
        ),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{:14}{value}", format!("{name}:"));
    }
    text
}

/// The features of this CPU that niimpi's code or libraries use.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let known = [("neon", cfg!(target_feature = "neon"))];
    let found = known.into_iter().filter_map(|(name, has)| has.then_some(name));
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_name_every_part_and_are_asked_for_with_v() {
        let text = details();
        for part in ["commit:", "MPI:", "gzip codec:", "devices:", "CPU features:"] {
            assert!(text.contains(part), "{text}");
        }
        let wanted = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            details_wanted(&args)
        };
        for line in ["--version -v", "-V --verbose", "-v -V", "-vV"] {
            assert!(wanted(line), "{line}");
        }
        for line in ["--version", "-v", "", "smooth -v", "--version -v in"] {
            assert!(!wanted(line), "{line}");
        }
    }
}
