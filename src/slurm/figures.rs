//! Figures: sizes and times as Slurm writes them.

/// Bytes of a size as Slurm writes it: `20480K`, `1.5G`, `0`.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].chars().next() {
        None => 1.0,
        Some('K') => 1024.0,
        Some('M') => 1024.0 * 1024.0,
        Some('G') => 1024.0_f64.powi(3),
        Some('T') => 1024.0_f64.powi(4),
        Some(_) => return None,
    };
    digits
        .parse::<f64>()
        .ok()
        .map(|number| (number * factor) as u64)
}

/// Seconds of a time as Slurm writes it: `[DD-[HH:]]MM:SS[.mmm]`.
pub fn clock_s(text: &str) -> Option<f64> {
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
    fn sizes_and_times_are_slurms() {
        assert_eq!(size_bytes("1.5G"), Some(3 << 29));
        assert_eq!(size_bytes("0"), Some(0));
        assert_eq!(size_bytes(""), None);
        assert_eq!(clock_s("1-02:03:04"), Some(93_784.0));
        assert_eq!(clock_s("02:03.500"), Some(123.5));
        assert_eq!(clock_s("Partition_Limit"), None);
    }
}
