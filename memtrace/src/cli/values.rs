//! Values with units, as people type them.

use std::time::Duration;

/// `100ms`, `5s`, `1m30s`, `2h`; a bare `0` needs no unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "give a number with a unit: 100ms, 5s, 1m30s, 2h";
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(HINT.to_owned());
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or(HINT)?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let ns: u128 = match unit.trim() {
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(HINT.to_owned()),
        };
        total = total.saturating_add(number.scaled(ns));
        rest = tail;
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| "that is longer than 500 years".to_owned())
}

/// A duration from 10 ms to 1 h: below that the ticks themselves would be the load.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(10) {
        Err("too short: 10ms is the least".to_owned())
    } else if interval > Duration::from_secs(3_600) {
        Err("too long: 1h is the most".to_owned())
    } else {
        Ok(interval)
    }
}

/// `4096`, `64K`, `1M`, `1.5G`, with or without `iB` or `B`: powers of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    const HINT: &str = "give a size such as 4096, 64K, 1M or 2G (powers of 1024)";
    let (number, unit) = split_number(text.trim()).ok_or(HINT)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        // Disk makers and free(1) disagree on what KB is; nobody should have to guess here.
        "kb" | "mb" | "gb" | "tb" => return Err(format!("{unit} may mean 1000 or 1024: write {}iB", &unit[..1])),
        _ => return Err(HINT.to_owned()),
    };
    if shift == 0 && number.fraction != 0 {
        return Err("there are no fractions of a byte".to_owned());
    }
    u64::try_from(number.scaled(1 << shift)).map_err(|_| "that is more than any machine has".to_owned())
}

/// A decimal number in parts, so that no rounding of floats gets in.
#[derive(Clone, Copy)]
struct Number {
    whole: u64,
    /// Millionths.
    fraction: u32,
}

impl Number {
    fn scaled(self, unit: u128) -> u128 {
        u128::from(self.whole) * unit + u128::from(self.fraction) * unit / 1_000_000
    }
}

fn split_number(text: &str) -> Option<(Number, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, tail) = text.split_at(end);
    let whole = whole.parse().ok()?;
    let Some(tail) = tail.strip_prefix('.') else {
        return Some((Number { whole, fraction: 0 }, tail));
    };
    let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    let (digits, tail) = tail.split_at(end);
    if digits.is_empty() || digits.len() > 6 {
        return None;
    }
    let fraction = format!("{digits:0<6}").parse().ok()?;
    Some((Number { whole, fraction }, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ns) in [
            ("0", 0),
            ("100ms", 100_000_000),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90_000_000_000),
            ("2h", 7_200_000_000_000),
            ("250us", 250_000),
            (" 5 s ", 5_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5x", "1e3s", "5s5", "1.s", "99999999999h", "1.1234567s", "ß"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intervals_are_bounded() {
        assert!(parse_interval("10ms").is_ok());
        assert!(parse_interval("9ms").is_err());
        assert!(parse_interval("0").is_err());
        assert!(parse_interval("2h").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("64K", 65_536),
            ("1M", 1 << 20),
            ("1.5 GiB", 3 << 29),
            ("2t", 2 << 40),
            ("12B", 12),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5", "1X", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_bytes("1MB"), Err("MB may mean 1000 or 1024: write MiB".to_owned()));
    }
}
