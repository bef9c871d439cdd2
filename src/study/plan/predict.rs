//! Predictions of a layout: time with an interval, memory, core hours and efficiency.

use serde::{Deserialize, Serialize};

use super::listed::Listed;
use super::measured::PUBLISH;
use super::memory::MemoryModel;
use super::model::{Model, add, busy_s, held_s, own_s};
use crate::partition::Strategy;
use crate::text::{counted, mib};

/// Numbers of nodes, ranks and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub nodes: usize,
    /// Ranks on all nodes together.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
}

impl Layout {
    pub fn ranks_per_node(&self) -> usize {
        self.ranks.div_ceil(self.nodes)
    }

    pub fn workers(&self) -> usize {
        self.ranks * self.threads
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (nodes, ranks) = (counted(self.nodes, "node"), counted(self.ranks, "rank"));
        write!(f, "{nodes}, {ranks} × {}", counted(self.threads, "thread"))
    }
}

/// The prediction for a layout. Field names are those of the JSON plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prediction {
    #[serde(flatten)]
    pub layout: Layout,
    /// `elapsed_s` of the report: from the run's start to the last record.
    pub elapsed_s: f64,
    /// Lower end of the 90 % interval.
    pub elapsed_low_s: f64,
    /// Upper end of the 90 % interval.
    pub elapsed_high_s: f64,
    /// Additional seconds for launching and for writing the report.
    pub launch_s: f64,
    /// Highest memory of a rank.
    pub rss_per_rank_bytes: u64,
    /// The part of it that rank 0 needs for the list of images; 0 in a plan of an earlier version.
    #[serde(default)]
    pub list_bytes: u64,
    /// All ranks of a node together.
    pub rss_per_node_bytes: u64,
    /// CPUs × elapsed time, in hours.
    pub core_hours: f64,
    /// Time of one worker alone over the time for which the CPUs of all workers are allocated.
    pub efficiency: f64,
    /// Longest over mean time of the workers.
    pub imbalance: f64,
    /// Seconds of reading, filtering and writing over all images.
    pub stages_s: [f64; 3],
    /// Seconds of publishing over all images; 0 in a plan of an earlier version.
    #[serde(default)]
    pub publish_s: f64,
    /// The limit that it exceeds; `None` if the layout is possible.
    pub beyond: Option<String>,
    pub recommended: bool,
}

impl Prediction {
    /// Seconds from launch to end, as Slurm counts them: expected, lower and upper end of the interval.
    pub fn job_s(&self) -> [f64; 3] {
        [self.elapsed_s, self.elapsed_low_s, self.elapsed_high_s].map(|seconds| seconds + self.launch_s)
    }
}

/// Predicts layouts from the list and the fitted models.
pub(crate) struct Predictor<'a> {
    listed: &'a Listed,
    model: &'a Model,
    memory: &'a MemoryModel,
    strategy: Strategy,
    /// Seconds that each image occupies its worker, before slow-down.
    images_s: Vec<f64>,
    /// Seconds of each stage, summed over all images.
    stages_s: [f64; 4],
}

impl<'a> Predictor<'a> {
    /// Adds up the costs of the list. All its classes must have been measured.
    pub fn new(listed: &'a Listed, model: &'a Model, memory: &'a MemoryModel, strategy: Strategy) -> Self {
        let mut sums_s = [0.0; 4];
        let mut images_s = Vec::with_capacity(listed.planned.len());
        for image in &listed.planned {
            let stages_s = model.stages_s(image).unwrap_or_default();
            add(&mut sums_s, &stages_s);
            images_s.push(own_s(&stages_s));
        }
        Self {
            listed,
            model,
            memory,
            strategy,
            images_s,
            stages_s: sums_s,
        }
    }

    /// Seconds of all images on one worker alone.
    fn serial_s(&self) -> f64 {
        let held_s = held_s(&self.stages_s, self.images_s.len(), 1.0);
        held_s * self.model.slow_down(1.0, 1.0) * self.model.overhead(1)
    }

    /// Fractions of the time that a worker spends on an image: read, filter, write.
    pub fn shares(&self) -> [f64; 3] {
        [0, 1, 2].map(|stage| self.stages_s[stage] / own_s(&self.stages_s))
    }

    /// The stage that takes most of the time; publishing if workers have to wait for the disk.
    pub fn dominated_by(&self) -> usize {
        if held_s(&self.stages_s, self.images_s.len(), 1.0) > own_s(&self.stages_s) {
            return PUBLISH;
        }
        let longest = (0..PUBLISH).max_by(|&a, &b| self.stages_s[a].total_cmp(&self.stages_s[b]));
        longest.unwrap_or(0)
    }

    /// Highest number of images per second that the shared file system serves; `None` if no limit was
    /// measured.
    pub fn ceiling(&self) -> Option<f64> {
        self.model
            .ceiling(own_s(&self.stages_s) / self.images_s.len() as f64)
    }

    /// Predicts one layout.
    pub fn predict(&self, layout: Layout) -> Prediction {
        let (model, listed, images) = (self.model, self.listed, self.images_s.len());
        let workers = layout.workers().min(images).max(1) as f64;
        let per_node = (workers / layout.nodes as f64).max(1.0);
        let slow_down = model.slow_down(per_node, workers);
        let (longest_s, mean_s) = busy_s(&self.images_s, layout.ranks, layout.threads, self.strategy);
        let held = held_s(&self.stages_s, images, workers) / own_s(&self.stages_s);
        let working_s = longest_s * held * slow_down * model.overhead(layout.ranks);
        let fixed_s = model.setup_s + model.finish_s + listed.rank0_s(layout.ranks, layout.threads);
        let elapsed_s = fixed_s + working_s;
        let (low, high) = model.interval(per_node, workers, &listed.planned, self.shares()[0]);
        let reach_s = model.fixed_reach_s();
        // Working time and fixed time are independent, so the squares of their uncertainties add up.
        let below_s = (working_s * (1.0 - low)).hypot(reach_s.min(fixed_s));
        let above_s = (working_s * (high - 1.0)).hypot(reach_s);
        let list_bytes = images as f64 * listed.bytes_per_image();
        let largest_bytes = listed.largest_bytes();
        let rank_bytes = self.memory.rank_bytes(layout.threads, largest_bytes, list_bytes);
        let cpus = layout.workers() as f64;
        Prediction {
            layout,
            elapsed_s,
            elapsed_low_s: (elapsed_s - below_s).max(0.0),
            elapsed_high_s: elapsed_s + above_s,
            launch_s: model.launch_s.unwrap_or(DEFAULT_LAUNCH_S) + listed.report_s(),
            rss_per_rank_bytes: rank_bytes as u64,
            list_bytes: list_bytes as u64,
            rss_per_node_bytes: (rank_bytes * layout.ranks_per_node() as f64) as u64,
            core_hours: cpus * elapsed_s / 3600.0,
            efficiency: self.serial_s() / (cpus * elapsed_s),
            imbalance: longest_s / mean_s,
            stages_s: [0, 1, 2].map(|stage| self.stages_s[stage] * slow_down),
            publish_s: self.stages_s[PUBLISH] * slow_down,
            beyond: None,
            recommended: false,
        }
    }
}

/// Seconds of launching if it was not measured.
const DEFAULT_LAUNCH_S: f64 = 2.0;

/// The layouts to consider, and their limits.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Numbers of nodes; if empty, as many as the ranks need.
    pub nodes: Vec<usize>,
    /// Numbers of ranks on all nodes together; if empty, 1, 2, 4, … per node, up to its CPUs.
    pub ranks: Vec<usize>,
    /// Numbers of workers of each rank.
    pub threads: Vec<usize>,
    pub cpus_per_node: usize,
    pub mem_per_node_bytes: Option<u64>,
    /// Time limit of the job.
    pub max_time_s: Option<f64>,
}

impl Bounds {
    /// The layouts that fit the nodes and their CPUs, and a message for each requested one that does not.
    pub fn layouts(&self) -> (Vec<Layout>, Vec<String>) {
        let (mut layouts, mut unfit) = (Vec::new(), Vec::new());
        for &threads in &self.threads {
            let on_a_node = self.cpus_per_node / threads;
            // Equal numbers of ranks on all nodes, and a CPU for every thread.
            let layout = |nodes: usize, ranks: usize| {
                let fits = ranks >= nodes && ranks.is_multiple_of(nodes) && ranks / nodes <= on_a_node;
                fits.then_some(Layout {
                    nodes,
                    ranks,
                    threads,
                })
            };
            if self.ranks.is_empty() {
                let one = [1];
                let nodes = if self.nodes.is_empty() {
                    &one[..]
                } else {
                    &self.nodes
                };
                let powers = (0..usize::BITS)
                    .map(|bit| 1 << bit)
                    .take_while(|&ranks| ranks < on_a_node);
                let on_each = Vec::from_iter(powers.chain([on_a_node]));
                layouts.extend(nodes.iter().flat_map(|&nodes| {
                    on_each
                        .iter()
                        .filter_map(move |&on_each| layout(nodes, on_each * nodes))
                }));
            }
            for &ranks in &self.ranks {
                let before = layouts.len();
                if self.nodes.is_empty() {
                    // The smallest number of nodes over which the ranks divide evenly.
                    layouts.extend((1..=ranks).find_map(|nodes| layout(nodes, ranks)));
                } else {
                    layouts.extend(self.nodes.iter().filter_map(|&nodes| layout(nodes, ranks)));
                }
                if layouts.len() == before {
                    unfit.push(format!(
                        "{} × {} do not fit the nodes of {} evenly",
                        counted(ranks, "rank"),
                        counted(threads, "thread"),
                        counted(self.cpus_per_node, "CPU")
                    ));
                }
            }
        }
        let place = |layout: &Layout| self.threads.iter().position(|&threads| threads == layout.threads);
        layouts.sort_by_key(|layout| (layout.nodes, place(layout)));
        (layouts, unfit)
    }

    /// The limit that a prediction exceeds.
    pub fn exceeded(&self, prediction: &Prediction) -> Option<String> {
        let bytes = prediction.rss_per_node_bytes;
        if let Some(memory) = self.mem_per_node_bytes.filter(|&memory| bytes > memory) {
            return Some(format!(
                "needs {} MiB per node, which has {}",
                mib(bytes),
                memory >> 20
            ));
        }
        let [_, _, high_s] = prediction.job_s();
        self.max_time_s.filter(|&time_s| high_s > time_s)?;
        Some("may not end within --max-time".to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::listed::FoundImage;
    use super::super::measured::ImageFeatures;
    use super::super::measured::tests::{Machine, SIZES, gathered, sample};
    use super::*;

    pub(crate) fn listed(images: usize, sizes: &[u64]) -> Listed {
        let planned: Vec<ImageFeatures> = sizes
            .iter()
            .map(|&voxels| sample(voxels).features)
            .cycle()
            .take(images)
            .collect();
        Listed {
            found: planned.iter().copied().map(FoundImage::from).collect(),
            listed: images,
            planned,
            ..Listed::default()
        }
    }

    /// Runs a pilot on the machine and predicts the layouts.
    pub(crate) fn predictions(
        machine: &Machine,
        seed: u64,
        images: usize,
        layouts: &[Layout],
    ) -> Vec<Prediction> {
        let measured = gathered(&machine.pilot(&SIZES, seed)).unwrap();
        let model = Model::fit(&measured).unwrap();
        let memory = MemoryModel::fit(&measured.runs, 0.0, 0, false);
        let listed = listed(images, &SIZES);
        let predictor = Predictor::new(&listed, &model, &memory, Strategy::Size);
        layouts.iter().map(|layout| predictor.predict(*layout)).collect()
    }

    pub(crate) fn layout(nodes: usize, ranks: usize, threads: usize) -> Layout {
        Layout {
            nodes,
            ranks,
            threads,
        }
    }

    /// Also if workers have to wait for the disk.
    #[test]
    fn a_pilot_of_20_predicts_400() {
        for publish_s in [1e-4, 0.2] {
            let machine = Machine {
                publish_s,
                run_spread: 0.03,
                ..Machine::default()
            };
            let mut held = [0; 2];
            for seed in 0..40 {
                let found = predictions(&machine, seed, 400, &[layout(1, 1, 1), layout(1, 2, 1)]);
                for (place, found) in found.iter().enumerate() {
                    let luck = 5_000_000 + seed * 2 + place as u64;
                    let truth = machine.source(400, found.layout.ranks, &SIZES, luck).report;
                    let off = found.elapsed_s / truth.elapsed_s - 1.0;
                    assert!(off.abs() < 0.15, "{seed}: {off}");
                    let inside = found.elapsed_low_s..=found.elapsed_high_s;
                    held[place] += usize::from(inside.contains(&truth.elapsed_s));
                    let over = found.rss_per_rank_bytes as f64 / truth.totals.max_rss_bytes as f64;
                    assert!((1.0..1.1).contains(&over), "{over}");
                }
            }
            assert!(held.iter().all(|&held| held >= 34), "{publish_s}: {held:?} of 40");
        }
    }

    #[test]
    fn more_workers_take_less_time_but_are_less_efficient() {
        let layouts = [1, 2, 4, 8].map(|ranks| layout(1, ranks, 1));
        let found = predictions(&Machine::default(), 1, 4000, &layouts);
        for two in found.windows(2) {
            assert!(two[1].elapsed_s < two[0].elapsed_s && two[1].efficiency < two[0].efficiency);
            assert!(two[1].core_hours > two[0].core_hours);
        }
        let first = found[0].efficiency;
        assert!(first > 0.9 && first <= 1.01, "{first}");
        // Contention between nodes was not measured, so the upper end allows for it.
        let nodes = predictions(&Machine::default(), 1, 4000, &[layout(8, 64, 1)]);
        let width = |p: &Prediction| p.elapsed_high_s / p.elapsed_s;
        let (one, eight) = (width(&found[3]), width(&nodes[0]));
        assert!(eight > one * 1.2, "{eight} {one}");
    }

    fn bounds(nodes: &[usize], ranks: &[usize], threads: &[usize]) -> Bounds {
        Bounds {
            nodes: nodes.to_vec(),
            ranks: ranks.to_vec(),
            threads: threads.to_vec(),
            cpus_per_node: 6,
            mem_per_node_bytes: Some(100 << 20),
            max_time_s: Some(100.0),
        }
    }

    #[test]
    fn layouts_fit_the_nodes_and_their_cpus() {
        let found = |nodes: &[usize], ranks: &[usize], threads: &[usize]| -> Vec<_> {
            let (layouts, _) = bounds(nodes, ranks, threads).layouts();
            layouts.iter().map(|s| (s.nodes, s.ranks, s.threads)).collect()
        };
        let one_node = [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 6, 1), (1, 1, 4)];
        let two_nodes = [(2, 2, 1), (2, 4, 1), (2, 8, 1), (2, 12, 1), (2, 2, 4)];
        assert_eq!(
            found(&[1, 2], &[], &[1, 4]),
            [&one_node[..], &two_nodes[..]].concat()
        );
        assert_eq!(found(&[], &[], &[1, 4]), one_node);
        // As many nodes as the ranks need, with the same number on each.
        assert_eq!(
            found(&[], &[1, 6, 7, 4096], &[1]),
            [(1, 1, 1), (1, 6, 1), (7, 7, 1), (1024, 4096, 1)]
        );
    }

    #[test]
    fn layouts_that_do_not_fit_are_named() {
        let (layouts, unfit) = bounds(&[1], &[2, 8], &[1, 9]).layouts();
        assert_eq!(layouts, [layout(1, 2, 1)]);
        assert_eq!(unfit.len(), 3);
        assert_eq!(
            unfit[0],
            "8 ranks × 1 thread do not fit the nodes of 6 CPUs evenly"
        );
    }

    #[test]
    fn limits_are_kept() {
        let exceeded = |rss_per_node_bytes, launch_s| {
            bounds(&[1], &[], &[1]).exceeded(&Prediction {
                rss_per_node_bytes,
                elapsed_high_s: 99.0,
                launch_s,
                ..Prediction::default()
            })
        };
        assert_eq!(exceeded(1, 0.5), None);
        assert!(exceeded(200 << 20, 0.5).unwrap().contains("MiB per node"));
        assert!(
            exceeded(1, 2.0).unwrap().contains("--max-time"),
            "the time limit includes launching"
        );
    }
}
