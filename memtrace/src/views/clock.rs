//! Wall times from monotonic ones. The only clock that a view has is the pair in the session's [`Meta`].

use crate::event::Meta;
use time::{OffsetDateTime, UtcOffset};

/// The session's moment in both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ts_ns: u64,
    wall_ns: i64,
}

impl Clock {
    /// The clock of a session.
    #[must_use]
    pub const fn of(meta: &Meta) -> Self {
        Self { ts_ns: meta.ts_ns, wall_ns: meta.wall_ns }
    }

    /// The clock of one moment of wall time, which is its time 0.
    #[must_use]
    pub const fn at(wall_ns: i64) -> Self {
        Self { ts_ns: 0, wall_ns }
    }

    /// Wall time in UTC of a monotonic time in nanoseconds. Steps of the machine's wall clock after the
    /// session's begin are not followed, so times of one session always have the right distance.
    #[must_use]
    pub fn wall(self, ts_ns: u64) -> OffsetDateTime {
        let since = i128::from(ts_ns) - i128::from(self.ts_ns);
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.wall_ns) + since)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// `2026-01-31T12:00:03.120000000Z`: RFC 3339, UTC, nanoseconds, always as long.
    #[must_use]
    pub fn rfc3339(self, ts_ns: u64) -> String {
        let t = self.wall(ts_ns);
        format!("{}T{:02}:{:02}:{:02}.{:09}Z", date(t), t.hour(), t.minute(), t.second(), t.nanosecond())
    }

    /// `2026-01-31 12:00:00.000 UTC`, in the given zone.
    pub(crate) fn date_time_and_zone(self, ts_ns: u64, offset: UtcOffset) -> String {
        let (date, time) = self.date_and_time(ts_ns, offset);
        format!("{date} {time} {}", zone_name(offset))
    }

    /// Date and `12:00:03.120` in the given zone.
    pub(crate) fn date_and_time(self, ts_ns: u64, offset: UtcOffset) -> (String, String) {
        let t = self.wall(ts_ns).to_offset(offset);
        (date(t), format!("{:02}:{:02}:{:02}.{:03}", t.hour(), t.minute(), t.second(), t.millisecond()))
    }
}

fn date(t: OffsetDateTime) -> String {
    format!("{:04}-{:02}-{:02}", t.year(), u8::from(t.month()), t.day())
}

/// `UTC` or `UTC+02:00`.
pub(crate) fn zone_name(offset: UtcOffset) -> String {
    let (hours, minutes, _) = offset.as_hms();
    if offset.is_utc() {
        "UTC".to_owned()
    } else {
        let sign = if offset.is_negative() { '-' } else { '+' };
        format!("UTC{sign}{:02}:{:02}", hours.abs(), minutes.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { ts_ns: 5_000_000_000, wall_ns: 1_767_225_600_000_000_000 };

    #[test]
    fn wall_time_follows_the_monotonic_one_in_both_directions() {
        assert_eq!(CLOCK.rfc3339(5_000_000_000), "2026-01-01T00:00:00.000000000Z");
        assert_eq!(CLOCK.rfc3339(5_000_000_001), "2026-01-01T00:00:00.000000001Z");
        assert_eq!(CLOCK.rfc3339(4_999_999_999), "2025-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn absurd_times_do_not_panic() {
        let clock = Clock { ts_ns: 0, wall_ns: i64::MAX };
        assert_eq!(clock.rfc3339(u64::MAX).len(), 30);
        let clock = Clock { ts_ns: u64::MAX, wall_ns: i64::MIN };
        assert!(clock.rfc3339(0).ends_with('Z'));
    }

    #[test]
    fn zones_shift_the_text_only() {
        let plus_two = UtcOffset::from_hms(2, 0, 0).expect("a valid offset");
        let (date, time) = CLOCK.date_and_time(4_999_000_000, plus_two);
        assert_eq!((date.as_str(), time.as_str()), ("2026-01-01", "01:59:59.999"));
        assert_eq!(zone_name(plus_two), "UTC+02:00");
        assert_eq!(zone_name(UtcOffset::from_hms(-3, -30, 0).expect("a valid offset")), "UTC-03:30");
        assert_eq!(zone_name(UtcOffset::UTC), "UTC");
    }
}
