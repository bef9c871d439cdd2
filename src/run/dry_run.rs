//! The dry run: what would be done, told from headers and sizes alone.

use crate::job::memory;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::agree::Look;
use super::share::Schedule;
use super::{Config, Setup};
use crate::partition::{self, Strategy};
use crate::text::printable;

/// The plan as text: a row a rank with images, bytes, voxels and memory, then what is wrong with headers.
pub(super) fn render(
    setup: &Setup,
    schedule: &Schedule,
    looks: &[Look],
    config: &Config,
) -> String {
    let Setup {
        entries,
        ranks,
        decision,
        ..
    } = setup;
    let Schedule { costs_s, shares } = schedule;
    // With `dynamic` nobody has a fixed share; the largest-first partition is what it comes close to.
    let shares: Vec<Vec<usize>> = if config.strategy == Strategy::Dynamic {
        let order = &shares[0];
        let costs: Vec<f64> = order.iter().map(|&place| costs_s[place]).collect();
        let shares = partition::partition(Strategy::Size, &costs, ranks.hosts.len());
        shares
            .into_iter()
            .map(|share| share.into_iter().map(|item| order[item]).collect())
            .collect()
    } else {
        shares.clone()
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
    let all: f64 = shares.iter().flatten().map(|&place| costs_s[place]).sum();
    for (rank, share) in shares.iter().enumerate() {
        let sum =
            |value: &dyn Fn(usize) -> u64| share.iter().map(|&place| value(place)).sum::<u64>();
        let raw = |place: usize| looks[place].facts.raw_bytes.unwrap_or(0);
        let cost: f64 = share.iter().map(|&place| costs_s[place]).sum();
        table.add_row([
            rank.to_string(),
            printable(&ranks.hosts[rank]),
            ranks.threads[rank].to_string(),
            share.len().to_string(),
            mib(sum(&|place| looks[place].facts.file_bytes)),
            mib(sum(&raw)),
            format!(
                "{:.1}",
                sum(&|place| looks[place].facts.voxels.unwrap_or(0)) as f64 * 1e-6
            ),
            format!("{:.1}", if all > 0.0 { 100.0 * cost / all } else { 0.0 }),
            mib(memory_bytes(share, looks, ranks.threads[rank])),
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
        .map(|share| share.iter().map(|&place| costs_s[place]).sum::<f64>());
    let mut text = format!("{table}\n");
    let _ = writeln!(
        text,
        "dry run, nothing is written: {} images to do, {} skipped, strategy {}{}, expected imbalance {:.2}",
        entries.len() - decision.skipped.len(),
        decision.skipped.len(),
        config.strategy.name(),
        if config.strategy == Strategy::Dynamic {
            " (shares are an estimate)"
        } else {
            ""
        },
        partition::imbalance(loads),
    );
    if let Some(counts) = &decision.resume {
        let _ = writeln!(text, "{}", counts.sentence());
    }
    for (entry, look) in entries.iter().zip(looks) {
        if let Some(error) = &look.facts.error {
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

/// The most that a rank holds.
fn memory_bytes(share: &[usize], looks: &[Look], workers: usize) -> u64 {
    let images = share.iter();
    memory::rank_bytes(
        images.filter_map(|&place| looks[place].facts.memory_bytes),
        workers,
    )
}
