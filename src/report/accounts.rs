//! The accounts of a job as a table for people, to stand below the report's own.

use comfy_table::{CellAlignment, Table};

use super::table::Style;
use crate::slurm::steps::Account;
use crate::text::{clock, printable};

/// One row a job, script or step, ending with a line break. Times as Slurm writes them, memory in MiB (2²⁰ bytes).
pub fn render(accounts: &[Account], style: Style) -> String {
    let mut table = Table::new();
    style.apply(&mut table);
    table.set_header([
        "job", "name", "state", "code", "elapsed", "CPU time", "CPU %", "peak MiB", "nodes",
    ]);
    let unknown = || "-".to_owned();
    for account in accounts {
        table.add_row([
            account.job_id.clone(),
            printable(&account.name),
            account.state.clone(),
            account.exit_code.clone(),
            clock(account.elapsed_s),
            clock(account.cpu_s),
            account
                .cpu_efficiency
                .map_or_else(unknown, |part| format!("{:.0}", part * 100.0)),
            account.max_rss_bytes.map_or_else(unknown, |bytes| {
                format!("{:.0}", bytes as f64 / f64::from(1 << 20))
            }),
            account.node_list.clone(),
        ]);
    }
    for place in 3..8 {
        if let Some(column) = table.column_mut(place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_a_step_with_what_is_not_known_left_open() {
        let account = |job_id: &str, max_rss_bytes| Account {
            job_id: job_id.to_owned(),
            state: "OUT_OF_MEMORY".to_owned(),
            exit_code: "0:125".to_owned(),
            elapsed_s: 3725.0,
            cpu_s: 12.34,
            cpu_efficiency: Some(0.5),
            cpus: 4,
            max_rss_bytes,
            requested_memory: "2G".to_owned(),
            node_list: "n[1-3]".to_owned(),
            nodes: 3,
            time_limit_s: None,
            name: "a\nb".to_owned(),
        };
        let text = render(
            &[account("7", None), account("7.0", Some(3 << 20))],
            Style::Terminal,
        );
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.contains("OUT_OF_MEMORY"))
            .map(|line| line.trim_matches('|').split_whitespace().collect())
            .collect();
        let common = ["OUT_OF_MEMORY", "0:125", "1:02:05", "12.3", "s", "50"];
        assert_eq!(
            rows[0],
            [&["7", "a\\nb"], &common[..], &["-", "n[1-3]"]].concat()
        );
        assert_eq!(
            rows[1],
            [&["7.0", "a\\nb"], &common[..], &["3", "n[1-3]"]].concat()
        );
    }
}
