//! Numbers for people: sizes in binary units, counts with thousands separators, durations.
//! Integer arithmetic throughout, so that every machine prints the same digits.

/// The minus sign that lines up with `+`.
pub(crate) const MINUS: char = '−';

const KIB: u128 = 1 << 10;
const MIB: u128 = 1 << 20;
const GIB: u128 = 1 << 30;
const TIB: u128 = 1 << 40;

/// `96.0 MiB`, `244 KiB`, `512 B`, `0`.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = u128::from(bytes);
    // Each unit is left when its rounded figure would have four digits before the point.
    if bytes == 0 {
        "0".to_owned()
    } else if bytes < KIB {
        format!("{bytes} B")
    } else if rounded(bytes, KIB, 1) < KIB {
        format!("{} KiB", rounded(bytes, KIB, 1))
    } else if rounded(bytes, MIB, 10) < 10 * KIB {
        let tenths = rounded(bytes, MIB, 10);
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    } else if rounded(bytes, GIB, 100) < 100 * KIB {
        let hundredths = rounded(bytes, GIB, 100);
        format!("{}.{:02} GiB", hundredths / 100, hundredths % 100)
    } else {
        let hundredths = rounded(bytes, TIB, 100);
        format!("{}.{:02} TiB", hundredths / 100, hundredths % 100)
    }
}

const fn rounded(value: u128, unit: u128, steps: u128) -> u128 {
    (value * steps + unit / 2) / unit
}

/// The same for tables: `96.0M`, `244K`, `512B`, `0`.
pub(crate) fn short(bytes: u64) -> String {
    let text = size(bytes);
    match text.split_once(' ') {
        Some((figure, unit)) => format!("{figure}{}", &unit[..1]),
        None => text,
    }
}

/// What is not known is not 0.
pub(crate) fn or_unknown(bytes: Option<u64>, how: fn(u64) -> String) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), how)
}

/// `+60.2 MiB`, `−96.0 MiB`, `±0`.
pub(crate) fn signed_size(bytes: i64) -> String {
    match bytes {
        0 => "±0".to_owned(),
        1.. => format!("+{}", size(bytes.unsigned_abs())),
        _ => format!("{MINUS}{}", size(bytes.unsigned_abs())),
    }
}

/// The same for tables: `+60.2M`, `−96.0M`, `0`.
pub(crate) fn signed_short(bytes: i64) -> String {
    match bytes {
        0 => "0".to_owned(),
        1.. => format!("+{}", short(bytes.unsigned_abs())),
        _ => format!("{MINUS}{}", short(bytes.unsigned_abs())),
    }
}

/// A size that is never negative on a healthy kernel; when it is, the sign is shown.
pub(crate) fn level(bytes: i64) -> String {
    if bytes < 0 { signed_size(bytes) } else { size(bytes.unsigned_abs()) }
}

/// `33,255,424`, `−33,255,424`.
pub(crate) fn exact(bytes: i64) -> String {
    let digits = count(bytes.unsigned_abs());
    if bytes < 0 { format!("{MINUS}{digits}") } else { digits }
}

/// `15,411`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `15,411 minor faults`, `1 minor fault`.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `850 ns`, `1.9 µs`, `31 ms`, `5.0 s`, `5 min 12 s`, `3 h 02 min`.
pub(crate) fn duration(ns: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    match ns {
        0..1_000 => format!("{ns} ns"),
        // What would be shown as a thousand is one of the next unit.
        1_000..999_500 => unit(ns, 1_000, "µs"),
        999_500..999_500_000 => unit(ns, 1_000_000, "ms"),
        _ if ns < 59 * SECOND + SECOND / 2 => unit(ns, SECOND, "s"),
        _ => {
            let seconds = ns.saturating_add(SECOND / 2) / SECOND;
            if seconds < 3_600 {
                format!("{} min {:02} s", seconds / 60, seconds % 60)
            } else {
                format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60)
            }
        }
    }
}

/// To the nearest of what is shown.
fn unit(ns: u64, unit: u64, name: &str) -> String {
    let tenths = (ns + unit / 20) / (unit / 10);
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", (ns + unit / 2) / unit)
    }
}

/// `part` of `whole` in percent: `15 %`, with one decimal below ten and just below a hundred, `under 0.1 %`; `None` when
/// there is no whole. Always rounded down: `100 %` is all of it, and no column of shares comes to more.
pub(crate) fn percent(part: u64, whole: u64) -> Option<String> {
    if whole == 0 {
        return None;
    }
    let tenths = u128::from(part) * 1_000 / u128::from(whole);
    Some(match tenths {
        0 if part > 0 => "under 0.1 %".to_owned(),
        0..100 | 990..1_000 => format!("{}.{} %", tenths / 10, tenths % 10),
        _ => format!("{} %", tenths / 10),
    })
}

/// The same with the bound that it is known to: `31 % ±2`; without one below a percent. Empty when there is no whole.
pub(crate) fn percent_within(part: u64, bound: u64, whole: u64) -> String {
    let share = percent(part, whole).unwrap_or_default();
    let bound = u128::from(bound) * 100 / u128::from(whole.max(1));
    if bound == 0 { share } else { format!("{share} ±{bound}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_and_change_unit_without_four_digits() {
        for (bytes, text) in [
            (0, "0"),
            (512, "512 B"),
            (4_096, "4 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_576, "1.0 MiB"),
            (1_048_064, "1.0 MiB"),
            (63_123_456, "60.2 MiB"),
            (1_073_689_394, "1023.9 MiB"),
            (1_073_700_000, "1.00 GiB"),
            (1_299_227_607, "1.21 GiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!([0, 512, 4_096, 63_123_456].map(short), ["0", "512B", "4K", "60.2M"]);
        assert_eq!([0, 4_096, -63_123_456].map(signed_short), ["0", "+4K", "−60.2M"]);
        assert_eq!(or_unknown(None, short), "unknown");
        assert_eq!(signed_size(-4_096), "−4 KiB");
        assert_eq!(signed_size(i64::MIN), "−8388608.00 TiB");
        assert_eq!(signed_size(0), "±0");
    }

    #[test]
    fn counts_have_separators() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(exact(-33_255_424), "−33,255,424");
    }

    #[test]
    fn durations() {
        for (ns, text) in [
            (850, "850 ns"),
            (1_900, "1.9 µs"),
            (31_000_000, "31 ms"),
            (5_000_000_000, "5.0 s"),
            (2_365_300_000, "2.4 s"),
            (9_960_000, "10 ms"),
            (999_499, "999 µs"),
            (999_500, "1.0 ms"),
            (999_999_999, "1.0 s"),
            (59_499_999_999, "59 s"),
            (59_999_999_999, "1 min 00 s"),
            (u64::MAX, "5124095 h 34 min"),
            (312_000_000_000, "5 min 12 s"),
            (10_920_000_000_000, "3 h 02 min"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
    }

    #[test]
    fn percentages() {
        assert_eq!(percent(15, 100).as_deref(), Some("15 %"));
        assert_eq!(percent(1_599, 10_000).as_deref(), Some("15 %"));
        assert_eq!(percent(989, 1_000).as_deref(), Some("98 %"));
        assert_eq!(percent(u64::MAX - 1, u64::MAX).as_deref(), Some("99.9 %"));
        assert_eq!(percent(7, 7).as_deref(), Some("100 %"));
        assert_eq!(percent(4, 1_000).as_deref(), Some("0.4 %"));
        assert_eq!(percent(1, 1_000_000).as_deref(), Some("under 0.1 %"));
        assert_eq!(percent(0, 10).as_deref(), Some("0.0 %"));
        assert_eq!(percent(1, 0), None);
    }
}
