//! Destinations: a command can replace a file with its report, table or plan only if an earlier command wrote
//! it.

use std::io::Read;
use std::path::Path;

/// First bytes of niimpi's files, without blanks and table lines.
pub(crate) const REPORT: &str = r#"{"schema":"niimpi-report/"#;
pub(crate) const TABLE: &str = "rankhostimages";
pub(crate) const RANKS_CSV: &str = "rank,host,images,";
pub(crate) const IMAGES_CSV: &str = "index,input,output,";
pub(crate) const HTML: &str = r#"<!doctype html><html lang="en" data-niimpi-report>"#;
pub(crate) const PLAN: &str = r#"{"schema":"niimpi-plan/"#;
pub(crate) const PLAN_CSV: &str = "recommended,nodes,ranks,";
/// A batch script of a plan.
pub(crate) const SCRIPT: &str = "#!/bin/bash#SBATCH--job-name=niimpi#SBATCH--nodes=";

/// Refuses to replace a file whose content does not begin with `mark`. Pipes and devices are written to, not
/// replaced.
pub(crate) fn check(option: &str, path: &Path, mark: &str) -> Result<(), String> {
    let Ok(metadata) = std::fs::metadata(path) else {
        return Ok(());
    };
    if !metadata.is_file() || metadata.len() == 0 || begins_with(path, mark) {
        return Ok(());
    }
    Err(format!(
        "{option}: {} exists and was not written by niimpi for this purpose, so it is not replaced; give \
         another name, or remove the file first",
        path.display()
    ))
}

fn begins_with(path: &Path, mark: &str) -> bool {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut bytes));
    let plain = |byte: &u8| !byte.is_ascii_whitespace() && !b"|+-=".contains(byte);
    let mark: Vec<u8> = mark.bytes().filter(plain).collect();
    let found = bytes.into_iter().filter(plain).take(mark.len());
    read.is_ok() && found.eq(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::write_csv;
    use crate::report::{csv, sample::report, table};

    #[test]
    fn each_kind_of_file_is_known_again_and_no_other_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let report = report();
        report.write_json(&path("json")).unwrap();
        std::fs::write(path("table"), table::render(&report)).unwrap();
        write_csv(
            &csv::RANKS,
            &report.ranks,
            std::fs::File::create(path("ranks")).unwrap(),
        )
        .unwrap();
        csv::write_images(&report.images, std::fs::File::create(path("images")).unwrap()).unwrap();
        std::fs::write(path("html"), crate::report::html::render(&report, None).unwrap()).unwrap();
        std::fs::write(path("list"), "in/a.nii\n").unwrap();
        let kinds = [
            ("json", REPORT),
            ("table", TABLE),
            ("ranks", RANKS_CSV),
            ("images", IMAGES_CSV),
            ("html", HTML),
        ];
        for (name, mark) in kinds {
            assert_eq!(check("--report", &path(name), mark), Ok(()), "{name}");
            for (other, _) in kinds.iter().filter(|(other, _)| *other != name) {
                assert!(
                    check("--report", &path(other), mark).is_err(),
                    "{other} as {name}"
                );
            }
            let error = check("--report", &path("list"), mark).unwrap_err();
            assert!(
                error.starts_with("--report: ") && error.contains("not replaced"),
                "{error}"
            );
        }
        std::fs::write(path("empty"), "").unwrap();
        for name in ["empty", "absent"] {
            assert_eq!(check("--report", &path(name), REPORT), Ok(()));
        }
        assert_eq!(check("--report", Path::new("/dev/null"), REPORT), Ok(()));
    }
}
