//! Predictions: nodes × ranks × threads → time with an interval, memory, core hours and efficiency.

use serde::{Deserialize, Serialize};

use super::listed::Listed;
use super::measured::STAGES;
use super::memory::MemoryModel;
use super::model::Model;
use super::play::{Played, Players, Score};
use super::root_work::RootWork;
use crate::images::probe::ImageFacts;
use crate::job::cost::image_s;
use crate::partition::Strategy;

/// How many nodes, ranks and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Nodes.
    pub nodes: usize,
    /// Ranks, on all nodes together.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
}

impl Setting {
    /// Ranks on a node.
    pub fn ranks_per_node(&self) -> usize {
        self.ranks.div_ceil(self.nodes)
    }

    /// CPUs on a node.
    pub fn cpus_per_node(&self) -> usize {
        self.ranks_per_node() * self.threads
    }

    /// Workers of all ranks.
    pub fn workers(&self) -> usize {
        self.ranks * self.threads
    }
}

/// What is expected of a setting. The names are the plan's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The setting.
    #[serde(flatten)]
    pub setting: Setting,
    /// What the report will give as its `elapsed_s`: from MPI's start to the last record.
    pub elapsed_s: f64,
    /// Lower end of the 90 % interval.
    pub elapsed_low_s: f64,
    /// Upper end of the 90 % interval.
    pub elapsed_high_s: f64,
    /// What launching and writing the report take besides.
    pub launch_s: f64,
    /// The most that one rank will hold.
    pub rss_per_rank_bytes: u64,
    /// Of that, what rank 0 holds for the list of images when it puts the report together; 0 in a plan of an earlier version.
    #[serde(default)]
    pub list_bytes: u64,
    /// All ranks of a node together.
    pub rss_per_node_bytes: u64,
    /// CPUs × elapsed time, in hours.
    pub core_hours: f64,
    /// Of what one worker alone would take, over what all workers' CPUs are held for.
    pub efficiency: f64,
    /// Longest over mean time of the workers.
    pub imbalance: f64,
    /// Seconds of the stages over all images: read, filter, write.
    pub stages_s: [f64; 3],
    /// What of what was asked for it goes beyond; `None` when it is possible.
    pub beyond: Option<String>,
    /// Whether it is the one to take.
    pub recommended: bool,
}

/// Everything that predictions are made from.
pub struct Predictor<'a> {
    listed: &'a Listed,
    model: &'a Model,
    memory: &'a MemoryModel,
    root: &'a RootWork,
    strategy: Strategy,
    score: Score,
    /// Seconds of all images' stages, alone on a node.
    alone_s: [f64; 3],
}

impl<'a> Predictor<'a> {
    /// Puts the list's costs together once.
    ///
    /// # Errors
    /// A sentence naming classes of images that were not measured.
    pub fn new(
        listed: &'a Listed,
        model: &'a Model,
        memory: &'a MemoryModel,
        root: &'a RootWork,
        strategy: Strategy,
        filter_s_per_voxel: f64,
    ) -> Result<Self, String> {
        let classes = listed.classes();
        let unmeasured = model.unmeasured(classes.keys());
        if let Some(class) = unmeasured.first() {
            return Err(format!(
                "{} of the images are {class}, of which none was measured, so what they take is not known; measure some of \
                 each kind (--pilot 20 takes care of that)",
                classes[class]
            ));
        }
        let mut alone_s = [0.0; 3];
        let mut means = Vec::with_capacity(listed.planned.len());
        for image in &listed.planned {
            let stages = model.stages_s(image).unwrap_or_default();
            (0..3).for_each(|stage| alone_s[stage] += stages[stage]);
            means.push(stages.iter().sum());
        }
        let costs = listed
            .planned
            .iter()
            .map(|image| {
                let facts = ImageFacts {
                    file_bytes: image.file_bytes,
                    raw_bytes: Some(image.voxels * image.class.datatype.size_bytes() as u64),
                    voxels: Some(image.voxels),
                    ..ImageFacts::default()
                };
                image_s(&facts, filter_s_per_voxel)
            })
            .collect();
        Ok(Self {
            listed,
            model,
            memory,
            root,
            strategy,
            score: Score::new(&means, costs, model.image_sd),
            alone_s,
        })
    }

    /// Images planned for.
    pub fn images(&self) -> usize {
        self.listed.planned.len()
    }

    /// Seconds of all images on one worker alone.
    pub fn serial_s(&self) -> f64 {
        self.alone_s.iter().sum::<f64>() + self.model.gap_s * self.images() as f64
    }

    /// The stage that takes most of an image's time.
    pub fn dominated_by(&self) -> &'static str {
        let longest = (0..3)
            .max_by(|&a, &b| self.alone_s[a].total_cmp(&self.alone_s[b]))
            .unwrap_or(0);
        STAGES[longest]
    }

    /// Each stage's part of an image's time.
    pub fn shares(&self) -> [f64; 3] {
        let all: f64 = self.alone_s.iter().sum();
        self.alone_s.map(|stage| stage / all)
    }

    /// Images a second that the file system gives at most, and the lower bound of that.
    pub fn ceiling(&self) -> (Option<f64>, Option<f64>) {
        let images = self.images().max(1) as f64;
        self.model
            .ceiling(&self.alone_s.map(|stage| stage / images))
    }

    /// Plays the list with the setting's workers. Returns how it went and each stage's slow-down.
    pub fn play(&self, setting: &Setting, cpus_per_node: usize) -> (Played, [f64; 3]) {
        let (per_node, all) = self.at_work(setting);
        let slow = self.model.slow_down(per_node, all, cpus_per_node as f64);
        (self.play_slowed(setting, &slow), slow)
    }

    fn play_slowed(&self, setting: &Setting, slow: &[f64; 3]) -> Played {
        let players = Players {
            ranks: setting.ranks,
            threads: setting.threads,
            strategy: self.strategy,
            request_s: self.root.request_s,
            worker_sd: self.model.worker_sd,
        };
        self.score
            .play(&players, self.mean_slow_down(slow), self.model.gap_s)
    }

    /// The stages' slow-downs, weighted by what they take.
    fn mean_slow_down(&self, slow: &[f64; 3]) -> f64 {
        let all: f64 = self.alone_s.iter().sum();
        (0..3)
            .map(|stage| self.alone_s[stage] * slow[stage])
            .sum::<f64>()
            / all
    }

    /// Workers at work on a node, and on all nodes: no more than there are images.
    fn at_work(&self, setting: &Setting) -> (f64, f64) {
        let all = setting.workers().min(self.images()).max(1) as f64;
        ((all / setting.nodes as f64).max(1.0), all)
    }

    /// Predicts one setting on nodes of so many CPUs.
    pub fn predict(&self, setting: Setting, cpus_per_node: usize) -> Prediction {
        let images = self.images();
        let (per_node, all) = self.at_work(&setting);
        let (played, slow) = self.play(&setting, cpus_per_node);
        let slow_high = self
            .model
            .slow_down_high(per_node, all, cpus_per_node as f64);
        let fixed_s = self.model.setup_s
            + self.model.finish_s
            + self.root.setup_s(images, setting.ranks, setting.threads)
            + self.root.finish_s(images);
        let working_s = played.longest_s + self.model.warm_up_s;
        let range =
            self.model
                .uncertainty(per_node, self.mean_slow_down(&slow), &self.listed.planned);
        // What other nodes may cost at worst beyond what is expected of them.
        let far = self.mean_slow_down(&slow_high) / self.mean_slow_down(&slow);
        let elapsed_s = fixed_s + working_s;
        let reach = self.model.fixed_reach_s();
        // Both ends are independent, so their squares add up.
        let below = (working_s * (1.0 - range.low)).hypot(reach.min(fixed_s));
        let above = (working_s * (range.high * far.max(1.0) - 1.0)).hypot(reach);
        let launch_s =
            self.model.launch_s.unwrap_or(DEFAULT_LAUNCH_S) + images as f64 * self.root.report_s;
        let list_bytes = images as f64 * self.root.bytes;
        let rss_per_rank =
            self.memory
                .rank_bytes(setting.threads, self.listed.largest_bytes(), list_bytes);
        let cpus = (setting.nodes * setting.cpus_per_node()) as f64;
        Prediction {
            setting,
            elapsed_s,
            elapsed_low_s: (elapsed_s - below).max(0.0),
            elapsed_high_s: elapsed_s + above,
            launch_s,
            rss_per_rank_bytes: rss_per_rank as u64,
            list_bytes: list_bytes as u64,
            rss_per_node_bytes: (rss_per_rank * setting.ranks_per_node() as f64) as u64,
            core_hours: cpus * elapsed_s / 3600.0,
            efficiency: self.serial_s() / (cpus * elapsed_s),
            imbalance: played.imbalance(),
            stages_s: [0, 1, 2].map(|stage| self.alone_s[stage] * slow[stage]),
            beyond: None,
            recommended: false,
        }
    }
}

/// What launching takes where nobody measured it.
pub const DEFAULT_LAUNCH_S: f64 = 2.0;

/// What settings are considered, and what they must keep to.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Numbers of nodes.
    pub nodes: Vec<usize>,
    /// Numbers of ranks on all nodes together; none for those that divide a node's CPUs sensibly.
    pub ranks: Vec<usize>,
    /// Numbers of workers of each rank.
    pub threads: Vec<usize>,
    /// CPUs of a node.
    pub cpus_per_node: usize,
    /// Memory of a node.
    pub mem_per_node_bytes: Option<u64>,
    /// The longest that a job may take.
    pub max_time_s: Option<f64>,
}

impl Bounds {
    /// The settings within the nodes and CPUs. Ranks that do not divide evenly over the nodes are left out.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for &nodes in &self.nodes {
            for &threads in &self.threads {
                let on_a_node = self.cpus_per_node / threads;
                let ranks: Vec<usize> = if self.ranks.is_empty() {
                    let mut on_each: Vec<usize> =
                        std::iter::successors(Some(1_usize), |ranks| Some(ranks * 2))
                            .take_while(|&ranks| ranks < on_a_node)
                            .collect();
                    if on_a_node > 0 {
                        on_each.push(on_a_node);
                    }
                    on_each.into_iter().map(|ranks| ranks * nodes).collect()
                } else {
                    self.ranks.clone()
                };
                for ranks in ranks {
                    if ranks >= nodes && ranks % nodes == 0 && ranks / nodes <= on_a_node {
                        settings.push(Setting {
                            nodes,
                            ranks,
                            threads,
                        });
                    }
                }
            }
        }
        settings
    }

    /// What a prediction goes beyond.
    pub fn judge(&self, prediction: &Prediction) -> Option<String> {
        match (self.mem_per_node_bytes, self.max_time_s) {
            (Some(memory), _) if prediction.rss_per_node_bytes > memory => Some(format!(
                "needs {} MiB a node, there are {}",
                prediction.rss_per_node_bytes >> 20,
                memory >> 20
            )),
            (_, Some(time)) if prediction.elapsed_high_s + prediction.launch_s > time => {
                Some("may not end within --max-time".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::measured::tests::{Machine, SIZES, wanted};
    use super::super::measured::{ImageClass, ImageFeatures, gather};
    use super::*;
    use crate::volume::Datatype;

    pub(crate) fn listed(images: usize, sizes: &[u64]) -> Listed {
        let planned: Vec<ImageFeatures> = (0..images)
            .map(|place| ImageFeatures {
                class: ImageClass {
                    datatype: Datatype::Uint8,
                    scaled: false,
                },
                voxels: sizes[place % sizes.len()],
                file_bytes: sizes[place % sizes.len()] / 2,
                memory_bytes: sizes[place % sizes.len()],
            })
            .collect();
        Listed {
            found: planned
                .iter()
                .map(|image| ("x.nii".into(), *image))
                .collect(),
            listed: images,
            planned,
            name_bytes: [60, 60],
            list_s: 1e-6,
            look_s: 1e-5,
        }
    }

    /// A pilot on the machine, and predictions for the settings.
    pub(crate) fn predictions(
        machine: &Machine,
        seed: u64,
        images: usize,
        settings: &[Setting],
    ) -> Vec<Prediction> {
        let measured = gather(&machine.pilot(&SIZES, seed), &wanted()).unwrap();
        let model = Model::fit(&measured).unwrap();
        let memory = MemoryModel::fit(&measured.runs, 0.0, 0);
        let listed = listed(images, &SIZES);
        let root = RootWork::default();
        let predictor =
            Predictor::new(&listed, &model, &memory, &root, Strategy::Size, 51.0).unwrap();
        settings
            .iter()
            .map(|setting| predictor.predict(*setting, 8))
            .collect()
    }

    pub(crate) fn setting(nodes: usize, ranks: usize, threads: usize) -> Setting {
        Setting {
            nodes,
            ranks,
            threads,
        }
    }

    #[test]
    fn a_pilot_of_20_predicts_400() {
        let machine = Machine {
            run_spread: 0.03,
            ..Machine::default()
        };
        let settings = [setting(1, 1, 1), setting(1, 2, 1)];
        let mut held = [0; 2];
        const TIMES: u64 = 40;
        for seed in 0..TIMES {
            for (place, prediction) in predictions(&machine, seed, 400, &settings)
                .iter()
                .enumerate()
            {
                let truth = machine.source(
                    400,
                    settings[place].ranks,
                    &SIZES,
                    5_000_000 + seed * 2 + place as u64,
                );
                let elapsed_s = truth.report.elapsed_s;
                let off = prediction.elapsed_s / elapsed_s - 1.0;
                assert!(
                    off.abs() < 0.15,
                    "{seed}: {} for {elapsed_s}",
                    prediction.elapsed_s
                );
                if (prediction.elapsed_low_s..=prediction.elapsed_high_s).contains(&elapsed_s) {
                    held[place] += 1;
                }
                let rss = truth.report.totals.max_rss_bytes as f64;
                let predicted = prediction.rss_per_rank_bytes as f64;
                assert!(
                    predicted >= rss && predicted <= rss * 1.1,
                    "{predicted} {rss}"
                );
            }
        }
        assert!(held.iter().all(|&held| held >= 34), "{held:?} of {TIMES}");
    }

    #[test]
    fn more_workers_take_less_time_at_less_efficiency() {
        let settings = [
            setting(1, 1, 1),
            setting(1, 2, 1),
            setting(1, 4, 1),
            setting(1, 8, 1),
        ];
        let found = predictions(&Machine::default(), 1, 4000, &settings);
        for two in found.windows(2) {
            assert!(two[1].elapsed_s < two[0].elapsed_s && two[1].efficiency < two[0].efficiency);
            assert!(two[1].core_hours > two[0].core_hours);
        }
        assert!(
            found[0].efficiency > 0.9 && found[0].efficiency <= 1.01,
            "{}",
            found[0].efficiency
        );
        // Nodes of their own: what several cost the file system was not measured, so the upper end allows for it.
        let nodes = predictions(&Machine::default(), 1, 4000, &[setting(8, 64, 1)]);
        let width = |p: &Prediction| p.elapsed_high_s / p.elapsed_s;
        assert!(
            width(&nodes[0]) > width(&found[3]) * 1.2,
            "{} {}",
            width(&nodes[0]),
            width(&found[3])
        );
    }

    #[test]
    fn images_of_a_kind_that_was_not_measured_are_refused() {
        let measured = gather(&Machine::default().pilot(&SIZES, 1), &wanted()).unwrap();
        let model = Model::fit(&measured).unwrap();
        let mut list = listed(10, &SIZES);
        list.planned[3].class.datatype = Datatype::Float32;
        let memory = MemoryModel::fit(&measured.runs, 0.0, 0);
        let root = RootWork::default();
        let refused = Predictor::new(&list, &model, &memory, &root, Strategy::Size, 51.0)
            .err()
            .unwrap();
        assert!(refused.contains("1 of the images are float32"), "{refused}");
    }

    #[test]
    fn settings_keep_to_the_nodes_and_their_cpus() {
        let bounds = Bounds {
            nodes: vec![1, 2],
            ranks: Vec::new(),
            threads: vec![1, 4],
            cpus_per_node: 6,
            mem_per_node_bytes: Some(100 << 20),
            max_time_s: Some(100.0),
        };
        let found: Vec<_> = bounds
            .settings()
            .iter()
            .map(|s| (s.nodes, s.ranks, s.threads))
            .collect();
        assert_eq!(
            found,
            [
                (1, 1, 1),
                (1, 2, 1),
                (1, 4, 1),
                (1, 6, 1),
                (1, 1, 4),
                (2, 2, 1),
                (2, 4, 1),
                (2, 8, 1),
                (2, 12, 1),
                (2, 2, 4)
            ]
        );
        let mut prediction = predictions(&Machine::default(), 1, 40, &[setting(1, 8, 1)]).remove(0);
        assert!(bounds.judge(&prediction).unwrap().contains("MiB a node"));
        prediction.rss_per_node_bytes = 1;
        assert_eq!(bounds.judge(&prediction), None);
        prediction.elapsed_high_s = 101.0;
        assert!(bounds.judge(&prediction).unwrap().contains("--max-time"));
    }
}
