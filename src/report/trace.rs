//! The report in Chrome's trace event format, which Perfetto and chrome://tracing open: a rank is a process, a
//! worker is a thread. Publishing is asynchronous, because several results of a rank are published at once.

use serde_json::{Value, json};

use super::Report;
use super::spans::{Lane, STAGES, lanes};
use crate::text::printable;

/// The trace as JSON. Times are microseconds since the run's start.
pub(crate) fn to_json(report: &Report) -> Value {
    let mut events = Vec::new();
    for rank in &report.ranks {
        let name = format!("rank {} on {}", rank.rank, printable(&rank.host));
        events.push(named("process_name", rank.rank, 0, json!({"name": name})));
        events.push(named(
            "process_sort_index",
            rank.rank,
            0,
            json!({"sort_index": rank.rank}),
        ));
        if rank.start_s > 0.0 {
            let label = format!("its run began at {:.1} s", rank.start_s);
            events.push(named("process_labels", rank.rank, 0, json!({"labels": label})));
        }
    }
    for lane in &lanes(report) {
        add_lane(&mut events, lane);
    }
    json!({
        "displayTimeUnit": "ms",
        "otherData": {"program": "niimpi", "version": report.version, "started": report.started},
        "traceEvents": events,
    })
}

/// Metadata of a process or thread.
fn named(what: &str, rank: usize, thread: usize, args: Value) -> Value {
    json!({"ph": "M", "name": what, "pid": rank, "tid": thread, "args": args})
}

fn add_lane(events: &mut Vec<Value>, lane: &Lane) {
    let (rank, worker) = (lane.rank, lane.worker);
    events.push(named(
        "thread_name",
        rank,
        worker,
        json!({"name": format!("worker {worker}")}),
    ));
    events.push(named(
        "thread_sort_index",
        rank,
        worker,
        json!({"sort_index": worker}),
    ));
    let micros = |seconds: f64| (seconds * 1e6).round();
    for span in &lane.spans {
        let image = span.image;
        let args = json!({
            "index": image.index,
            "input": printable(&image.input),
            "status": image.status(),
            "error": image.failure().map(|failure| printable(&failure.error)),
        });
        for (stage, bounds_s) in STAGES.iter().zip(span.bounds_s.windows(2)) {
            let (begin, end) = (micros(bounds_s[0]), micros(bounds_s[1]));
            if end <= begin {
                continue;
            }
            let event = |phase: &str, at: f64| {
                json!({
                    "ph": phase,
                    "name": stage,
                    "cat": "image",
                    "pid": rank,
                    "tid": worker,
                    "ts": at,
                    "args": args,
                })
            };
            if *stage == STAGES[3] {
                for (phase, at) in [("b", begin), ("e", end)] {
                    let mut event = event(phase, at);
                    event["id"] = json!(format!("{rank}.{}", image.index));
                    events.push(event);
                }
            } else {
                let mut event = event("X", begin);
                event["dur"] = json!(end - begin);
                events.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn ranks_are_processes_and_workers_are_threads() {
        let mut report = sample::report();
        report.images[0].input = "<a>\n.nii".to_owned();
        report.images[1].outcome.start_s = 6.5;
        report.ranks[1].start_s = 7.25;
        let trace = to_json(&report);
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
        assert_eq!(of("X").count(), 9, "three images of three stages");
        assert_eq!((of("b").count(), of("e").count()), (3, 3));
        let first = of("X").next().unwrap();
        assert_eq!(
            (
                &first["name"],
                &first["pid"],
                &first["tid"],
                &first["ts"],
                &first["dur"]
            ),
            (&json!("read"), &json!(0), &json!(0), &json!(0.0), &json!(1e6))
        );
        assert_eq!(first["args"]["input"], "<a>\\n.nii");
        let names: Vec<_> = of("M").filter(|event| event["name"] == "process_name").collect();
        assert_eq!(names[1]["args"]["name"], "rank 1 on n2");
        let labels: Vec<_> = of("M")
            .filter(|event| event["name"] == "process_labels")
            .collect();
        assert_eq!((labels.len(), &labels[0]["pid"]), (1, &json!(1)));
        assert_eq!(labels[0]["args"]["labels"], "its run began at 7.2 s");
        let failed = events
            .iter()
            .find(|event| event["args"]["status"] == "failed")
            .unwrap();
        assert_eq!(failed["args"]["error"], "the file is empty");
    }
}
