//! The dry run: what would be done, told from headers and sizes alone.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::Config;
use super::plan::Plan;
use crate::partition::{self, Strategy};
use crate::text::printable;

/// Memory of a rank besides its images: program, MPI and buffers, in bytes.
const RANK_BYTES: u64 = 30 << 20;

/// The plan as text: a row a rank with images, bytes, voxels and memory, then what is wrong with headers.
pub(super) fn render(plan: &Plan, config: &Config) -> String {
    let ranks = plan.threads.len();
    // With `dynamic` nobody has a fixed share; the largest-first partition is what it comes close to.
    let shares: Vec<Vec<usize>> = if config.strategy == Strategy::Dynamic {
        let order = &plan.shares[0];
        let costs: Vec<f64> = order.iter().map(|&place| plan.costs[place]).collect();
        let shares = partition::partition(Strategy::Size, &costs, ranks);
        shares
            .into_iter()
            .map(|share| share.into_iter().map(|item| order[item]).collect())
            .collect()
    } else {
        plan.shares.clone()
    };
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
    table.set_header([
        "rank",
        "host",
        "workers",
        "images",
        "file MiB",
        "raw MiB",
        "Mvoxels",
        "cost %",
        "memory MiB",
    ]);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let all: f64 = shares
        .iter()
        .flatten()
        .map(|&place| plan.costs[place])
        .sum();
    for (rank, share) in shares.iter().enumerate() {
        let sum =
            |value: &dyn Fn(usize) -> u64| share.iter().map(|&place| value(place)).sum::<u64>();
        let raw = |place: usize| plan.facts[place].raw_bytes.unwrap_or(0);
        let cost: f64 = share.iter().map(|&place| plan.costs[place]).sum();
        table.add_row([
            rank.to_string(),
            printable(&plan.hosts[rank]),
            plan.threads[rank].to_string(),
            share.len().to_string(),
            mib(sum(&|place| plan.facts[place].file_bytes)),
            mib(sum(&raw)),
            format!(
                "{:.1}",
                sum(&|place| plan.facts[place].voxels.unwrap_or(0)) as f64 * 1e-6
            ),
            format!("{:.1}", if all > 0.0 { 100.0 * cost / all } else { 0.0 }),
            mib(memory_bytes(share, plan, plan.threads[rank])),
        ]);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if place == 1 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        });
    }
    let loads = shares
        .iter()
        .map(|share| share.iter().map(|&place| plan.costs[place]).sum::<f64>());
    let mut text = format!("{table}\n");
    let _ = writeln!(
        text,
        "dry run, nothing is written: {} images to do, {} skipped, strategy {}{}, expected imbalance {:.2}",
        plan.entries.len() - plan.skipped.len(),
        plan.skipped.len(),
        config.strategy.name(),
        if config.strategy == Strategy::Dynamic {
            " (shares are an estimate)"
        } else {
            ""
        },
        partition::imbalance(loads),
    );
    if let Some(counts) = &plan.resume {
        let _ = writeln!(text, "{}", counts.sentence());
    }
    for (entry, facts) in plan.entries.iter().zip(&plan.facts) {
        if let Some(error) = &facts.error {
            let _ = writeln!(
                text,
                "image {} will fail: {}",
                entry.index,
                printable(error)
            );
        }
    }
    text
}

/// An upper estimate of a rank's memory: each worker holds one image twice at most (voxels and the compressed file), and
/// the workers may meet the largest images at the same time.
fn memory_bytes(share: &[usize], plan: &Plan, workers: usize) -> u64 {
    let mut raw: Vec<u64> = share
        .iter()
        .filter_map(|&place| plan.facts[place].raw_bytes)
        .collect();
    raw.sort_unstable_by(|a, b| b.cmp(a));
    RANK_BYTES + raw.iter().take(workers).map(|bytes| 2 * bytes).sum::<u64>()
}
