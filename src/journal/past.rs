//! The past: what the journals below an output folder say of every result, whatever wrote them and however it ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FOLDER, FORMAT, FORMAT_1, Line, RunLine};
use crate::console;
use crate::job::outcome::{End, FileId};
use crate::parallel::par_map;
use crate::text::printable;

/// The last word on a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// It was begun, and nothing says that it was ended.
    Begun,
    /// It was given up.
    Failed,
    /// It was written.
    Done(Box<DoneRecord>),
}

/// A result that was written, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct DoneRecord {
    /// The image file, absolute.
    pub input: PathBuf,
    /// What identified its files.
    pub files_in: Vec<FileId>,
    /// What identifies the result's files.
    pub files_out: Vec<FileId>,
    /// What shaped it.
    pub options: Arc<serde_json::Value>,
}

/// What the journals say.
#[derive(Debug, Default)]
pub struct Past {
    /// The last record of every result.
    pub records: Records,
    /// Journals that were read.
    pub journals: usize,
    /// Lines that are no lines, as a rank leaves one when it is killed.
    pub torn_lines: usize,
}

/// Whether the run's journal has a form that this version reads.
fn is_known(run: &RunLine) -> bool {
    [FORMAT, FORMAT_1].contains(&run.format.as_str())
}

/// One journal, line by line.
#[derive(Clone, Debug, Default)]
pub struct JournalFile {
    /// Its first line; `None` when that is not there or of another form, in which case nothing in it can be relied on.
    pub run: Option<RunLine>,
    /// The other lines, in their order.
    pub lines: Vec<Line>,
    /// Lines that are no lines.
    pub torn_lines: usize,
}

impl JournalFile {
    /// Reads a journal's bytes. Nothing in them is an error.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut journal = Self::default();
        for line in bytes.split(|&byte| byte == b'\n') {
            match Line::parse(line) {
                None => {}
                Some(Ok(Line::Run(run))) if is_known(&run) => journal.run = Some(run),
                Some(Ok(line)) => journal.lines.push(line),
                Some(Err(_)) => journal.torn_lines += 1,
            }
        }
        journal
    }
}

/// The paths of all journals below an output folder; none when there is no folder of them.
///
/// # Errors
/// The file system's.
pub fn journal_paths(output: &Path) -> io::Result<Vec<PathBuf>> {
    match journals_in(&output.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        paths => paths,
    }
}

/// The paths of all journals in their folder. What has the name of one and is no regular file is left out, with a word on
/// standard error: whoever opens a pipe waits for its writer for ever.
///
/// # Errors
/// The file system's.
pub fn journals_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        if !(name.starts_with("journal-") && name.ends_with(".jsonl")) {
            continue;
        }
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            let shown = printable(&path.display().to_string());
            console::note(format!("{shown}: is left out: a journal is a regular file"));
            continue;
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

/// Reads journals on `threads` threads; in the order of `paths`.
///
/// # Errors
/// The file system's, with the path in its text.
pub fn read_all(paths: &[PathBuf], threads: usize) -> io::Result<Vec<JournalFile>> {
    read_each(paths, threads, |path| {
        Ok(JournalFile::parse(&std::fs::read(path)?))
    })
}

/// Reads each file on one of `threads` threads; in the order of `paths`. An error's text begins with the path.
fn read_each<T: Send>(
    paths: &[PathBuf],
    threads: usize,
    read_one: impl Fn(&Path) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let read = par_map(paths, threads, |path| {
        read_one(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    });
    read.into_iter().collect()
}

/// What one journal says in the end: its lines are not kept, since a list may have a million images.
#[derive(Default)]
struct Chapter {
    run: Option<RunLine>,
    records: Records,
    torn_lines: usize,
}

/// The last record of each result, by its path below the output folder.
pub type Records = HashMap<PathBuf, Record>;

impl Chapter {
    fn read(mut journal: impl BufRead) -> io::Result<Self> {
        let mut chapter = Self::default();
        let mut options = Arc::default();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if journal.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(chapter);
            }
            match Line::parse(&bytes) {
                None => {}
                Some(Ok(Line::Run(run))) if is_known(&run) => {
                    options = Arc::new(run.options.clone());
                    chapter.run = Some(run);
                }
                Some(Ok(line)) => take(&mut chapter.records, line, &options),
                Some(Err(_)) => chapter.torn_lines += 1,
            }
        }
    }

    fn of(journal: JournalFile) -> Self {
        let options = journal.run.as_ref().map(|run| run.options.clone());
        let options = Arc::new(options.unwrap_or_default());
        let mut records = Records::new();
        for line in journal.lines {
            take(&mut records, line, &options);
        }
        Self {
            run: journal.run,
            records,
            torn_lines: journal.torn_lines,
        }
    }
}

impl Past {
    /// Reads all journals below an output folder.
    ///
    /// # Errors
    /// The file system's. What is in the journals is never an error.
    pub fn load(output: &Path, threads: usize) -> io::Result<Self> {
        let paths = journal_paths(output)?;
        let read = |path: &Path| Chapter::read(BufReader::new(File::open(path)?));
        Ok(Self::told_by(read_each(&paths, threads, read)?))
    }

    /// What these journals say together. Later runs have the last word; within a run a result belongs to one rank.
    pub fn of(journals: Vec<JournalFile>) -> Self {
        Self::told_by(journals.into_iter().map(Chapter::of).collect())
    }

    fn told_by(mut chapters: Vec<Chapter>) -> Self {
        let mut past = Self {
            journals: chapters.len(),
            torn_lines: chapters.iter().map(|chapter| chapter.torn_lines).sum(),
            ..Self::default()
        };
        chapters.retain(|chapter| chapter.run.is_some());
        chapters.sort_by(|a, b| {
            let key = |chapter: &Chapter| {
                chapter
                    .run
                    .as_ref()
                    .map(|run| (run.unix_s, run.run.clone(), run.rank))
            };
            key(a)
                .partial_cmp(&key(b))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        for chapter in chapters {
            if past.records.is_empty() {
                past.records = chapter.records;
            } else {
                past.records.extend(chapter.records);
            }
        }
        past
    }
}

/// Takes a line of a run with these options.
fn take(records: &mut Records, line: Line, options: &Arc<serde_json::Value>) {
    match line {
        Line::Begin(begin) => {
            records.insert(begin.output, Record::Begun);
        }
        Line::End(end) => {
            let record = match end.outcome.end {
                // Half a record vouches for nothing.
                End::Done(files_out)
                    if !files_out.is_empty() && !end.outcome.input.files.is_empty() =>
                {
                    Record::Done(Box::new(DoneRecord {
                        input: end.input,
                        files_in: end.outcome.input.files,
                        files_out,
                        options: Arc::clone(options),
                    }))
                }
                End::Failed(_) => Record::Failed,
                End::Done(_) | End::Skipped(_) => Record::Begun,
            };
            records.insert(end.output, record);
        }
        Line::Run(_)
        | Line::Alive { .. }
        | Line::Sample(_)
        | Line::Close { .. }
        | Line::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_with_a_journals_name_is_left_out() {
        let output = tempfile::tempdir().unwrap();
        assert_eq!(journal_paths(output.path()).unwrap(), Vec::<PathBuf>::new());
        let folder = output.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let journal = folder.join("journal-r-00000.jsonl");
        std::fs::write(&journal, b"").unwrap();
        std::fs::create_dir(folder.join("journal-r-00001.jsonl")).unwrap();
        let pipe = folder.join("journal-r-00002.jsonl");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(journal_paths(output.path()).unwrap(), [journal]);
        assert_eq!(Past::load(output.path(), 2).unwrap().journals, 1);
    }

    fn journal(run: &str, unix_s: f64, lines: &[&str]) -> JournalFile {
        let first = format!(
            r#"{{"event":"run","format":"niimpi-journal/1","unix_s":{unix_s},"run":"{run}","version":"0","rank":0,"ranks":1,"host":"h","pid":1,"workers":1,"images":1,"kept":0,"strategy":"size","options":{{"sigma":{unix_s:?}}}}}"#
        );
        let text = format!("{first}\n{}", lines.join("\n"));
        JournalFile::parse(text.as_bytes())
    }

    const BEGIN: &str = r#"{"event":"begin","unix_s":1.0,"index":1,"worker":0,"input":"/in/a.nii","output":"a.nii"}"#;
    const DONE: &str = r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"state":"done","input":"/in/a.nii","input_bytes":1,"input_mtime_ns":2,"output":"a.nii","output_bytes":3,"raw_bytes":3,"crc32":"000000ff","read_s":0.0,"filter_s":0.0,"write_s":0.0,"voxels":1}"#;
    const FAILED: &str = r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"state":"failed","stage":"read","error":"e","input":"/in/a.nii","output":"a.nii","read_s":0.0,"filter_s":0.0,"write_s":0.0,"voxels":0}"#;

    fn last(journals: Vec<JournalFile>) -> Record {
        Past::of(journals).records[Path::new("a.nii")].clone()
    }

    #[test]
    fn the_last_line_of_the_last_run_counts() {
        let done = || journal("b", 20.0, &[BEGIN, DONE]);
        assert!(matches!(last(vec![done()]), Record::Done(_)));
        assert_eq!(
            last(vec![journal("c", 30.0, &[BEGIN]), done()]),
            Record::Begun
        );
        assert_eq!(
            last(vec![journal("c", 30.0, &[BEGIN, FAILED]), done()]),
            Record::Failed
        );
        let earlier = journal("a", 10.0, &[BEGIN, FAILED]);
        let Record::Done(record) = last(vec![done(), earlier]) else {
            panic!("the later run's record is lost");
        };
        assert_eq!(
            record.files_out[0].crc32,
            Some(crate::image_io::Crc32(0xff))
        );
        assert_eq!(*record.options, serde_json::json!({"sigma": 20.0}));
    }

    #[test]
    fn a_torn_line_is_left_out_wherever_it_is() {
        for cut in 1..DONE.len() {
            let torn = journal("a", 1.0, &[BEGIN, &DONE[..cut]]);
            let past = Past::of(vec![torn]);
            assert_eq!(past.records[Path::new("a.nii")], Record::Begun, "{cut}");
            assert_eq!(past.torn_lines, 1);
            // The rank went on after a full disk.
            let mended = journal("a", 1.0, &[BEGIN, &DONE[..cut], BEGIN, DONE]);
            assert!(matches!(last(vec![mended]), Record::Done(_)));
        }
    }

    #[test]
    fn a_journal_without_its_first_line_vouches_for_nothing() {
        let headless = JournalFile::parse(format!("{BEGIN}\n{DONE}\n").as_bytes());
        let past = Past::of(vec![headless]);
        assert!(past.records.is_empty());
        assert_eq!(past.journals, 1);
    }

    #[test]
    fn noise_is_no_error() {
        let noise: Vec<u8> = (0..4096_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let journal = JournalFile::parse(&noise);
        assert!(journal.run.is_none() && journal.lines.is_empty() && journal.torn_lines > 0);
    }

    #[test]
    fn no_folder_is_no_past() {
        let folder = tempfile::tempdir().unwrap();
        let past = Past::load(folder.path(), 4).unwrap();
        assert!(past.records.is_empty() && past.journals == 0);
    }
}
