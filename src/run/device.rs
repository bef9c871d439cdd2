//! Device: what each rank computes on, and for `--device auto`, why.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Config;
use super::agree::Ranks;
use crate::comm::{self, Communicator, ROOT};
use crate::filter::device::{self, Device, DeviceChoice};
use crate::filter::{Costs, Filter};
use crate::image_io;
use crate::images::ImageEntry;
use crate::job::memory::image_info;

/// The device that a rank may use; otherwise why it has none.
pub(super) type Opened = Result<Option<Arc<Device>>, String>;

/// What a rank reports of its device.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Offer {
    /// The device's number on its host.
    number: usize,
    name: String,
    /// Ranks that share it.
    sharing: usize,
    /// What the first of them measured.
    costs: Option<Costs>,
}

/// Opens this rank's device, unless nothing is to be computed. Collective.
///
/// # Errors
/// The same error on every rank if the filter is not computed on devices, or if one of the ranks has no such
/// device or cannot use it. With [`DeviceChoice::Auto`] this is no error.
pub(super) fn open(comm: &impl Communicator, config: &Config, ranks: &Ranks) -> Result<Opened, String> {
    let is_auto = config.device == DeviceChoice::Auto;
    if config.device == DeviceChoice::Cpu {
        return Ok(Ok(None));
    }
    match config.job.filter.validate_on_device() {
        Err(_) if is_auto => {
            let why = "this filter with these options is not computed on devices";
            return Ok(Err(why.to_owned()));
        }
        checked => checked.map_err(|error| format!("--{error}"))?,
    }
    if config.dry_run {
        return Ok(Ok(None));
    }
    let rank = comm.rank();
    let host = &ranks.hosts[rank];
    let before = ranks.hosts[..rank].iter().filter(|other| *other == host).count();
    let (on_host, threads) = (ranks.on_host_of(rank), ranks.threads[rank]);
    let opened = device::open(config.device, before, on_host, threads);
    if is_auto {
        return Ok(opened);
    }
    let opened =
        opened.map_err(|error| format!("--device {}: rank {rank} on {host}: {error}", config.device));
    comm::agree(comm, opened).map(Ok)
}

/// Chooses what this rank computes on. With [`DeviceChoice::Auto`], the first rank that shares a device
/// measures the filter there and on the CPU, on a volume like the `first` image. Collective.
pub(super) fn choose(
    comm: &impl Communicator,
    config: &Config,
    ranks: &Ranks,
    opened: Opened,
    first: Option<&ImageEntry>,
) -> Option<Arc<Device>> {
    let rank = comm.rank();
    if config.device != DeviceChoice::Auto || config.dry_run {
        return log_chosen(opened.ok().flatten());
    }
    let offer = match &opened {
        Err(why) => Err(why.clone()),
        Ok(None) => Err("there is no device".to_owned()),
        Ok(Some(device)) => offer(config, device, first),
    };
    let verdicts = decide(&comm::all_gather(comm, offer), &ranks.hosts, &ranks.threads);
    if rank == ROOT {
        for line in summary(&verdicts) {
            tracing::info!("--device auto: {line}");
        }
    }
    let device = opened.ok().flatten();
    log_chosen(device.filter(|_| verdicts[rank].is_ok()))
}

fn log_chosen(device: Option<Arc<Device>>) -> Option<Arc<Device>> {
    if let Some(device) = &device {
        tracing::debug!("this rank computes on {}", device.name());
    }
    device
}

/// What this rank reports of its device.
fn offer(config: &Config, device: &Arc<Device>, first: Option<&ImageEntry>) -> Result<Offer, String> {
    let share = device.share();
    let measure = || -> Result<Costs, String> {
        let Some(first) = first else {
            return Err("there is no image".to_owned());
        };
        let probe = image_io::probe(&first.input).map_err(|error| error.to_string())?;
        let image = image_info(&probe.header);
        let costs = Costs::measure(&config.job.filter, &config.job.shared(), &image, device);
        costs.map_err(|error| format!("the trial failed: {error}"))
    };
    Ok(Offer {
        number: device.number(),
        name: device.name().to_owned(),
        sharing: share.ranks,
        costs: if share.is_first { Some(measure()?) } else { None },
    })
}

/// For each rank, why it computes on its device, or why on the CPU.
fn decide(
    offers: &[Result<Offer, String>],
    hosts: &[String],
    threads: &[usize],
) -> Vec<Result<String, String>> {
    let of_rank = |rank: usize| {
        let own = offers[rank].clone()?;
        let same = |&(other, offer): &(usize, &Offer)| {
            hosts[other] == hosts[rank] && offer.number == own.number && offer.costs.is_some()
        };
        let all = offers.iter().enumerate();
        let mut all = all.filter_map(|(other, offer)| Some((other, offer.as_ref().ok()?)));
        let Some(costs) = all.find(same).and_then(|(_, offer)| offer.costs) else {
            return Err(format!("the trial on {} failed", own.name));
        };
        let costs = costs.of_rank(own.sharing, threads[rank]);
        let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
        let shared = match own.sharing {
            1 => String::new(),
            ranks => format!(", which {ranks} ranks share,"),
        };
        let device = costs.device_s.map_or("longer".to_owned(), ms);
        let cpu = ms(costs.cpu_s);
        let why = format!(
            "a sample takes {device} on {}{shared} and {cpu} on the threads of a rank",
            own.name
        );
        if costs.device_pays() { Ok(why) } else { Err(why) }
    };
    (0..offers.len()).map(of_rank).collect()
}

/// How many ranks compute on a device and on the CPU, and why the first of each do.
fn summary(verdicts: &[Result<String, String>]) -> Vec<String> {
    let line = |of: &dyn Fn(&Result<String, String>) -> Option<String>, what: &str| {
        let whys: Vec<String> = verdicts.iter().filter_map(of).collect();
        let first = whys.first()?;
        Some(format!(
            "{} of {} ranks on {what}: {first}",
            whys.len(),
            verdicts.len()
        ))
    };
    let on_device = line(&|verdict| verdict.clone().ok(), "a device");
    let on_cpu = line(&|verdict| verdict.clone().err(), "the CPU");
    on_device.into_iter().chain(on_cpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: usize, sharing: usize, costs: Option<(f64, f64)>) -> Result<Offer, String> {
        Ok(Offer {
            number,
            name: format!("gpu {number}"),
            sharing,
            costs: costs.map(|(cpu_s, device_s)| Costs {
                cpu_s,
                device_s: Some(device_s),
            }),
        })
    }

    #[test]
    fn each_rank_takes_what_is_faster_for_it() {
        let hosts: Vec<String> = ["a", "a", "a", "b", "c"].map(str::to_owned).into();
        let offers = [
            offer(1, 2, Some((0.04, 0.005))),
            offer(2, 1, Some((0.04, 0.03))),
            offer(1, 2, None),
            // Another host's device of the same number.
            offer(1, 1, Some((0.04, 0.05))),
            Err("no driver".to_owned()),
        ];
        let verdicts = decide(&offers, &hosts, &[1, 2, 5, 1, 1]);
        let on_device: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
        assert_eq!(on_device, [true, false, false, false, false]);
        assert_eq!(
            summary(&verdicts),
            [
                "1 of 5 ranks on a device: a sample takes 10.0 ms on gpu 1, which 2 ranks share, and 40.0 ms \
                 on the threads of a rank",
                "4 of 5 ranks on the CPU: a sample takes 30.0 ms on gpu 2 and 20.0 ms on the threads of a \
                 rank",
            ]
        );
    }

    #[test]
    fn a_rank_whose_device_was_not_measured_takes_the_cpu() {
        let hosts = vec!["a".to_owned(); 2];
        let offers = [Err("the trial failed: no memory".to_owned()), offer(0, 2, None)];
        let verdicts = decide(&offers, &hosts, &[1, 1]);
        assert_eq!(verdicts[1], Err("the trial on gpu 0 failed".to_owned()));
        let line = "2 of 2 ranks on the CPU: the trial failed: no memory";
        assert_eq!(summary(&verdicts), [line]);
    }
}
