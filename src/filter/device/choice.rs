//! Choice: the device that the user asks for.

use std::fmt;
use std::str::FromStr;

/// Where the sums of a filter are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// What is faster: an OpenCL device, or the CPU.
    Auto,
    /// An OpenCL device: the one with this number, or one for each rank of a host in turn.
    OpenCl(Option<usize>),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::OpenCl(None) => f.write_str("opencl"),
            DeviceChoice::OpenCl(Some(number)) => write!(f, "opencl:{number}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (text, None),
        };
        match (kind, number.map(str::parse)) {
            ("cpu", None) => Ok(DeviceChoice::Cpu),
            ("auto", None) => Ok(DeviceChoice::Auto),
            ("opencl", None) => Ok(DeviceChoice::OpenCl(None)),
            ("opencl", Some(Ok(number))) => Ok(DeviceChoice::OpenCl(Some(number))),
            _ => Err("give cpu, auto, opencl, or opencl:N with a number of `niimpi devices`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for text in ["cpu", "auto", "opencl", "opencl:0", "opencl:12"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "opencl:", "opencl:-1", "cpu:0", "auto:0"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
