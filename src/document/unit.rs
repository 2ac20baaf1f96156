//! Unit: durations and sizes as operators write them, `15m` and `150MiB`, both directions.

use std::time::Duration;

const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads `15m`, `24h` or `1h30m`; every number needs its unit, greater units come first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let (count, after) = leading_number(rest)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, length) = SPANS.into_iter().find(|(name, _)| *name == unit)?;
        if length >= smallest {
            return None;
        }
        smallest = length;
        millis = millis.checked_add(count.checked_mul(length)?)?;
        rest = after;
    }
    (smallest != u64::MAX).then(|| Duration::from_millis(millis))
}

/// In the greatest unit that leaves nothing over.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, length) = SPANS
        .into_iter()
        // As operators say it: 24h and 60m rather than 1d and 1h.
        .find(|(unit, length)| match *unit {
            "d" => false,
            "h" => millis.is_multiple_of(*length) && millis > *length,
            _ => millis.is_multiple_of(*length),
        })
        .expect("every count of milliseconds is one of milliseconds");
    format!("{}{unit}", millis / length)
}

/// Reads `150MiB`, `1 GB` or `512B`, units in any case.
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = leading_number(text.trim())?;
    let (_, length) = SIZES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    count.checked_mul(length)
}

/// In the greatest binary unit that leaves nothing over.
pub fn show_size(bytes: u64) -> String {
    let (unit, length) = SIZES
        .into_iter()
        .find(|(unit, length)| {
            bytes != 0 && length.is_power_of_two() && bytes.is_multiple_of(*length) && *unit != "B"
        })
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / length)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        for (text, millis) in [
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("500ms", 500),
            ("1s500ms", 1_500),
            (" 0s ", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "15",
            "m",
            "15 m",
            "-5m",
            "1.5h",
            "30m1h",
            "5m5m",
            "5x",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_carry_their_unit() {
        for (text, bytes) in
            [("150MiB", 157_286_400), ("1 GB", 1_000_000_000), ("512B", 512), ("4kib", 4096), ("0B", 0)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "150", "MiB", "150M", "-1B", "1.5GiB", "99999999TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0..u64::MAX / 2, bytes: u64, text in ".{0,12}") {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
            if let Some(read) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&show_duration(read)), Some(read));
            }
            if let Some(read) = parse_size(&text) {
                prop_assert_eq!(parse_size(&show_size(read)), Some(read));
            }
        }
    }
}
