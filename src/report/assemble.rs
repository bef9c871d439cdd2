//! Assembling: builds one report from the ranks' outcomes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Add;

use serde::{Deserialize, Serialize};

use super::schema::{ImageRow, RankRow, Report, State, Totals};
use crate::job::outcome::{End, Outcome, Reason, Status, Timings};
use crate::partition::imbalance;

/// One rank's contribution to the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RankRecord {
    pub row: RankRow,
    /// Its images, in the order in which they were done.
    pub images: Vec<Outcome>,
}

impl Report {
    /// The report with the ranks' records and with what follows from them: its nodes, totals and state.
    /// `images` must ascend by index. An image without a record keeps its outcome; a record of another image
    /// is ignored.
    #[must_use]
    pub fn with_records(
        mut self,
        images: impl Iterator<Item = ImageRow>,
        mut records: Vec<RankRecord>,
    ) -> Self {
        records.sort_by_key(|record| record.row.rank);
        let rows = records.into_iter().map(|record| (record.row, record.images));
        let (ranks, outcomes): (Vec<RankRow>, Vec<Vec<Outcome>>) = rows.unzip();
        self.ranks = ranks;
        let launch = &mut self.launch;
        launch.ranks = self.ranks.len();
        launch.threads_per_rank = self.ranks.iter().map(|rank| rank.threads).max().unwrap_or(0);
        for rank in &self.ranks {
            if !launch.nodes.contains(&rank.host) {
                launch.nodes.push(rank.host.clone());
            }
        }
        let mut records = ByIndex::new(outcomes);
        let mut before = 0;
        let recorded = |mut image: ImageRow| {
            debug_assert!(image.index > before, "{} comes after {before}", image.index);
            before = image.index;
            if let Some(outcome) = records.take(image.index) {
                image.outcome = outcome;
            }
            image
        };
        self.images = images.map(recorded).collect();
        self.totals = Totals::new(&self.ranks, &self.images, self.elapsed_s);
        let failed = self.totals.failed > 0 || self.unreadable_folders > 0;
        if failed && self.state == State::Completed {
            self.state = State::Failed;
        }
        self
    }

    /// Raises a rank's `max_rss_bytes`, and the maximum of all ranks, to its memory since its record was
    /// made. Unknown ranks are ignored.
    pub fn raise_rank_peak(&mut self, rank: usize, rss_bytes: u64) {
        if let Some(row) = self.ranks.iter_mut().find(|row| row.rank == rank) {
            row.max_rss_bytes = row.max_rss_bytes.max(rss_bytes);
            self.totals.max_rss_bytes = self.totals.max_rss_bytes.max(rss_bytes);
        }
    }
}

impl RankRow {
    /// The row with what follows from the rank's images and from its work on images that ranks share.
    #[must_use]
    pub fn with_images(self, images: &[Outcome], shared: Timings) -> Self {
        let count = |status| images.iter().filter(|image| image.status() == status).count();
        // The times of a shared image are sums over its ranks.
        let own = || images.iter().filter(|image| image.shared.is_empty());
        let sum = |seconds: fn(&Outcome) -> f64| own().map(seconds).fold(0.0, f64::add);
        let (read_s, filter_s, write_s) = (
            shared.read_s + sum(|image| image.timings.read_s),
            shared.filter_s + sum(|image| image.timings.filter_s),
            shared.write_s + sum(|image| image.timings.write_s),
        );
        let all_s = self.elapsed_s * self.threads as f64;
        RankRow {
            images: images.len(),
            done: count(Status::Done),
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
            read_s,
            filter_s,
            write_s,
            publish_s: sum(|image| image.timings.publish_s),
            other_s: all_s - (read_s + filter_s + write_s) - self.idle_s,
            cpu_efficiency: ratio(self.cpu_s, self.cpu_time_given_s()),
            bytes_in: images.iter().map(|image| image.input.bytes).sum(),
            bytes_out: images.iter().map(|image| image.bytes_out).sum(),
            ..self
        }
    }

    /// Available CPU seconds.
    fn cpu_time_given_s(&self) -> f64 {
        self.elapsed_s * self.cpus as f64
    }
}

/// The records of all ranks by ascending index. A list can have a million images, so each rank's records are
/// not copied.
struct ByIndex {
    ranks: Vec<std::vec::IntoIter<Outcome>>,
    /// The index of each rank's next record, and the rank.
    next: BinaryHeap<Reverse<(usize, usize)>>,
}

impl ByIndex {
    fn new(outcomes: Vec<Vec<Outcome>>) -> Self {
        let sorted = outcomes.into_iter().map(|mut images| {
            images.sort_unstable_by_key(|image| image.index);
            images.into_iter()
        });
        let ranks: Vec<_> = sorted.collect();
        let first = ranks
            .iter()
            .enumerate()
            .filter_map(|(place, images)| Some(Reverse((images.as_slice().first()?.index, place))));
        Self {
            next: first.collect(),
            ranks,
        }
    }

    /// The record with this index, if there is one; earlier records are dropped.
    fn take(&mut self, index: usize) -> Option<Outcome> {
        loop {
            let &Reverse((found, place)) = self.next.peek()?;
            if found > index {
                return None;
            }
            self.next.pop();
            let images = &mut self.ranks[place];
            let record = images.next();
            if let Some(after) = images.as_slice().first() {
                self.next.push(Reverse((after.index, place)));
            }
            if found == index {
                return record;
            }
        }
    }
}

impl Totals {
    pub(super) fn new(ranks: &[RankRow], images: &[ImageRow], elapsed_s: f64) -> Self {
        let count = |status| {
            images
                .iter()
                .filter(|image| image.outcome.status() == status)
                .count()
        };
        let ended = |end: End| images.iter().filter(|image| image.end == end).count();
        let sum = |seconds: fn(&RankRow) -> f64| ranks.iter().map(seconds).fold(0.0, f64::add);
        let done = count(Status::Done);
        let cpu_s = sum(|rank| rank.cpu_s);
        Totals {
            images: images.len(),
            done,
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
            kept: ended(End::Skipped(Reason::Kept)),
            not_started: ended(End::Skipped(Reason::NotStarted)),
            retried: images.iter().filter(|image| image.retries > 0).count(),
            read_s: sum(|rank| rank.read_s),
            filter_s: sum(|rank| rank.filter_s),
            write_s: sum(|rank| rank.write_s),
            publish_s: sum(|rank| rank.publish_s),
            cpu_s,
            cpu_efficiency: ratio(cpu_s, sum(RankRow::cpu_time_given_s)),
            max_rss_bytes: ranks.iter().map(|rank| rank.max_rss_bytes).max().unwrap_or(0),
            bytes_in: ranks.iter().map(|rank| rank.bytes_in).sum(),
            bytes_out: ranks.iter().map(|rank| rank.bytes_out).sum(),
            voxels: images.iter().map(|image| image.outcome.input.voxels).sum(),
            imbalance: imbalance(ranks.iter().map(|rank| rank.elapsed_s)),
            images_per_s: ratio(done as f64, elapsed_s),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::description::FilterDescription;
    use crate::job::outcome::{Failure, FailureKind, InputFacts, Stage};
    use crate::job::problem::Problem;
    use crate::partition::Strategy;
    use crate::report::{Launch, ResumeCounts, SCHEMA};
    use crate::volume::Datatype;

    pub(crate) fn image(index: usize, rank: usize, status: Status) -> Outcome {
        Outcome {
            index,
            rank,
            timings: Timings {
                read_s: 1.0,
                filter_s: 2.0,
                write_s: 3.0,
                publish_s: 0.5,
            },
            input: InputFacts {
                bytes: 500,
                voxels: 1000,
                datatype: Some(Datatype::Uint8),
                ..InputFacts::default()
            },
            bytes_out: 400,
            end: match status {
                Status::Done => End::Done(Vec::new()),
                Status::Failed => End::Failed(Failure {
                    stage: Stage::Read,
                    error: "the file is empty".to_owned(),
                    problem: Some(Problem::Damaged),
                    kind: FailureKind::Own,
                }),
                Status::Skipped => End::Skipped(Reason::NotStarted),
            },
            ..Outcome::default()
        }
    }

    fn rank(rank: usize, host: &str, elapsed_s: f64, images: Vec<Outcome>) -> RankRecord {
        let row = RankRow {
            rank,
            host: host.to_owned(),
            threads: 2,
            cpus: 2,
            elapsed_s,
            cpu_s: elapsed_s,
            max_rss_bytes: 10 << 20,
            idle_s: elapsed_s * 2.0 - 6.0 * images.len() as f64,
            ..RankRow::default()
        };
        RankRecord {
            row: row.with_images(&images, Timings::default()),
            images,
        }
    }

    /// A report without records.
    fn empty() -> Report {
        Report {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: vec!["niimpi".to_owned(), "smooth".to_owned()],
            state: State::Completed,
            started: "1970-01-01T00:00:00.000Z".to_owned(),
            elapsed_s: 12.0,
            launch: Launch {
                cpus: Some(4),
                mpi: "none".to_owned(),
                ..Launch::default()
            },
            filter: FilterDescription {
                name: "gaussian".to_owned(),
                sigma_vox: vec![2.0; 3],
                fwhm_mm: vec![],
                boundary: "reflect".to_owned(),
                cval: 0.0,
                truncate: 4.0,
                radius_vox: vec![8; 3],
                output_type: "same".to_owned(),
                round: "truncate".to_owned(),
                nan: "propagate".to_owned(),
                mask: None,
                outside: None,
                sigma_mm: vec![],
                like: None,
                reference: None,
            },
            options: serde_json::json!({"filter": {"name": "gaussian"}}),
            strategy: Strategy::Size,
            shard: None,
            journals: None,
            resume: None,
            unreadable_folders: 0,
            totals: Totals::default(),
            ranks: Vec::new(),
            images: Vec::new(),
        }
    }

    fn listed(index: usize, input: String, output: String) -> ImageRow {
        ImageRow {
            input,
            output,
            output_noise: None,
            outcome: Outcome::skipped(index, Reason::NotStarted),
        }
    }

    #[test]
    fn kept_and_not_started_are_two_counts() {
        let names = (1..=4).map(|index| {
            let mut row = listed(index, String::new(), String::new());
            if index < 3 {
                row.outcome.end = End::Skipped(Reason::Kept);
            }
            row
        });
        let records = vec![rank(0, "n", 1.0, vec![image(4, 0, Status::Done)])];
        let report = empty().with_records(names, records);
        let totals = &report.totals;
        assert_eq!((totals.kept, totals.not_started, totals.skipped), (2, 1, 3));
        assert_eq!(report.images[0].end, End::Skipped(Reason::Kept));
    }

    #[test]
    fn a_run_that_could_not_read_a_folder_failed() {
        let mut report = empty();
        report.unreadable_folders = 2;
        let names = [listed(1, String::new(), String::new())].into_iter();
        let records = vec![rank(0, "n", 1.0, vec![image(1, 0, Status::Done)])];
        let report = report.with_records(names, records);
        assert_eq!((report.state, report.unreadable_folders), (State::Failed, 2));
    }

    pub(crate) fn report() -> Report {
        let names = (1..=4).map(|index| listed(index, format!("in/{index}.nii"), format!("out/{index}.nii")));
        let records = vec![
            rank(1, "n2", 6.0, vec![image(3, 1, Status::Done)]),
            rank(
                0,
                "n1",
                12.0,
                vec![image(1, 0, Status::Done), image(2, 0, Status::Failed)],
            ),
        ];
        empty().with_records(names, records)
    }

    #[test]
    fn records_add_up_and_an_image_without_one_is_listed() {
        let report = report();
        assert_eq!(
            report.ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>(),
            [0, 1]
        );
        assert_eq!(report.launch.nodes, ["n1", "n2"]);
        let totals = &report.totals;
        assert_eq!(
            (totals.images, totals.done, totals.failed, totals.skipped),
            (4, 2, 1, 1)
        );
        assert_eq!((totals.read_s, totals.filter_s, totals.write_s), (3.0, 6.0, 9.0));
        assert_eq!(totals.imbalance, 12.0 / 9.0);
        assert_eq!(totals.cpu_efficiency, 18.0 / 36.0);
        assert_eq!(totals.images_per_s, 2.0 / 12.0);
        assert_eq!(report.ranks[0].idle_s, 12.0 * 2.0 - 12.0);
        assert_eq!(report.state, State::Failed);
        assert_eq!(report.images[3].outcome.status(), Status::Skipped);
    }

    #[test]
    fn records_find_their_images_whatever_their_order() {
        // A shard of a list: it neither starts at 1 nor is consecutive.
        let names = [3, 7, 8, 20]
            .into_iter()
            .map(|index| listed(index, format!("{index}.nii"), String::new()));
        let images = |indices: &[usize]| {
            let made = indices.iter().map(|&index| image(index, 0, Status::Done));
            made.collect()
        };
        let records = vec![
            rank(1, "n", 1.0, images(&[20, 3, 9])),
            rank(0, "n", 1.0, images(&[8])),
        ];
        let report = empty().with_records(names, records);
        let found: Vec<_> = report
            .images
            .iter()
            .map(|row| (row.outcome.index, row.outcome.status(), row.input.as_str()))
            .collect();
        let expected = [
            (3, Status::Done, "3.nii"),
            (7, Status::Skipped, "7.nii"),
            (8, Status::Done, "8.nii"),
            (20, Status::Done, "20.nii"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn memory_is_counted_to_the_end() {
        let mut report = report();
        report.raise_rank_peak(0, 11 << 20);
        report.raise_rank_peak(1, 9 << 20);
        report.raise_rank_peak(7, 99 << 20);
        let held: Vec<u64> = report.ranks.iter().map(|rank| rank.max_rss_bytes).collect();
        assert_eq!(held, [11 << 20, 10 << 20]);
        assert_eq!(report.totals.max_rss_bytes, 11 << 20);
    }

    #[test]
    fn the_json_form_reads_back() {
        let report = report();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        report.write_json(&path).unwrap();
        assert_eq!(crate::report::read(&path).unwrap(), report);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_resumed_run_found_is_one_sentence() {
        let counts = ResumeCounts {
            kept: 380,
            missing: 15,
            failed_before: 3,
            input_changed: 2,
            ..ResumeCounts::default()
        };
        assert_eq!(
            counts.sentence(),
            "resume: 380 kept, 20 to do: 15 missing, 3 failed before, 2 with a changed input"
        );
        assert_eq!(ResumeCounts::default().sentence(), "resume: 0 kept, 0 to do");
    }

    #[test]
    fn a_rank_without_images_took_no_time_of_either_sign() {
        let mut idle = report();
        idle.ranks = vec![rank(0, "a", 1.0, Vec::new()).row];
        assert!(idle.ranks[0].read_s.is_sign_positive());
        assert!(!crate::report::table::render(&idle).contains("-0.00"));
    }
}
