//! Studies: `plan` predicts time and memory from measurements, `scaling` measures. Both run niimpi as
//! children and read reports.

pub(crate) mod chart;
pub(crate) mod plan;
pub(crate) mod scaling;
pub(crate) mod statistics;
