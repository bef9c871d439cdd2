//! The call of a BIDS App: `niimpi BIDS_DIR OUTPUT_DIR participant [OPTIONS]` → the command of a filter.

use std::ffi::OsString;

use clap::Command;
use clap::error::ErrorKind;

/// The program's words as a command of a filter if they are the call of a BIDS App; otherwise unchanged.
///
/// # Errors
/// A usage error for the level `group`.
pub(super) fn as_filter(command: &Command, words: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let [program, dataset, output, level, options @ ..] = &words[..] else {
        return Ok(words);
    };
    let is_option = |word: &OsString| word.to_string_lossy().starts_with('-');
    let is_command = command.find_subcommand(dataset).is_some();
    if is_command || is_option(dataset) || is_option(output) {
        return Ok(words);
    }
    match level.to_str() {
        Some("participant") => {}
        Some("group") => {
            let text = "niimpi processes each image by itself and has no group level; give participant\n";
            return Err(clap::Error::raw(ErrorKind::InvalidValue, text));
        }
        _ => return Ok(words),
    }
    let (filter, options) = match options {
        [name, filter, rest @ ..] if name == "--filter" => (filter.clone(), rest),
        rest => ("smooth".into(), rest),
    };
    let start = [program.clone(), filter, dataset.clone(), "--bids".into()];
    let output = ["--output".into(), output.clone()];
    Ok(start
        .into_iter()
        .chain(output)
        .chain(options.iter().cloned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_call_of_an_app_is_changed() {
        let command = Command::new("niimpi").subcommand(Command::new("smooth"));
        let changed = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let words = as_filter(&command, words)?;
            let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
            Ok::<_, clap::Error>(words.join(" "))
        };
        for (line, expected) in [
            (
                "niimpi ds out participant --fwhm 6",
                "niimpi smooth ds --bids --output out --fwhm 6",
            ),
            (
                "niimpi ds out participant --filter median --size 3",
                "niimpi median ds --bids --output out --size 3",
            ),
            ("niimpi smooth x participant", "niimpi smooth x participant"),
            ("niimpi smooth x group", "niimpi smooth x group"),
            ("niimpi ds out", "niimpi ds out"),
            ("niimpi ds out other", "niimpi ds out other"),
            ("niimpi --help x participant", "niimpi --help x participant"),
        ] {
            assert_eq!(changed(line).unwrap(), expected);
        }
        assert!(
            changed("niimpi ds out group")
                .unwrap_err()
                .to_string()
                .contains("no group level")
        );
    }
}
