//! Points in time as arguments, and as text.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Reads `2026-01-31T12:00:00Z`, or how long ago: `90s`, `1h 30m`.
pub(super) fn parse(text: &str) -> Result<SystemTime, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return SystemTime::try_from(timestamp).map_err(|error| error.to_string());
    }
    let ago = humantime::parse_duration(text).map_err(|_| "neither an RFC 3339 time nor a duration like `1h`")?;
    SystemTime::now().checked_sub(ago).ok_or_else(|| "longer ago than time goes back".to_owned())
}

/// RFC 3339, in UTC.
pub(super) fn from_micros(unix_us: i64) -> String {
    Timestamp::from_microsecond(unix_us).map_or_else(|_| format!("{unix_us} µs"), |time| format!("{time:.6}"))
}

/// RFC 3339, in UTC.
pub(super) fn from_seconds(unix_s: i64) -> String {
    Timestamp::from_second(unix_s).map_or_else(|_| format!("{unix_s} s"), |time| time.to_string())
}

/// `in 1h 5m` or `1h 5m ago`.
pub(super) fn relative(unix_s: i64, now_unix_s: i64) -> String {
    let distance = humantime::format_duration(Duration::from_secs(unix_s.abs_diff(now_unix_s)));
    if unix_s > now_unix_s { format!("in {distance}") } else { format!("{distance} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_a_while_ago() {
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        assert_eq!(parse("2026-09-21T14:13:20Z"), Ok(second));
        assert_eq!(parse("2026-09-21T16:13:20+02:00"), Ok(second));
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let parsed = parse("1h").expect("a duration");
        assert!(parsed >= hour_ago && parsed < hour_ago + Duration::from_secs(60));
        assert!(parse("yesterday-ish").is_err());
        assert!(parse("1h ago").is_err());
    }

    #[test]
    fn times_are_written_in_utc_with_all_their_digits() {
        assert_eq!(from_micros(1_790_000_000_000_001), "2026-09-21T14:13:20.000001Z");
        assert_eq!(from_micros(1_790_000_000_000_000), "2026-09-21T14:13:20.000000Z");
        assert_eq!(from_seconds(1_790_000_000), "2026-09-21T14:13:20Z");
    }

    #[test]
    fn a_time_that_no_calendar_holds_is_still_text() {
        assert_eq!(from_micros(i64::MAX), format!("{} µs", i64::MAX));
    }

    #[test]
    fn the_distance_to_a_time_says_in_which_direction() {
        assert_eq!(relative(100, 40), "in 1m");
        assert_eq!(relative(40, 100), "1m ago");
    }
}
