//! Messages about the sections of an image that ranks share.

use serde::{Deserialize, Serialize};

use crate::image_io::{Chunk, Place};
use crate::job::outcome::{Failure, FailureKind};
use crate::job::shared::{Needs, Sections};

/// What the leader announces about an image.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Order {
    /// None if the image is not shared.
    pub(super) sections: Sections,
    /// The bytes of the input that each needs, if one rank inflates it for all.
    pub(super) needs: Needs,
    /// The file, if its bytes can be written in place.
    pub(super) place: Option<Place>,
}

/// What a rank has made, or its failure and the kind of it, which messages leave out.
pub(super) type Reported<T> = Result<T, (Failure, FailureKind)>;

/// A result as its message.
pub(super) fn report<T>(made: Result<T, Failure>) -> Reported<T> {
    made.map_err(|failure| {
        let kind = failure.kind;
        (failure, kind)
    })
}

/// The result of a message.
pub(super) fn reported<T>(made: Reported<T>) -> Result<T, Failure> {
    made.map_err(|(failure, kind)| Failure {
        kind: match kind {
            FailureKind::Stopped | FailureKind::Temporary | FailureKind::NoSpace => kind,
            // Other kinds are about the rank, not about this one.
            _ => FailureKind::Own,
        },
        ..failure
    })
}

/// Appends a chunk to a message: the length of its compressed bytes, its checksum, the length of its content,
/// and the compressed bytes.
pub(super) fn push_chunk(batch: &mut Vec<u8>, chunk: &Chunk) {
    let (compressed, crc32, raw_bytes) = chunk.as_parts();
    for number in [compressed.len() as u64, u64::from(crc32), raw_bytes] {
        batch.extend_from_slice(&number.to_le_bytes());
    }
    batch.extend_from_slice(compressed);
}

/// The chunks of a message.
pub(super) fn chunks_of(mut batch: &[u8]) -> impl Iterator<Item = Chunk> {
    std::iter::from_fn(move || {
        let (numbers, rest) = batch.split_first_chunk::<24>()?;
        let number = |at: usize| {
            let bytes = numbers[at..at + 8].try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let (compressed, rest) = rest.split_at(number(0) as usize);
        batch = rest;
        Some(Chunk::from_parts(
            compressed.to_vec(),
            number(8) as u32,
            number(16),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_ranks_failure_keeps_what_it_means_for_other_images() {
        for (kind, expected) in [
            (FailureKind::NoSpace, FailureKind::NoSpace),
            (FailureKind::Temporary, FailureKind::Temporary),
            (FailureKind::CannotOpen, FailureKind::Own),
        ] {
            let failure = Failure {
                kind,
                ..crate::job::shared::changed(std::path::Path::new("a.nii"))
            };
            assert_eq!(reported(report::<()>(Err(failure))).unwrap_err().kind, expected);
        }
    }
}
