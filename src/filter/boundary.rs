//! Boundary: how a line continues beyond its ends.

use serde::{Deserialize, Serialize};

/// How a line continues beyond its first and last voxel, with scipy's names (its `mode` argument). In the
/// drawings, `a b c d` is the line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// d c b a | a b c d | d c b a   mirrored about the edge of the last voxel
    #[default]
    Reflect,
    /// a a a a | a b c d | d d d d   the last voxel repeated
    Nearest,
    /// d c b | a b c d | c b a       mirrored about the centre of the last voxel
    Mirror,
    /// a b c d | a b c d | a b c d   the line repeated
    Wrap,
    /// k k k k | a b c d | k k k k   a fixed intensity, --cval
    Constant,
}

/// The command line's options for the edge of the image.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq)]
#[command(about = None, long_about = None)]
pub(crate) struct BoundaryArgs {
    /// How the image continues beyond its edge
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(super) boundary: Boundary,

    /// Intensity beyond the edge of the image with --boundary constant
    #[arg(
        long,
        value_name = "INTENSITY",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub(super) cval: f64,
}

impl Boundary {
    /// The name in scipy and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Boundary::Reflect => "reflect",
            Boundary::Nearest => "nearest",
            Boundary::Mirror => "mirror",
            Boundary::Wrap => "wrap",
            Boundary::Constant => "constant",
        }
    }

    /// The index of the voxel at `position` of a line of `len` voxels; `None` for the constant. `position`
    /// can be any distance outside the line, because the pattern repeats endlessly.
    ///
    /// # Panics
    /// When `len` is 0.
    pub fn source(self, position: isize, len: usize) -> Option<usize> {
        let last = len as isize - 1;
        assert!(last >= 0, "a line has at least one voxel");
        if (0..=last).contains(&position) {
            return Some(position as usize);
        }
        // Positions less than a line's length away, which are the usual case, need no division.
        let index = match self {
            Boundary::Reflect if (-last - 1..0).contains(&position) => -1 - position,
            Boundary::Reflect if (0..2 * last + 2).contains(&position) => 2 * last + 1 - position,
            Boundary::Reflect => {
                let phase = position.rem_euclid(2 * (last + 1));
                phase.min(2 * last + 1 - phase)
            }
            Boundary::Nearest => position.clamp(0, last),
            // A line of one voxel repeats this voxel.
            Boundary::Mirror if last == 0 => 0,
            Boundary::Mirror if (-last..0).contains(&position) => -position,
            Boundary::Mirror if (0..2 * last).contains(&position) => 2 * last - position,
            Boundary::Mirror => {
                let phase = position.rem_euclid(2 * last);
                phase.min(2 * last - phase)
            }
            Boundary::Wrap => position.rem_euclid(last + 1),
            Boundary::Constant => return None,
        };
        Some(index as usize)
    }
}

impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws a line with `before` voxels before it and `after` voxels after it.
    fn draw(boundary: Boundary, line: &str, before: isize, after: isize) -> String {
        let line: Vec<char> = line.chars().collect();
        (-before..line.len() as isize + after)
            .map(|position| boundary.source(position, line.len()).map_or('k', |i| line[i]))
            .collect()
    }

    #[test]
    fn lines_continue_as_drawn() {
        assert_eq!(
            draw(Boundary::Reflect, "abcd", 6, 6),
            "cddcba abcd dcbaab".replace(' ', "")
        );
        assert_eq!(draw(Boundary::Nearest, "abcd", 3, 3), "aaaabcdddd");
        assert_eq!(
            draw(Boundary::Mirror, "abcd", 6, 6),
            "abcdcb abcd cbabcd".replace(' ', "")
        );
        assert_eq!(
            draw(Boundary::Wrap, "abcd", 6, 6),
            "cdabcd abcd abcdab".replace(' ', "")
        );
        assert_eq!(draw(Boundary::Constant, "abcd", 2, 2), "kkabcdkk");
    }

    #[test]
    fn lines_of_one_and_two_voxels_continue() {
        for boundary in [
            Boundary::Reflect,
            Boundary::Nearest,
            Boundary::Mirror,
            Boundary::Wrap,
        ] {
            assert_eq!(draw(boundary, "a", 3, 3), "aaaaaaa", "{boundary}");
        }
        assert_eq!(draw(Boundary::Constant, "a", 2, 2), "kkakk");
        assert_eq!(draw(Boundary::Reflect, "ab", 3, 3), "bbaabbaa");
        assert_eq!(draw(Boundary::Mirror, "ab", 3, 3), "babababa");
    }
}
