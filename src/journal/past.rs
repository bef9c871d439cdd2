//! The past: what the journals below an output folder record about every result, from all runs and versions,
//! finished or not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{EndLine, FOLDER, FORMAT, FORMAT_1, Line, RunLine};
use crate::console;
use crate::job;
use crate::job::outcome::{End, FileId};
use crate::parallel::par_map;
use crate::text::printable;

/// The maximum length of a line. Longer lines count as torn.
const LONGEST_LINE: u64 = 16 << 20;

/// The last record of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Last {
    /// The image was started; its end is unknown.
    Started,
    /// Its files were complete; it is unknown if they were renamed.
    Staged,
    Failed,
    Done,
}

/// A file written under a result's name, with its inputs and options.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The image file, absolute.
    pub input: PathBuf,
    pub files_in: Vec<FileId>,
    /// The result's files. Empty if niimpi-journal/1 records only that the image was started.
    pub files_out: Vec<FileId>,
    /// The options that affect the results.
    pub options: Arc<serde_json::Value>,
}

/// All records of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The last one.
    pub last: Last,
    /// Its time, seconds since 1970.
    pub unix_s: f64,
    /// All files written under its name, the latest last.
    pub made: Vec<Made>,
}

/// The records of each result, by its path below the output folder.
pub type Records = HashMap<PathBuf, History>;

/// What the journals record.
#[derive(Debug, Default)]
pub struct Past {
    /// The records of every result.
    pub records: Records,
    /// Journals that were read.
    pub journals: usize,
    /// Unreadable lines. A killed rank can leave one.
    pub torn_lines: usize,
}

/// A journal's first line, if its format is known, and the number of torn lines.
#[derive(Debug, Default)]
pub struct Head {
    /// The run and the rank.
    pub run: Option<RunLine>,
    /// Lines that cannot be read.
    pub torn_lines: usize,
}

/// Reads a journal and passes each line after the first to `visit`, together with the first. No content is an
/// error. A journal without a first line of a known format counts as empty, because its content is not
/// reliable.
pub fn for_each_line(mut journal: impl BufRead, mut visit: impl FnMut(&RunLine, Line)) -> io::Result<Head> {
    let mut head = Head::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let found = (&mut journal).take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
        if found == 0 {
            return Ok(head);
        }
        if found as u64 == LONGEST_LINE && !bytes.ends_with(b"\n") {
            head.torn_lines += 1;
            skip_line(&mut journal)?;
            continue;
        }
        match Line::parse(&bytes) {
            None => {}
            Some(Ok(Line::Run(run))) if [FORMAT, FORMAT_1].contains(&run.format.as_str()) => {
                head.run = Some(run);
            }
            Some(Ok(Line::Run(_))) => {}
            Some(Ok(line)) => {
                if let Some(run) = &head.run {
                    visit(run, line);
                }
            }
            Some(Err(_)) => head.torn_lines += 1,
        }
    }
}

fn skip_line(journal: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = journal.fill_buf()?;
        let (len, end) = match bytes.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        journal.consume(len);
        if end {
            return Ok(());
        }
    }
}

/// The paths of all journals below an output folder; none if it has no journal folder.
pub fn journal_paths(output: &Path) -> io::Result<Vec<PathBuf>> {
    match journals_in(&output.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        paths => paths,
    }
}

/// The paths of all journals in their folder. Other files than regular files are ignored with a note on
/// standard error, because opening a pipe blocks until it has a writer.
pub fn journals_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        if !(name.starts_with("journal-") && name.ends_with(".jsonl")) {
            continue;
        }
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            let shown = printable(&path.display().to_string());
            console::note(format!("{shown}: ignored, because it is not a regular file"));
            continue;
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

/// Reads each journal on one of `threads` threads; results are in the order of `paths`. A journal that does
/// not exist any more is left out: a run that refuses to start removes its own. An error message begins with
/// the path.
pub(super) fn read_each<T: Send>(
    paths: &[PathBuf],
    threads: usize,
    read_one: impl Fn(BufReader<File>) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let read = par_map(paths, threads, |path| {
        File::open(path)
            .and_then(|file| read_one(BufReader::new(file)))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    });
    let is_there = |read: &io::Result<T>| !matches!(read, Err(error) if error.kind() == NotFound);
    read.into_iter().filter(is_there).collect()
}

/// The time of the newest line in any journal below an output folder, from the last lines of each; `None` if
/// there is none.
pub fn newest_unix_s(output: &Path, threads: usize) -> io::Result<Option<f64>> {
    const TAIL_BYTES: u64 = 16 << 10;
    let newest = read_each(&journal_paths(output)?, threads, |mut journal| {
        let len = journal.get_ref().metadata()?.len();
        journal.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        journal.take(TAIL_BYTES).read_to_end(&mut tail)?;
        let times = tail.split(|&byte| byte == b'\n').filter_map(line_unix_s);
        Ok(times.reduce(f64::max))
    })?;
    Ok(newest.into_iter().flatten().reduce(f64::max))
}

/// The time of a line of any kind.
fn line_unix_s(line: &[u8]) -> Option<f64> {
    #[derive(serde::Deserialize)]
    struct Time {
        unix_s: f64,
    }
    let time: Time = serde_json::from_slice(line).ok()?;
    // Before the year 9999, the last one that can be printed.
    (0.0..2.5e11).contains(&time.unix_s).then_some(time.unix_s)
}

/// The final records of one journal. Its lines are not kept, because a list can have a million images.
#[derive(Default)]
pub(super) struct Chapter {
    /// The journal's first line and its torn lines.
    pub(super) head: Head,
    records: Records,
    options: Option<Arc<serde_json::Value>>,
}

impl Chapter {
    /// Reads a journal and also passes each of its lines to `also`.
    pub(super) fn read(journal: impl BufRead, mut also: impl FnMut(&RunLine, &Line)) -> io::Result<Self> {
        let mut chapter = Self::default();
        chapter.head = for_each_line(journal, |run, line| {
            also(run, &line);
            chapter.take(run, line);
        })?;
        Ok(chapter)
    }

    fn take(&mut self, run: &RunLine, line: Line) {
        let version_1 = run.format == FORMAT_1;
        let options = self.options.get_or_insert_with(|| {
            Arc::new(match version_1 {
                true => job::options_of_version_1(run.options.clone()),
                false => run.options.clone(),
            })
        });
        let options = Arc::clone(options);
        let made = |input, files_in, files_out| {
            Some(Made {
                input,
                files_in,
                files_out,
                options,
            })
        };
        match line {
            Line::Begin(begin) => {
                // Version 1 records a result only after the rename.
                let made = version_1.then(|| made(begin.input, Vec::new(), Vec::new()));
                self.add(begin.output, Last::Started, begin.unix_s, made.flatten());
            }
            Line::Staged(staged) => {
                let made = made(staged.input, staged.files_in, staged.files_out);
                self.add(staged.output, Last::Staged, staged.unix_s, made);
            }
            Line::End(end) => {
                let EndLine {
                    unix_s,
                    input,
                    output,
                    outcome,
                } = *end;
                let files_in = outcome.input.files;
                let (last, made) = match outcome.end {
                    End::Done(files_out) if !files_out.is_empty() && !files_in.is_empty() => {
                        (Last::Done, made(input, files_in, files_out))
                    }
                    End::Failed(_) => (Last::Failed, None),
                    // An incomplete record is not reliable.
                    End::Done(_) | End::Skipped(_) => (Last::Started, None),
                };
                self.add(output, last, unix_s, made);
            }
            Line::Run(_)
            | Line::Sharing(_)
            | Line::Alive { .. }
            | Line::Sample(_)
            | Line::Close { .. }
            | Line::Unknown => {}
        }
    }

    fn add(&mut self, output: PathBuf, last: Last, unix_s: f64, made: Option<Made>) {
        let history = self.records.entry(output).or_insert(History {
            last,
            unix_s,
            made: Vec::new(),
        });
        (history.last, history.unix_s) = (last, unix_s);
        if last == Last::Done {
            history.made.retain(|made| !made.files_out.is_empty());
        }
        if let Some(made) = made.filter(|made| history.made.last() != Some(made)) {
            // Most results are made once, and a list can have a million images.
            history.made.reserve_exact(1);
            history.made.push(made);
        }
    }
}

impl Past {
    /// Reads all journals below an output folder.
    ///
    /// # Errors
    /// The error of the file system. The content of journals is never an error.
    pub fn load(output: &Path, threads: usize) -> io::Result<Self> {
        let paths = journal_paths(output)?;
        let chapters = read_each(&paths, threads, |journal| {
            Chapter::read(journal, |_run, _line| {})
        })?;
        Ok(Self::of(chapters))
    }

    /// The merged records of these journals. The latest record of a result counts as its last.
    pub(super) fn of(chapters: Vec<Chapter>) -> Self {
        let mut past = Self::default();
        for chapter in chapters {
            past.journals += 1;
            past.torn_lines += chapter.head.torn_lines;
            if past.records.is_empty() {
                past.records = chapter.records;
                continue;
            }
            for (output, mut later) in chapter.records {
                match past.records.entry(output) {
                    Entry::Vacant(place) => {
                        place.insert(later);
                    }
                    Entry::Occupied(mut place) => {
                        let history = place.get_mut();
                        if later.unix_s < history.unix_s {
                            std::mem::swap(history, &mut later);
                        }
                        (history.last, history.unix_s) = (later.last, later.unix_s);
                        for made in later.made {
                            if !history.made.contains(&made) {
                                history.made.push(made);
                            }
                        }
                    }
                }
            }
        }
        past
    }

    /// What the journals with these bytes record.
    pub fn of_bytes<'a>(journals: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let read = |bytes| Chapter::read(bytes, |_run, _line| {}).unwrap_or_default();
        Self::of(journals.into_iter().map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_removed_meanwhile_is_left_out() {
        let output = tempfile::tempdir().unwrap();
        let folder = output.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("journal-r-00000.jsonl"), journal("r", 5.0, &[])).unwrap();
        std::os::unix::fs::symlink("gone", folder.join("journal-s-00000.jsonl")).unwrap();
        assert_eq!(Past::load(output.path(), 2).unwrap().journals, 1);
        assert_eq!(newest_unix_s(output.path(), 2).unwrap(), Some(5.0));
    }

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

    fn journal(run: &str, unix_s: f64, lines: &[&str]) -> String {
        let first = format!(
            r#"{{"event":"run","format":"niimpi-journal/2","unix_s":{unix_s},"run":"{run}","version":"0",
"rank":0,"ranks":1,"host":"h","pid":1,"workers":1,"images":1,"kept":0,"strategy":"size",
"options":{{"sigma":{unix_s:?}}}}}"#
        )
        .replace('\n', "");
        format!("{first}\n{}", lines.join("\n"))
    }

    fn past(journals: &[String]) -> Past {
        Past::of_bytes(journals.iter().map(String::as_bytes))
    }

    fn history(journals: &[String]) -> History {
        past(journals).records[Path::new("a.nii")].clone()
    }

    /// The line with another time.
    fn at(line: &str, unix_s: f64) -> String {
        let (_, rest) = line.split_once(r#""unix_s":"#).unwrap();
        let (_, rest) = rest.split_once(',').unwrap();
        let (event, _) = line.split_once(r#""unix_s":"#).unwrap();
        format!(r#"{event}"unix_s":{unix_s},{rest}"#)
    }

    const BEGIN: &str =
        r#"{"event":"begin","unix_s":1.0,"index":1,"worker":0,"input":"/in/a.nii","output":"a.nii"}"#;
    const DONE: &str = concat!(
        r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"status":"done","input":"/in/a.nii","#,
        r#""output":"a.nii","bytes_in":1,"bytes_out":3,"files_in":[{"bytes":1,"mtime_ns":2}],"#,
        r#""files_out":[{"bytes":3,"raw_bytes":3,"crc32":"000000ff"}],"read_s":0.0,"filter_s":0.0,"#,
        r#""write_s":0.0,"voxels":1}"#
    );
    const FAILED: &str = concat!(
        r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"status":"failed","stage":"read","#,
        r#""error":"e","input":"/in/a.nii","output":"a.nii","read_s":0.0,"filter_s":0.0,"write_s":0.0,"#,
        r#""voxels":0}"#
    );

    const STAGED: &str = concat!(
        r#"{"event":"staged","unix_s":1.5,"index":1,"input":"/in/a.nii","output":"a.nii","#,
        r#""files_in":[{"bytes":1,"mtime_ns":2}],"files_out":[{"bytes":3,"raw_bytes":3,"#,
        r#""crc32":"000000ff"}]}"#
    );

    #[test]
    fn the_latest_record_counts_whichever_run_started_last() {
        let done = || journal("b", 20.0, &[BEGIN, STAGED, &at(DONE, 25.0)]);
        assert_eq!(history(&[done()]).last, Last::Done);
        let again = journal("c", 10.0, &[&at(BEGIN, 30.0)]);
        assert_eq!(history(&[done(), again.clone()]).last, Last::Started);
        let failed = journal("c", 10.0, &[&at(BEGIN, 30.0), &at(FAILED, 31.0)]);
        assert_eq!(history(&[failed, done()]).last, Last::Failed);
        let earlier = journal("d", 30.0, &[&at(BEGIN, 10.0), &at(FAILED, 11.0)]);
        assert_eq!(history(&[done(), earlier]).last, Last::Done);
    }

    #[test]
    fn all_that_was_ever_made_is_known() {
        let made = history(&[
            journal("b", 20.0, &[&at(BEGIN, 21.0), &at(DONE, 22.0)]),
            journal("a", 10.0, &[&at(BEGIN, 11.0), &at(STAGED, 12.0), &at(DONE, 13.0)]),
            journal("c", 30.0, &[&at(BEGIN, 31.0), &at(FAILED, 32.0)]),
        ])
        .made;
        let options: Vec<_> = made.iter().map(|made| made.options["sigma"].clone()).collect();
        assert_eq!(options, [10.0, 20.0], "a staged and a done result are one");
        assert_eq!(made[0].files_out[0].crc32, Some(crate::image_io::Crc32(0xff)));
    }

    #[test]
    fn version_1_is_read() {
        let first = journal("a", 1.0, &[]).replace("journal/2", "journal/1");
        let done = concat!(
            r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"state":"done","input":"/in/a.nii","#,
            r#""input_bytes":1,"input_mtime_ns":2,"output":"a.nii","output_bytes":3,"raw_bytes":3,"#,
            r#""crc32":"000000ff","read_s":0.0,"filter_s":0.0,"write_s":0.0,"voxels":1}"#
        );
        let started = history(&[format!("{first}{BEGIN}\n")]);
        assert_eq!(started.made.len(), 1, "it may have its name without a record");
        let done = history(&[format!("{first}{BEGIN}\n{done}\n")]);
        assert_eq!((done.last, done.made.len()), (Last::Done, 1));
        assert_eq!(done.made[0].options["numerics"], 1);
    }

    #[test]
    fn a_torn_line_is_left_out_wherever_it_is() {
        for cut in 1..DONE.len() {
            let torn = journal("a", 1.0, &[BEGIN, &DONE[..cut]]);
            let past = past(&[torn]);
            assert_eq!(past.records[Path::new("a.nii")].last, Last::Started, "{cut}");
            assert_eq!(past.torn_lines, 1);
            // The rank continued after a full disk.
            let mended = journal("a", 1.0, &[BEGIN, &DONE[..cut], BEGIN, DONE]);
            assert_eq!(history(&[mended]).last, Last::Done);
        }
    }

    #[test]
    fn a_journal_without_its_first_line_vouches_for_nothing() {
        let past = past(&[format!("{BEGIN}\n{DONE}\n")]);
        assert!(past.records.is_empty());
        assert_eq!(past.journals, 1);
    }

    #[test]
    fn noise_and_endless_lines_are_no_error() {
        let noise: Vec<u8> = (0..4096_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let past = Past::of_bytes([noise.as_slice()]);
        assert!(past.records.is_empty() && past.torn_lines > 0);
        let zeros = io::repeat(0).take(3 * LONGEST_LINE);
        let rest = format!("\n{}\n", journal("a", 1.0, &[BEGIN]));
        let mut lines = 0;
        let journal = BufReader::new(zeros.chain(rest.as_bytes()));
        let head = for_each_line(journal, |_, _| lines += 1).unwrap();
        assert_eq!((head.torn_lines, lines), (1, 1));
    }

    #[test]
    fn the_newest_line_of_all_journals_is_found() {
        let output = tempfile::tempdir().unwrap();
        assert_eq!(newest_unix_s(output.path(), 2).unwrap(), None);
        let folder = output.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
        write(
            "journal-a-00000.jsonl",
            journal("a", 5.0, &[&at(BEGIN, 40.0), "torn"]),
        );
        write("journal-b-00000.jsonl", journal("b", 30.0, &[]));
        assert_eq!(newest_unix_s(output.path(), 2).unwrap(), Some(40.0));
    }

    #[test]
    fn no_folder_is_no_past() {
        let folder = tempfile::tempdir().unwrap();
        let past = Past::load(folder.path(), 4).unwrap();
        assert!(past.records.is_empty() && past.journals == 0);
    }
}
