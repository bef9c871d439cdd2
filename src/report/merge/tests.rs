//! Tests of merging: shards, resumed runs, and reports that do not belong together.

use super::*;
use crate::report::sample::report;

/// Shard `number` of two: the fixture's report with every second image, started `after_s` seconds later.
fn shard(number: usize, after_s: u64) -> Source {
    let mut report = report();
    report.shard = Some(Shards {
        numbers: vec![number],
        count: 2,
    });
    report.images.retain(|image| image.index % 2 == number % 2);
    report.started =
        humantime::format_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(after_s)).to_string();
    Source {
        path: format!("{number}.json").into(),
        report,
    }
}

#[test]
fn shares_become_one_run() {
    let merged = merge(vec![shard(2, 100), shard(1, 40)]).unwrap();
    assert_eq!(merged.started, "1970-01-01T00:00:40.000Z");
    assert_eq!(merged.elapsed_s, 60.0 + 12.0);
    assert_eq!(merged.launch.ranks, 4);
    assert_eq!(merged.launch.nodes, ["n1", "n2"]);
    let ranks: Vec<usize> = merged.ranks.iter().map(|rank| rank.rank).collect();
    assert_eq!(ranks, [0, 1, 2, 3]);
    let indices: Vec<usize> = merged.images.iter().map(|image| image.index).collect();
    assert_eq!(indices, [1, 2, 3, 4]);
    // Shard 2 started a minute later, and its ranks follow those of shard 1.
    assert_eq!((merged.images[1].start_s, merged.images[1].rank), (60.0, 2));
    assert_eq!((merged.ranks[0].start_s, merged.ranks[2].start_s), (0.0, 60.0));
    assert_eq!(merged.images[2].rank, 1);
    let totals = &merged.totals;
    assert_eq!((totals.images, totals.done, totals.failed), (4, 2, 1));
    assert_eq!(totals.cpu_efficiency, 36.0 / 72.0);
    assert_eq!(totals.images_per_s, 2.0 / 72.0);
    assert_eq!(merged.shard.unwrap().missing(), []);
}

#[test]
fn a_missing_share_is_named_and_the_work_is_not_done() {
    let merged = merge(vec![shard(2, 0)]).unwrap();
    assert_eq!(merged.state, State::Interrupted);
    assert_eq!(merged.shard.unwrap().missing(), [(1, 1)]);
}

/// A run with these statuses of images 1, 2, …
fn run(after_s: u64, state: State, statuses: &[Status]) -> Source {
    let mut source = shard(1, after_s);
    let report = &mut source.report;
    report.shard = None;
    report.state = state;
    let row = report.images[0].clone();
    report.images = (1..)
        .zip(statuses)
        .map(|(index, &status)| ImageRow {
            input: format!("in/{index}.nii"),
            outcome: crate::report::sample::image(index, 0, status),
            ..row.clone()
        })
        .collect();
    source
}

#[test]
fn an_interrupted_run_and_the_one_that_resumed_it_make_a_whole() {
    use Status::{Done, Failed, Skipped};
    let first = run(0, State::Interrupted, &[Done, Failed, Skipped, Skipped]);
    let second = run(50, State::Completed, &[Skipped, Done, Done, Done]);
    let merged = merge(vec![second, first.clone()]).unwrap();
    assert_eq!((merged.totals.done, merged.state), (4, State::Completed));
    assert_eq!(merged.images[0].start_s, 0.0);
    assert_eq!(merged.images[2].start_s, 50.0);

    let still_running = run(50, State::Interrupted, &[Skipped, Failed, Done, Skipped]);
    let merged = merge(vec![first.clone(), still_running]).unwrap();
    assert_eq!((merged.totals.done, merged.totals.skipped), (2, 1));
    assert_eq!(merged.state, State::Interrupted);

    // A result that existed before the first run.
    let there = run(0, State::Completed, &[Skipped, Done]);
    assert_eq!(merge(vec![there]).unwrap().state, State::Completed);
}

#[test]
fn images_that_a_run_without_space_did_not_start_are_left_over() {
    use Status::{Done, Failed, Skipped};
    let full = run(0, State::Failed, &[Done, Failed, Skipped]);
    assert_eq!(merge(vec![full.clone()]).unwrap().state, State::Interrupted);
    let mut kept = full.clone();
    kept.report.images[2].outcome.end = End::Skipped(Reason::Kept);
    assert_eq!(merge(vec![kept]).unwrap().state, State::Failed);
    // Reports of version 1 have no reasons.
    let mut old = full;
    old.report.schema = SCHEMA_1.to_owned();
    assert_eq!(merge(vec![old]).unwrap().state, State::Failed);
}

#[test]
fn a_list_with_gaps_is_not_done() {
    use Status::Done;
    let mut source = run(0, State::Completed, &[Done; 9]);
    let images = &mut source.report.images;
    images.retain(|image| ![1, 4, 5, 8].contains(&image.index));
    let merged = merge(vec![source]).unwrap();
    assert_eq!(gaps(&merged.images), [(1, 1), (4, 5), (8, 8)]);
    assert_eq!(merged.state, State::Interrupted);
}

#[test]
fn a_run_is_not_counted_twice() {
    let copy = |mut source: Source| {
        source.path = "copy.json".into();
        source
    };
    let message = |sources| merge(sources).unwrap_err().to_string();
    let said = "1.json and copy.json hold the same run, whose ranks would be counted twice; leave one of \
                them out";
    assert_eq!(message(vec![shard(1, 0), shard(2, 0), copy(shard(1, 0))]), said);
    // A merged report contains its runs, too.
    let named = |number, run: &str| {
        let mut source = shard(number, 0);
        source.report.journals = Some(Journals {
            folder: "/out/.niimpi".to_owned(),
            runs: vec![run.to_owned()],
        });
        source
    };
    let mut whole = copy(shard(1, 0));
    whole.report = merge(vec![named(1, "a"), named(2, "b")]).unwrap();
    assert_eq!(message(vec![named(1, "a"), whole]), said);
    // The same shard processed again, and another shard that started at the same time, are separate runs.
    assert!(merge(vec![shard(1, 0), shard(1, 5), shard(2, 0)]).is_ok());
}

#[test]
fn reports_of_other_work_are_refused_by_name() {
    let message = |one: Source, other: Source| merge(vec![one, other]).unwrap_err().to_string();
    let mut wider = shard(2, 0);
    wider.report.filter.sigma_vox = vec![3.0; 3];
    wider.report.launch.slurm = Some(job("42", "2"));
    wider.report.journals = Some(Journals {
        folder: "/data/out/.niimpi".to_owned(),
        runs: Vec::new(),
    });
    let expected = "the reports belong to different work (the filter's options differ):\n  1 report, such \
                    as 1.json\n  \
                    1 report, such as 2.json, of array job 40, with results in /data/out\n  \
                    merge each group separately";
    assert_eq!(message(shard(1, 0), wider), expected);
    let mut of_three = shard(2, 0);
    of_three.report.shard.as_mut().unwrap().count = 3;
    assert!(message(shard(1, 0), of_three).contains("the number of shards differs"));
    let mut other_list = shard(1, 5);
    other_list.path = "other.json".into();
    other_list.report.images[1].input = "in/x.nii".to_owned();
    assert_eq!(
        message(shard(1, 0), other_list),
        "1.json and other.json are not of one list: its image 3 is in/3.nii in one and in/x.nii in the other"
    );
    assert!(merge(vec![]).unwrap_err().contains("no report"));
}

#[test]
fn reports_of_two_output_folders_are_refused() {
    let into = |number, folder: &str| {
        let mut source = shard(number, 0);
        source.report.journals = Some(Journals {
            folder: folder.to_owned(),
            runs: vec![number.to_string()],
        });
        source
    };
    assert!(merge(vec![into(1, "/a/.niimpi"), into(2, "/a/.niimpi")]).is_ok());
    let error = merge(vec![into(1, "/a/.niimpi"), into(2, "/b/.niimpi")])
        .unwrap_err()
        .to_string();
    for part in [
        "the output folder differs",
        "with results in /a\n",
        "with results in /b\n",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn reports_of_two_arrays_are_named_by_their_jobs() {
    let of = |number, array: &str, sigma: f64| {
        let mut source = shard(number, 0);
        source.path = format!("{array}-{number}.json").into();
        source.report.filter.sigma_vox = vec![sigma; 3];
        source.report.launch.slurm = Some(Job {
            array_job_id: Some(array.to_owned()),
            ..job("1", "1")
        });
        source
    };
    let sources = vec![
        of(1, "100", 2.0),
        of(2, "100", 2.0),
        of(1, "200", 4.0),
        of(2, "200", 4.0),
    ];
    let error = merge(sources).unwrap_err().to_string();
    for array in ["100", "200"] {
        let line = format!("2 reports, such as {array}-1.json, of array job {array}");
        assert!(error.contains(&line), "{error}");
    }
}

#[test]
fn cpus_of_different_nodes_add_up_and_those_of_one_node_are_not_known() {
    let on = |number, node: &str| {
        let mut source = shard(number, 0);
        source.report.launch.nodes = vec![node.to_owned()];
        source.report.launch.cpus = Some(4);
        source
    };
    let cpus = |sources| merge(sources).unwrap().launch.cpus;
    assert_eq!(cpus(vec![on(1, "a"), on(2, "b")]), Some(8));
    assert_eq!(cpus(vec![on(1, "a"), on(2, "a")]), None);
    assert_eq!(cpus(vec![on(1, "a")]), Some(4));
}

#[test]
fn any_number_of_shares_is_merged_at_once() {
    let mut one = shard(1, 0);
    one.report.shard.as_mut().unwrap().count = usize::MAX;
    let merged = merge(vec![one]).unwrap();
    assert_eq!(merged.shard.as_ref().unwrap().missing(), [(2, usize::MAX)]);
    let text = crate::report::table::render(&merged);
    assert!(
        text.contains("incomplete: shards 2-18446744073709551615 of"),
        "{text}"
    );
}

#[test]
fn what_is_no_report_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let message = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read(&path).unwrap_err().to_string()
    };
    assert!(
        message("{}")
            .ends_with("is not a report of niimpi (niimpi-report/2 or niimpi-report/1): it has no schema")
    );
    assert!(message("{\"schema\":\"niimpi-report/9\"}").ends_with("its schema is niimpi-report/9"));
    assert!(message("{\"schema\":\"niimpi-report/1\"}").contains("missing field"));
    assert!(message("nothing").contains("not a report"));
    std::fs::remove_file(&path).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("No such file"));
}

fn job(id: &str, task: &str) -> Job {
    Job {
        job_id: id.to_owned(),
        array_job_id: Some("40".to_owned()),
        array_task_id: Some(task.to_owned()),
        ..Job::default()
    }
}

#[test]
fn tasks_of_an_array_have_the_array_in_common() {
    let (mut one, mut two) = (shard(1, 0), shard(2, 0));
    one.report.launch.slurm = Some(job("41", "1"));
    two.report.launch.slurm = Some(job("42", "2"));
    let merged = merge(vec![one.clone(), two]).unwrap().launch.slurm.unwrap();
    assert_eq!((merged.job_id.as_str(), merged.array_task_id), ("40", None));
    assert_eq!(merge(vec![one, shard(2, 0)]).unwrap().launch.slurm, None);
}
