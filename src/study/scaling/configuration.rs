//! One cell of a study: how many images, ranks, threads and nodes, and which repeat.

use serde::{Deserialize, Serialize};

use crate::text::counted;

/// One cell of the study.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Configuration {
    pub nodes: usize,
    /// Ranks, on all nodes together.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub images: usize,
    /// Which of the repeats, from 1; 0 for all of them together.
    pub repeat: usize,
}

impl Configuration {
    /// Its name among the study's files.
    pub(crate) fn id(&self) -> String {
        let Self {
            ranks,
            threads,
            nodes,
            images,
            repeat,
        } = self;
        format!("ranks-{ranks}_threads-{threads}_nodes-{nodes}_images-{images}_repeat-{repeat}")
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [images, ranks, threads] = [
            (self.images, "image"),
            (self.ranks, "rank"),
            (self.threads, "thread"),
        ]
        .map(|(count, noun)| counted(count, noun));
        write!(f, "{images}, {ranks} × {threads}")?;
        if self.nodes > 1 {
            write!(f, " on {} nodes", self.nodes)?;
        }
        if self.repeat > 0 {
            write!(f, ", repeat {}", self.repeat)?;
        }
        Ok(())
    }
}
