//! Studies: `plan` predicts time and memory from measurements, `scaling` measures. Both run niimpi as children and read reports.

pub mod chart;
pub mod plan;
pub mod scaling;
pub mod statistics;
