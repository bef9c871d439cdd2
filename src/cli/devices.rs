//! `niimpi devices`: the OpenCL devices of this machine.

use clap::Args;

use crate::columns::{Cell, Column, Style, Table};
use crate::console;
use crate::filter::device::{self, FoundDevice};
use crate::run::EXIT_DONE;
use crate::text::printable;

/// List the devices that --device opencl can use
///
/// Prints the number, the name, the memory and the driver of each OpenCL device of this machine, and why
/// niimpi cannot use it, if so. On a cluster, run it in a job, because login nodes often have no GPU. Exit
/// codes: 0 OpenCL is there, with or without devices; 2 it is not.
#[derive(Args, Debug)]
pub(super) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn columns(devices: &[FoundDevice]) -> Vec<Column<FoundDevice>> {
    let note = Column::shown("note", |device: &FoundDevice| {
        Cell::Text(device.unusable.clone().unwrap_or_default())
    });
    let mut columns: Vec<Column<FoundDevice>> = vec![
        Column::shown("device", |device| Cell::Text(format!("opencl:{}", device.number))),
        Column::shown("name", |device| Cell::Text(device.name.clone())),
        Column::shown("kind", |device| Cell::Text(device.kind.clone())),
        Column::shown("memory\nMiB", |device| Cell::Bytes(device.memory_bytes)),
        Column::shown("doubles", |device| {
            Cell::Text(if device.doubles { "yes" } else { "no" }.to_owned())
        }),
        Column::shown("driver", |device| {
            Cell::Text(format!("{} {}", device.platform, device.driver_version))
        }),
    ];
    if devices.iter().any(|device| device.unusable.is_some()) {
        columns.push(note);
    }
    columns
}

/// Prints the devices; exit code 2 without OpenCL.
pub(super) fn run(args: &DevicesArgs) -> Result<u8, String> {
    let devices = device::devices()?;
    let text = if args.json {
        let json = serde_json::to_string_pretty(&devices);
        json.map_err(|error| error.to_string())? + "\n"
    } else if devices.is_empty() {
        "OpenCL is installed, but no driver has a device\n".to_owned()
    } else {
        Table::of(&columns(&devices), &devices).draw(Style::Fitted(console::width()))
    };
    console::print(text).map_err(|error| format!("cannot write to standard output: {error}"))?;
    Ok(EXIT_DONE)
}

/// The devices in one line, for `--version -v`.
pub(super) fn in_a_line() -> String {
    let found = device::devices().unwrap_or_default();
    let names = found.iter().map(|device| {
        let name = printable(&device.name);
        format!(
            "opencl:{} ({name}, {} {})",
            device.number, device.platform, device.driver_version
        )
    });
    Vec::from_iter(std::iter::once("CPU".to_owned()).chain(names)).join(", ")
}
