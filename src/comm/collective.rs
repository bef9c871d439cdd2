//! Collective calls on typed values: gather, broadcast, and success or failure that all ranks share.

use serde::{Serialize, de::DeserializeOwned};

use super::{Communicator, ROOT, decode, encode};

/// Collects one value of each rank on the root, in the order of ranks. The other ranks get `None`.
pub(crate) fn gather<T: Serialize + DeserializeOwned>(comm: &impl Communicator, value: T) -> Option<Vec<T>> {
    if comm.size() == 1 {
        return Some(vec![value]);
    }
    let message = encode(&value);
    // Drop the value after encoding; both together need too much memory for a long list.
    drop(value);
    let parts = comm.gather(message)?;
    Some(parts.into_iter().map(|part| decode(&part)).collect())
}

/// Sends every rank the values of all ranks, in the order of ranks.
pub(crate) fn all_gather<T: Serialize + DeserializeOwned>(comm: &impl Communicator, value: T) -> Vec<T> {
    let gathered = gather(comm, value);
    from_root(comm, || gathered.unwrap_or_default())
}

/// Makes a value on the root and sends it to every rank.
pub(crate) fn from_root<T: Serialize + DeserializeOwned>(
    comm: &impl Communicator,
    make: impl FnOnce() -> T,
) -> T {
    if comm.rank() != ROOT {
        return decode(&comm.broadcast(Vec::new()));
    }
    let value = make();
    if comm.size() > 1 {
        comm.broadcast(encode(&value));
    }
    value
}

/// Lets all ranks succeed or fail together: each keeps its own value, or all get the first rank's error.
pub(crate) fn agree<T>(comm: &impl Communicator, result: Result<T, String>) -> Result<T, String> {
    let errors = gather(comm, result.as_ref().err().cloned());
    let first: Option<String> = from_root(comm, || errors.into_iter().flatten().flatten().next());
    match first {
        Some(error) => Err(error),
        None => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads::run_on_threads;

    #[test]
    fn every_rank_gets_the_values_of_all_in_their_order() {
        for size in 1..=4 {
            let all = run_on_threads(size, |comm| all_gather(comm, 10 * comm.rank()));
            let expected: Vec<usize> = (0..size).map(|rank| 10 * rank).collect();
            assert_eq!(all, vec![expected; size]);
        }
    }

    #[test]
    fn one_ranks_error_is_every_ranks() {
        for failing in 0..3 {
            let results = run_on_threads(3, |comm| {
                let rank = comm.rank();
                let own = if rank >= failing && failing > 0 {
                    Err(format!("rank {rank} fails"))
                } else {
                    Ok(rank)
                };
                agree(comm, own)
            });
            let expected = |rank| match failing {
                0 => Ok(rank),
                first => Err(format!("rank {first} fails")),
            };
            assert_eq!(results, (0..3).map(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_value_of_the_root_is_made_once() {
        let values = run_on_threads(3, |comm| {
            from_root(comm, || {
                assert_eq!(comm.rank(), ROOT);
                "plan".to_owned()
            })
        });
        assert_eq!(values, ["plan"; 3]);
    }
}
