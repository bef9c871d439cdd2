//! Handshake: refuses ranks that were started with different programs or requests.

use super::{Communicator, ROOT, encode, from_root};
use crate::text::runs;

/// The request of a rank, as named values that must be equal on all ranks.
pub(crate) type Request = Vec<(String, String)>;

/// Compares the requests of all ranks. Collective. It is the first call of a run, so it must handle messages
/// of other versions.
///
/// # Errors
/// On every rank the first difference and the ranks that have it.
pub(crate) fn refuse_differences(comm: &impl Communicator, own: &Request) -> Result<(), String> {
    let gathered = comm.gather(encode(own));
    // Another version of the program can send anything here; unreadable messages count as different.
    let read = |part: &Vec<u8>| postcard::from_bytes(part).unwrap_or_default();
    let requests: Vec<Request> = gathered.iter().flatten().map(read).collect();
    let difference: Option<String> = from_root(comm, || difference(&requests));
    difference.map_or(Ok(()), Err)
}

/// The first value in which a rank differs from the root.
fn difference(requests: &[Request]) -> Option<String> {
    let root = requests.get(ROOT)?;
    let (rank, other) = requests.iter().enumerate().find(|(_, other)| *other != root)?;
    let value = |request: &Request, name: &str| {
        let found = request.iter().find(|(other, _)| other == name);
        found.map_or_else(|| "not given".to_owned(), |(_, value)| value.clone())
    };
    let names = root.iter().chain(other).map(|(name, _)| name);
    let name = names
        .into_iter()
        .find(|name| value(root, name) != value(other, name))?;
    let [expected, found] = [root, other].map(|request| value(request, name));
    let ranks: Vec<usize> = (rank..requests.len())
        .filter(|&rank| value(&requests[rank], name) == found)
        .collect();
    Some(format!(
        "the ranks were started with different requests: {name} is {expected} on rank {ROOT} and {found} \
         on {}. Nothing was written.\n  Start all ranks with the same program and the same options",
        text_of_ranks(&ranks)
    ))
}

/// `rank 3`, or `ranks 3, 5-7`.
fn text_of_ranks(ranks: &[usize]) -> String {
    const MOST_RUNS: usize = 8;
    let runs = runs(ranks);
    let text: Vec<String> = runs
        .iter()
        .take(MOST_RUNS)
        .map(|&(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first}, {last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    let more = if runs.len() > MOST_RUNS { ", …" } else { "" };
    let rank = if ranks.len() == 1 { "rank" } else { "ranks" };
    format!("{rank} {}{more}", text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads::run_on_threads;

    fn request(values: &[(&str, &str)]) -> Request {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        values.iter().map(owned).collect()
    }

    fn compared(requests: &[Request]) -> Vec<Result<(), String>> {
        run_on_threads(requests.len(), |comm| {
            refuse_differences(comm, &requests[comm.rank()])
        })
    }

    #[test]
    fn the_same_request_passes() {
        let same = request(&[("version", "1"), ("sigma", "2")]);
        assert_eq!(compared(&vec![same; 3]), [Ok(()), Ok(()), Ok(())]);
    }

    #[test]
    fn a_different_value_is_named_with_its_ranks_on_every_rank() {
        let [one, two] = ["1", "2"].map(|sigma| request(&[("version", "1"), ("sigma", sigma)]));
        let found = compared(&[one.clone(), two.clone(), one.clone(), two]);
        for result in found {
            let message = result.unwrap_err();
            assert!(
                message.contains("sigma is 1 on rank 0 and 2 on ranks 1, 3"),
                "{message}"
            );
        }
        let verify = request(&[("version", "1"), ("against", "journal")]);
        let message = compared(&[one, verify])[0].clone().unwrap_err();
        assert!(
            message.contains("sigma is 1 on rank 0 and not given on rank 1"),
            "{message}"
        );
    }

    #[test]
    fn a_program_that_sends_something_else_is_refused() {
        let results = run_on_threads(2, |comm| match comm.rank() {
            ROOT => refuse_differences(comm, &request(&[("version", "1")])),
            _ => {
                comm.gather(vec![0xff; 3]);
                comm.broadcast(Vec::new());
                Ok(())
            }
        });
        assert!(results[ROOT].as_ref().unwrap_err().contains("version is 1"));
    }

    #[test]
    fn ranks_are_named_in_runs() {
        assert_eq!(text_of_ranks(&[3]), "rank 3");
        assert_eq!(text_of_ranks(&[1, 2, 4, 6, 7, 8]), "ranks 1, 2, 4, 6-8");
        let odd: Vec<usize> = (0..40).map(|number| 2 * number).collect();
        assert!(text_of_ranks(&odd).ends_with("14, …"));
    }
}
