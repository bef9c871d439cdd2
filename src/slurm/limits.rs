//! Limits: the limits of a partition, from `sinfo`.

use std::process::Command;

use super::batch::Request;
use crate::text::parse_clock_s;

/// The limits of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionLimits {
    pub name: String,
    /// Time limit; `None` if unlimited.
    pub time_s: Option<f64>,
    /// CPUs of its smallest node.
    pub cpus_per_node: usize,
    /// Memory of its smallest node, in bytes.
    pub mem_per_node_bytes: u64,
    /// Number of its nodes, or the limit per job if that is lower.
    pub nodes: usize,
}

impl PartitionLimits {
    /// Queries `sinfo` about a partition, by default the cluster's default partition. `None` if `sinfo` is
    /// not available.
    pub fn of(partition: Option<&str>) -> Result<Option<Self>, String> {
        let mut command = Command::new("sinfo");
        command.args(["--noheader", "--format=%P|%l|%c|%m|%D|%s"]);
        if let Some(name) = partition {
            command.args(["--partition", name]);
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("sinfo cannot be started: {error}")),
        };
        if !output.status.success() {
            return Err(format!(
                "sinfo fails: {}",
                String::from_utf8_lossy(&output.stderr)
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or("without a message")
            ));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout), partition).map(Some)
    }

    /// Parses the output of `sinfo`: one row for each kind of node of each partition; the default partition
    /// has a star.
    fn parse(text: &str, partition: Option<&str>) -> Result<Self, String> {
        let mut found: Option<Self> = None;
        for line in text.lines() {
            let fields: Vec<&str> = line.trim().split('|').collect();
            let [name, time, cpus, memory_mib, nodes, size] = fields[..] else {
                continue;
            };
            let wanted = match partition {
                Some(partition) => name.trim_end_matches('*') == partition,
                None => name.ends_with('*'),
            };
            let number = |text: &str| text.trim_end_matches('+').parse::<u64>().ok();
            let (true, Some(cpus), Some(memory_mib), Some(nodes)) =
                (wanted, number(cpus), number(memory_mib), number(nodes))
            else {
                continue;
            };
            let most = size
                .rsplit('-')
                .next()
                .and_then(|most| most.parse::<usize>().ok());
            let row = Self {
                name: name.trim_end_matches('*').to_owned(),
                time_s: parse_clock_s(time),
                cpus_per_node: cpus as usize,
                mem_per_node_bytes: memory_mib << 20,
                nodes: nodes as usize,
            };
            found = Some(match found {
                None => row,
                Some(before) => Self {
                    cpus_per_node: before.cpus_per_node.min(row.cpus_per_node),
                    mem_per_node_bytes: before.mem_per_node_bytes.min(row.mem_per_node_bytes),
                    nodes: before.nodes + row.nodes,
                    ..row
                },
            });
            if let (Some(found), Some(most)) = (&mut found, most) {
                found.nodes = found.nodes.min(most);
            }
        }
        found.ok_or_else(|| match partition {
            Some(name) => {
                format!("--partition {name}: this cluster has no such partition (see sinfo)")
            }
            None => "this cluster has no default partition; name one with --partition (see sinfo)".to_owned(),
        })
    }

    /// The part of a request that exceeds the partition's limits; `None` if it fits.
    pub fn refuses(&self, request: &Request) -> Option<String> {
        let cpus = request.tasks_per_node * request.cpus_per_task;
        let memory = (request.mem_per_cpu_mib.unwrap_or(0) * cpus as u64) << 20;
        let name = &self.name;
        if request.nodes > self.nodes {
            Some(format!(
                "{} nodes are more than the {} of partition {name}",
                request.nodes, self.nodes
            ))
        } else if cpus > self.cpus_per_node {
            Some(format!(
                "{cpus} CPUs per node are more than the {} of partition {name}",
                self.cpus_per_node
            ))
        } else if memory > self.mem_per_node_bytes {
            Some(format!(
                "{} MiB per node are more than the {} MiB of partition {name}",
                memory >> 20,
                self.mem_per_node_bytes >> 20
            ))
        } else {
            match (request.time_min, self.time_s) {
                (Some(minutes), Some(limit)) if minutes as f64 * 60.0 > limit => Some(format!(
                    "{minutes} minutes are more than the {:.0} of partition {name}",
                    limit / 60.0
                )),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINFO: &str = "\
cpu24*|1-00:00:00|24|180000|6|1-4
cpu24*|1-00:00:00|20+|160000+|2|1-4
long|infinite|24|180000|8|1-infinite
";

    fn request() -> Request {
        Request {
            nodes: 2,
            tasks_per_node: 10,
            cpus_per_task: 2,
            mem_per_cpu_mib: Some(100),
            time_min: Some(60),
            partition: None,
        }
    }

    #[test]
    fn the_default_partition_and_a_named_one_are_read() {
        let default = PartitionLimits::parse(SINFO, None).unwrap();
        assert_eq!((default.name.as_str(), default.time_s), ("cpu24", Some(86_400.0)));
        assert_eq!((default.cpus_per_node, default.nodes), (20, 4));
        assert_eq!(default.mem_per_node_bytes, 160_000 << 20);
        let long = PartitionLimits::parse(SINFO, Some("long")).unwrap();
        assert_eq!((long.time_s, long.nodes), (None, 8));
        let error = PartitionLimits::parse(SINFO, Some("gpu")).unwrap_err();
        assert!(error.contains("--partition gpu"), "{error}");
    }

    #[test]
    fn what_goes_beyond_a_partition_is_named() {
        let limits = PartitionLimits::parse(SINFO, None).unwrap();
        assert_eq!(limits.refuses(&request()), None);
        type Change = fn(&mut Request);
        let cases: [(Change, &str); 4] = [
            (|request| request.nodes = 5, "5 nodes"),
            (|request| request.cpus_per_task = 3, "30 CPUs"),
            (|request| request.mem_per_cpu_mib = Some(9000), "180000 MiB"),
            (|request| request.time_min = Some(2000), "2000 minutes"),
        ];
        for (change, word) in cases {
            let mut request = request();
            change(&mut request);
            let message = limits.refuses(&request).unwrap();
            assert!(message.contains(word) && message.contains("cpu24"), "{message}");
        }
    }
}
