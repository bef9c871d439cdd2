//! A study: the varied numbers, the configurations, and the folder with all its files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{Configuration, Run, RunRecord};
use crate::columns::{self, Column};
use crate::images::absolute;
use crate::launch::LocalRun;
use crate::report;

/// Name and version of `study.json`.
pub(crate) const SCHEMA: &str = "niimpi-study/1";

/// The varied numbers, the images and the options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StudySpec {
    /// [`SCHEMA`].
    pub schema: String,
    /// The images: files and folders, as absolute paths.
    pub inputs: Vec<PathBuf>,
    /// The command and options of the filter, the same for every run.
    pub options: Vec<String>,
    pub sizes: BTreeSet<usize>,
    pub ranks: BTreeSet<usize>,
    /// Numbers of workers of each rank.
    pub threads: BTreeSet<usize>,
    pub nodes: BTreeSet<usize>,
    /// Number of runs of each configuration.
    pub repeats: usize,
    pub via: Via,
    /// The machine on which the study was started.
    pub host: String,
    pub cpus: usize,
    /// The MPI library and the launcher.
    pub mpi: String,
    pub version: String,
}

/// Where the runs are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// On this machine, one after the other, started by mpirun
    #[default]
    Local,
    /// As Slurm jobs, one for each run, all submitted at the start
    Slurm,
}

impl StudySpec {
    /// Every configuration. Repeats come last, so that a period of other load affects all configurations, and
    /// an interrupted study has run each of them once. Ranks that do not divide evenly over the nodes are
    /// left out.
    pub(crate) fn configurations(&self) -> Vec<Configuration> {
        let mut all = Vec::new();
        for &nodes in &self.nodes {
            for &ranks in self.ranks.iter().filter(|&ranks| ranks % nodes == 0) {
                for &threads in &self.threads {
                    all.extend(self.sizes.iter().map(|&images| Configuration {
                        ranks,
                        threads,
                        nodes,
                        images,
                        repeat: 1,
                    }));
                }
            }
        }
        let repeated = |repeat| all.iter().map(move |cell| Configuration { repeat, ..*cell });
        (1..=self.repeats).flat_map(repeated).collect()
    }

    /// Whether `other` continues this study, with the same images and options. The varied numbers may differ.
    pub(crate) fn continues(&self, other: &Self) -> Result<(), String> {
        let differs = [
            ("the images", self.inputs != other.inputs),
            ("the options", self.options != other.options),
            ("--via", self.via != other.via),
            ("the machine", self.via == Via::Local && self.host != other.host),
        ];
        differs
            .iter()
            .find(|(_, differs)| *differs)
            .map_or(Ok(()), |(what, _)| {
                Err(format!(
                    "the study in this folder differs in {what}; give another --output, or the images and \
                options of that study"
                ))
            })
    }

    /// This study with the varied numbers of both.
    pub(crate) fn joined(&self, earlier: &Self) -> Self {
        Self {
            sizes: &self.sizes | &earlier.sizes,
            ranks: &self.ranks | &earlier.ranks,
            threads: &self.threads | &earlier.threads,
            nodes: &self.nodes | &earlier.nodes,
            repeats: self.repeats.max(earlier.repeats),
            ..self.clone()
        }
    }
}

/// The folder of a study.
#[derive(Clone, Debug)]
pub(crate) struct StudyFolder {
    path: PathBuf,
}

impl StudyFolder {
    /// An existing folder.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: absolute(path) }
    }

    /// Whether a folder holds a study.
    pub(crate) fn is_study(path: &Path) -> bool {
        path.join("study.json").is_file()
    }

    /// Creates the folder, or continues the study in it.
    pub(crate) fn begin(path: &Path, spec: &StudySpec) -> Result<Self, String> {
        let folder = Self::at(path);
        for part in ["runs", "reports", "logs", "outputs"] {
            let part = folder.path.join(part);
            std::fs::create_dir_all(&part)
                .map_err(|error| format!("--output {}: cannot be created: {error}", part.display()))?;
        }
        let mut spec = spec.clone();
        if Self::is_study(&folder.path) {
            let earlier = folder.read_spec()?;
            earlier
                .continues(&spec)
                .map_err(|error| format!("--output {}: {error}", path.display()))?;
            spec = spec.joined(&earlier);
        }
        write_json(&folder.path.join("study.json"), &spec)?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, kind: &str, configuration: &Configuration, end: &str) -> PathBuf {
        self.path.join(kind).join(format!("{}{end}", configuration.id()))
    }

    pub(crate) fn report(&self, configuration: &Configuration) -> PathBuf {
        self.file("reports", configuration, ".json")
    }

    /// Folder of the results, which is removed after the run.
    pub(crate) fn output(&self, configuration: &Configuration) -> PathBuf {
        self.file("outputs", configuration, "")
    }

    /// A configuration's run.
    pub(crate) fn run(&self, spec: &StudySpec, configuration: &Configuration) -> LocalRun {
        // Older studies do not contain the subcommand, because there was only one filter.
        let unnamed = spec.options.first().is_some_and(|word| word.starts_with('-'));
        let mut words: Vec<OsString> = unnamed.then(|| "smooth".into()).into_iter().collect();
        words.extend(spec.options.iter().map(OsString::from));
        words.extend(spec.inputs.iter().map(OsString::from));
        words.extend(["--limit".into(), configuration.images.to_string().into()]);
        // The tables are for images that one rank processes.
        words.push("--split=never".into());
        // Results of an earlier attempt may be replaced.
        words.extend(["--overwrite".into(), "--output".into()]);
        words.push(self.output(configuration).into());
        LocalRun {
            words,
            ranks: configuration.ranks,
            threads: configuration.threads,
            report: self.report(configuration),
            log: self.file("logs", configuration, ".log"),
        }
    }

    fn record(&self, configuration: &Configuration) -> PathBuf {
        self.file("runs", configuration, ".json")
    }

    /// Reads `study.json`.
    pub(crate) fn read_spec(&self) -> Result<StudySpec, String> {
        let path = self.path.join("study.json");
        let spec: StudySpec = read_json(&path)?;
        if spec.schema == SCHEMA {
            return Ok(spec);
        }
        let (path, schema) = (path.display(), spec.schema);
        Err(format!(
            "{path}: its schema is {schema}, this niimpi reads {SCHEMA}"
        ))
    }

    /// Writes the record of a run.
    pub(crate) fn write_record(&self, record: &RunRecord) -> Result<(), String> {
        write_json(&self.record(&record.configuration), record)
    }

    /// The record of a configuration's run; `None` if there is none yet.
    pub(crate) fn read_record(&self, configuration: &Configuration) -> Result<Option<RunRecord>, String> {
        let path = self.record(configuration);
        path.is_file().then(|| read_json(&path)).transpose()
    }

    /// Whether a configuration was run and has a report.
    pub(crate) fn is_done(&self, configuration: &Configuration) -> bool {
        self.report(configuration).is_file()
            && matches!(self.read_record(configuration), Ok(Some(record)) if record.is_final())
    }

    /// Every run that has a record, with its report if there is one.
    pub(crate) fn read_runs(&self, spec: &StudySpec) -> Result<Vec<Run>, String> {
        let mut runs = Vec::new();
        for configuration in spec.configurations() {
            if let Some(record) = self.read_record(&configuration)? {
                let path = self.report(&configuration);
                let report = path.is_file().then(|| report::read(&path)).transpose()?;
                runs.push(Run { record, report });
            }
        }
        Ok(runs)
    }
}

/// Writes a text file atomically.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), String> {
    crate::report::write_whole(path, |file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

/// Writes a value as JSON.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).expect("plain data has a JSON form");
    write_text(path, &format!("{text}\n"))
}

/// Writes a table as CSV.
pub(crate) fn write_csv<'a, T: 'a>(
    path: &Path,
    columns: impl IntoIterator<Item = &'a Column<T>>,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<(), String> {
    let mut csv = Vec::new();
    columns::write_csv(columns, rows, &mut csv).map_err(|error| format!("{}: {error}", path.display()))?;
    write_text(path, &String::from_utf8_lossy(&csv))
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: unexpected content: {error}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec() -> StudySpec {
        StudySpec {
            schema: SCHEMA.to_owned(),
            inputs: vec!["/data".into()],
            options: vec!["--sigma=2".to_owned()],
            sizes: [10, 1].into(),
            ranks: [1, 2].into(),
            threads: [1].into(),
            nodes: [1].into(),
            repeats: 2,
            via: Via::Local,
            host: "host".to_owned(),
            cpus: 2,
            mpi: "none".to_owned(),
            version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn configurations_combine_all_numbers_with_repeats_last() {
        let all = spec().configurations();
        let found: Vec<_> = all.iter().map(|c| (c.repeat, c.ranks, c.images)).collect();
        let first = [(1, 1, 1), (1, 1, 10), (1, 2, 1), (1, 2, 10)];
        assert_eq!(found[..4], first);
        assert_eq!(found[4..], first.map(|(_, ranks, images)| (2, ranks, images)));
        let over_nodes = StudySpec {
            nodes: [1, 2].into(),
            ranks: [1, 2, 3].into(),
            repeats: 1,
            sizes: [1].into(),
            ..spec()
        };
        let all = over_nodes.configurations();
        let found: Vec<_> = all.iter().map(|c| (c.nodes, c.ranks)).collect();
        assert_eq!(found, [(1, 1), (1, 2), (1, 3), (2, 2)]);
    }
}
