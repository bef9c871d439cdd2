//! The dry run: the images that would be read, the paths of their results and the memory they need, from
//! headers only.

use std::fmt::Write;
use std::sync::atomic::AtomicBool;

use super::agree::Look;
use super::share::Schedule;
use super::split::{Group, not_split, paths};
use super::{Config, Setup};
use crate::columns::{Cell, Column, Style, Table};
use crate::images::ImageEntry;
use crate::images::probe::ImageFacts;
use crate::job::memory;
use crate::job::outcome::Outcome;
use crate::job::shared::{Plan, SectionWorker};
use crate::partition::{self, Split, Strategy};
use crate::text::{bytes, counted, printable};

/// An image of the list.
struct ImageLine<'a> {
    entry: &'a ImageEntry,
    facts: &'a ImageFacts,
    is_kept: bool,
    /// Number of ranks that share it.
    ranks: usize,
    /// Why it will fail.
    error: Option<String>,
}

/// `has_noise`: whether results have a second file.
fn image_columns<'a>(has_noise: bool) -> Vec<Column<ImageLine<'a>>> {
    let noise = Column::shown("noise", |line: &ImageLine<'a>| {
        Cell::of(line.entry.second.as_ref(), |noise| {
            Cell::Text(noise.display().to_string())
        })
    });
    let mut columns: Vec<Column<ImageLine<'a>>> = vec![
        Column::shown("image", |line| Cell::Count(line.entry.index as u64)),
        Column::shown("input", |line| Cell::Text(line.entry.input.display().to_string())),
        Column::shown("output", |line| {
            Cell::Text(line.entry.output.display().to_string())
        }),
        Column::shown("file MiB", |line| mib(line.facts.file_bytes)),
        Column::shown("voxel mm", |line| {
            three(line.facts.widths.as_ref().map(|it| it.voxel_size_mm))
        }),
        Column::shown("sigma vox", |line| {
            three(line.facts.widths.as_ref().and_then(|it| it.sigma_vox))
        }),
        Column::shown("memory MiB", |line| Cell::of(line.facts.memory_bytes, mib)),
        Column::shown("note", |line| {
            Cell::Text(match (&line.error, line.is_kept) {
                (Some(_), _) => "will fail".to_owned(),
                (None, true) => "is kept".to_owned(),
                (None, false) if line.ranks > 1 => format!("{} ranks share it", line.ranks),
                (None, false) => String::new(),
            })
        }),
    ];
    if has_noise {
        columns.insert(3, noise);
    }
    columns
}

/// The share of a rank.
struct RankLine<'a> {
    rank: usize,
    host: &'a str,
    workers: usize,
    share: Vec<&'a ImageFacts>,
    /// Its fraction of the total cost.
    cost: f64,
}

impl RankLine<'_> {
    fn sum(&self, value: impl Fn(&ImageFacts) -> u64) -> u64 {
        self.share.iter().map(|facts| value(facts)).sum()
    }
}

fn rank_columns<'a>() -> [Column<RankLine<'a>>; 9] {
    [
        Column::shown("rank", |line| Cell::Count(line.rank as u64)),
        Column::shown("host", |line| Cell::Text(line.host.to_owned())),
        Column::shown("workers", |line| Cell::Count(line.workers as u64)),
        Column::shown("images", |line| Cell::Count(line.share.len() as u64)),
        Column::shown("file MiB", |line| mib(line.sum(|facts| facts.file_bytes))),
        Column::shown("raw MiB", |line| {
            mib(line.sum(|facts| facts.raw_bytes.unwrap_or(0)))
        }),
        Column::shown("Mvoxels", |line| {
            let voxels = line.sum(|facts| facts.voxels.unwrap_or(0));
            Cell::Number(voxels as f64 * 1e-6, 1)
        }),
        Column::shown("cost %", |line| Cell::Number(100.0 * line.cost, 1)),
        Column::shown("memory MiB", |line| {
            let images = line.share.iter().filter_map(|facts| facts.memory_bytes);
            mib(memory::rank_bytes(images, line.workers))
        }),
    ]
}

fn mib(bytes: u64) -> Cell {
    Cell::Number(bytes as f64 / f64::from(1 << 20), 1)
}

/// One number if all axes are equal, otherwise three.
fn three(values: Option<[f64; 3]>) -> Cell {
    let short = |value: f64| {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    Cell::of(values, |values| {
        let [x, y, z] = values.map(short);
        Cell::Figure(if x == y && y == z {
            x
        } else {
            format!("{x},{y},{z}")
        })
    })
}

/// The images, their totals, the share of each rank, and errors in headers.
pub(super) fn render(setup: &Setup, schedule: &Schedule, looks: &[Look], config: &Config) -> String {
    let mut is_kept = vec![false; looks.len()];
    for &place in &setup.decision.skipped {
        is_kept[place] = true;
    }
    let mut images: Vec<ImageLine<'_>> = (setup.entries.iter().zip(looks).zip(is_kept))
        .map(|((entry, look), is_kept)| ImageLine {
            entry,
            facts: &look.facts,
            is_kept,
            ranks: 1,
            error: look.facts.error.clone(),
        })
        .collect();
    let shared = share_images(setup, schedule, config, &mut images);
    let ranks = rank_lines(setup, schedule, looks, config.strategy, &shared);
    let mut text = Table::of(&image_columns(config.list.second.is_some()), &images).draw(Style::Terminal);
    text.push_str(&sizes(&images));
    text.push_str(&Table::of(&rank_columns(), &ranks).draw(Style::Terminal));
    let skipped = setup.decision.skipped.len();
    let _ = writeln!(
        text,
        "dry run, nothing is written: {} to do{}, {skipped} kept, strategy {}{}, expected imbalance {:.2}",
        counted(images.len() - skipped, "image"),
        match images.iter().filter(|image| image.ranks > 1).count() {
            0 => String::new(),
            count => format!(", {count} of them shared by ranks"),
        },
        config.strategy.name(),
        match config.strategy {
            Strategy::Dynamic => " (shares are an estimate)",
            _ => "",
        },
        partition::imbalance(ranks.iter().map(|line| line.cost)),
    );
    if let Some(counts) = &setup.decision.resume {
        let _ = writeln!(text, "{}", counts.sentence());
    }
    for image in &images {
        if let Some(error) = &image.error {
            let index = image.entry.index;
            let _ = writeln!(text, "image {index} will fail: {}", printable(error));
        }
    }
    text
}

/// Decides as the ranks would which images they share. Returns all groups, and whether each shares its image;
/// otherwise its first rank processes the image.
fn share_images(
    setup: &Setup,
    schedule: &Schedule,
    config: &Config,
    images: &mut [ImageLine<'_>],
) -> Vec<(Group, bool)> {
    let never = AtomicBool::new(false);
    let mut worker = SectionWorker::new(&config.job, setup.ranks.threads[0], None, None, &never);
    let decide = |group: &Group| {
        let image = &mut images[group.place];
        let mut facts = Outcome::default();
        match worker.plan(paths(image.entry), group.count, group.always, &mut facts) {
            Ok(Plan::Sections { .. }) => image.ranks = group.count,
            Ok(Plan::Whole(reason)) if config.split == Split::Always => {
                let reason = not_split(image.entry, &reason);
                image.error.get_or_insert(reason);
            }
            _ => {}
        }
        (*group, image.ranks > 1)
    };
    schedule.groups.iter().map(decide).collect()
}

fn rank_lines<'a>(
    setup: &'a Setup,
    schedule: &Schedule,
    looks: &'a [Look],
    strategy: Strategy,
    groups: &[(Group, bool)],
) -> Vec<RankLine<'a>> {
    let costs_s = &schedule.costs_s;
    // With `dynamic` there are no fixed shares. The largest-first partition is a good approximation.
    let estimated = (strategy == Strategy::Dynamic).then(|| {
        let order = &schedule.shares[0];
        let costs: Vec<f64> = order.iter().map(|&place| costs_s[place]).collect();
        let shares = partition::partition(Strategy::Size, &costs, setup.ranks.hosts.len());
        let in_list = |share: Vec<usize>| share.into_iter().map(|item| order[item]).collect();
        shares.into_iter().map(in_list).collect::<Vec<Vec<usize>>>()
    });
    let mut shares = estimated.unwrap_or_else(|| schedule.shares.clone());
    let mut of_shared_s = vec![0.0; shares.len()];
    for (group, is_shared) in groups {
        match is_shared {
            true => group
                .ranks()
                .for_each(|rank| of_shared_s[rank] += costs_s[group.place] / group.count as f64),
            false => shares[group.first].push(group.place),
        }
    }
    let sum = |rank: usize| {
        let alone = shares[rank].iter().map(|&place| costs_s[place]);
        alone.sum::<f64>() + of_shared_s[rank]
    };
    let whole: f64 = (0..shares.len()).map(sum).sum();
    let line = |rank: usize| RankLine {
        rank,
        host: &setup.ranks.hosts[rank],
        workers: setup.ranks.threads[rank],
        share: shares[rank].iter().map(|&place| &looks[place].facts).collect(),
        cost: if whole > 0.0 { sum(rank) / whole } else { 0.0 },
    };
    (0..shares.len()).map(line).collect()
}

/// Total, median and largest size of the files and of the memory.
fn sizes(images: &[ImageLine<'_>]) -> String {
    type Size = fn(&ImageFacts) -> Option<u64>;
    const SIZES: [(&str, Size); 3] = [
        ("file size", |facts| Some(facts.file_bytes)),
        ("size uncompressed", |facts| facts.raw_bytes),
        ("memory", |facts| facts.memory_bytes),
    ];
    let mut text = String::new();
    for (name, size) in SIZES {
        let mut known: Vec<(u64, &ImageLine<'_>)> = images
            .iter()
            .filter_map(|image| Some((size(image.facts)?, image)))
            .collect();
        known.sort_by_key(|(size, _)| *size);
        let (Some((largest, image)), Some((median, _))) = (known.last(), known.get(known.len() / 2)) else {
            continue;
        };
        let shown = |size: u64| bytes(size as f64);
        let _ = write!(
            text,
            "{name}: median {}, largest {}",
            shown(*median),
            shown(*largest)
        );
        let _ = write!(text, " ({})", printable(&image.entry.input.display().to_string()));
        if name != "memory" {
            let total = known.iter().map(|(size, _)| size).sum();
            let _ = write!(text, ", total {}", shown(total));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_summed_up() {
        let entry = |index: usize| ImageEntry {
            index,
            input: format!("{index}.nii").into(),
            output: "out".into(),
            mask: None,
            second: None,
            bids: false,
        };
        let facts = |bytes: u64| ImageFacts {
            file_bytes: bytes << 20,
            memory_bytes: (bytes > 1).then_some(bytes << 21),
            ..ImageFacts::default()
        };
        let (entries, facts) = ([1, 2, 3].map(entry), [3, 1, 2].map(facts));
        let lines: Vec<ImageLine<'_>> = (entries.iter().zip(&facts))
            .map(|(entry, facts)| ImageLine {
                entry,
                facts,
                is_kept: false,
                ranks: 1,
                error: None,
            })
            .collect();
        assert_eq!(
            sizes(&lines),
            "file size: median 2.0M, largest 3.0M (1.nii), total 6.0M\n\
             memory: median 6.0M, largest 6.0M (1.nii)\n"
        );
        assert_eq!(three(Some([2.0; 3])), Cell::Figure("2".to_owned()));
        assert_eq!(
            three(Some([1.0, 2.5, 0.8493])),
            Cell::Figure("1,2.5,0.849".to_owned())
        );
    }
}
