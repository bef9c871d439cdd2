//! Formatting and parsing of numbers and names, for all modules.

use std::time::Duration;

/// Binary units, largest first.
const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// The text with all characters escaped that could control a terminal, break a table or hide the real text.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// A message of one or more lines with escaped characters. A line break followed by two blanks comes from
/// niimpi and is kept.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split("\n  ").map(printable).collect();
    lines.join("\n  ")
}

/// Whether a character is printable. Control characters, line breaks, zero-width marks and marks that change
/// the writing direction are not.
pub(crate) fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// `1 image`, `2 images`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Ascending numbers as ranges of first and last.
pub(crate) fn runs(numbers: &[usize]) -> Vec<(usize, usize)> {
    let next = |a: &usize, b: &usize| a + 1 == *b;
    let runs = numbers.chunk_by(next);
    runs.map(|run| (run[0], run[run.len() - 1])).collect()
}

/// The numbers from 1 to `last` that are missing among these ascending ones, as ranges of first and last.
pub(crate) fn gaps(numbers: impl Iterator<Item = usize>, last: usize) -> Vec<(usize, usize)> {
    let mut next = 1;
    let mut gaps = Vec::new();
    for number in numbers {
        if number > next {
            gaps.push((next, number - 1));
        }
        next = next.max(number.saturating_add(1));
    }
    if next <= last {
        gaps.push((next, last));
    }
    gaps
}

/// Ranges of first and last: `3, 7-9`. Long lists are truncated.
pub(crate) fn ranges(ranges: &[(usize, usize)]) -> String {
    const MOST: usize = 20;
    let named = ranges
        .iter()
        .take(MOST)
        .map(|&(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
    let more = (ranges.len() > MOST).then(|| "…".to_owned());
    named.chain(more).collect::<Vec<_>>().join(", ")
}

/// Seconds as one number with its unit: `3.2 s`, `1.5 min`, `2.50 h`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else if seconds < 3600.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.2} h", seconds / 3600.0)
    }
}

/// Whole seconds in words: `2h 5m 7s`.
pub(crate) fn long_duration(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.clamp(0.0, 1e9) as u64);
    humantime::format_duration(whole).to_string()
}

/// Seconds as clock time, `1:02:05`; below a minute `12.3 s`.
pub(crate) fn clock(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// Bytes in MiB, rounded up.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Bytes with a binary unit: `19.4M`, `1.2G`.
pub(crate) fn bytes(count: f64) -> String {
    UNITS.iter().find(|&&(_, size)| count >= size as f64).map_or_else(
        || format!("{count:.0}B"),
        |&(unit, size)| format!("{:.1}{unit}", count / size as f64),
    )
}

/// Bytes of a size such as `20480K`, `1.5G` or `4GiB`; a number alone counts in `unit` bytes. `None` for
/// anything else.
pub(crate) fn parse_bytes(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text[number.len()..].to_ascii_uppercase();
    let size = match suffix.trim_end_matches('B').trim_end_matches('I') {
        "" if suffix.is_empty() => unit,
        "" if suffix == "B" => 1,
        letter => UNITS.iter().find(|(name, _)| letter == name.to_string())?.1,
    };
    let number: f64 = number.parse().ok()?;
    (number >= 0.0 && number.is_finite()).then_some((number * size as f64) as u64)
}

/// Seconds of a time as Slurm writes it: `[DD-[HH:]]MM:SS[.mmm]`.
pub(crate) fn parse_clock_s(text: &str) -> Option<f64> {
    let (days, rest) = match text.trim().split_once('-') {
        Some((days, rest)) => (days.parse::<f64>().ok()?, rest),
        None => (0.0, text.trim()),
    };
    let mut seconds = 0.0;
    for part in rest.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(days * 86_400.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_drive_a_terminal_is_escaped() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(printable("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
        assert_eq!(printable("sub-é_T1 w.nii"), "sub-é_T1 w.nii");
        assert_eq!(printable_lines("a\nb\n  c\r"), "a\\nb\n  c\\r");
    }

    #[test]
    fn durations_are_readable() {
        for (seconds, text) in [(3.21, "3.2 s"), (90.0, "1.5 min"), (9000.0, "2.50 h")] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((clock(12.34), clock(3725.2)), ("12.3 s".into(), "1:02:05".into()));
        assert_eq!(long_duration(3725.9), "1h 2m 5s");
        assert_eq!(
            (counted(1, "rank"), counted(0, "rank")),
            ("1 rank".into(), "0 ranks".into())
        );
    }

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[(3, 3), (7, 9)]), "3, 7-9");
        let many: Vec<(usize, usize)> = (1..100).map(|n| (2 * n, 2 * n)).collect();
        assert!(ranges(&many).ends_with("38, 40, …"), "{}", ranges(&many));
    }

    #[test]
    fn sizes_go_to_text_and_back() {
        assert_eq!(
            (bytes(999.0), bytes(20_300_000.0)),
            ("999B".into(), "19.4M".into())
        );
        assert_eq!(mib((1 << 20) + 1), 2);
        let cases = [
            ("1.5G", Some(3 << 29)),
            ("20480K", Some(20 << 20)),
            ("4gib", Some(4 << 30)),
            ("2MB", Some(2 << 20)),
            ("12B", Some(12)),
            ("0", Some(0)),
            ("7", Some(7 << 20)),
            ("", None),
            ("4X", None),
            ("-1G", None),
            ("infG", None),
        ];
        for (text, size) in cases {
            assert_eq!(parse_bytes(text, 1 << 20), size, "{text}");
        }
    }

    #[test]
    fn clocks_are_slurms() {
        assert_eq!(parse_clock_s("1-02:03:04"), Some(93_784.0));
        assert_eq!(parse_clock_s("02:03.500"), Some(123.5));
        assert_eq!(parse_clock_s("Partition_Limit"), None);
    }
}
