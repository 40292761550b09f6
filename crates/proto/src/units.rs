//! Quantities with their units.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number of bytes; text form is binary units (`"64MiB"`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, 1)) => write!(f, "{} {unit}", self.0),
            Some((unit, size)) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
            None => write!(f, "0 B"),
        }
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 64MiB")]
pub struct BadByteSize(pub String);

impl FromStr for ByteSize {
    type Err = BadByteSize;
    fn from_str(s: &str) -> Result<Self, BadByteSize> {
        let bad = || BadByteSize(s.into());
        let text = s.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (text[..split].trim(), text[split..].trim());
        let factor = UNITS
            .iter()
            .find(|(name, _)| {
                name.eq_ignore_ascii_case(unit) || unit.eq_ignore_ascii_case(&name[..1])
            })
            .map(|(_, size)| *size)
            .or(unit.is_empty().then_some(1))
            .ok_or_else(bad)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(bad);
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
        if value.is_finite() && value <= u64::MAX as f64 {
            Ok(ByteSize(value as u64))
        } else {
            Err(bad())
        }
    }
}

/// Wall-clock time of a file: nanoseconds since 1970-01-01 UTC. Only for people; nothing is ordered by it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// The time that the leader stamps into a command before proposing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Log time in milliseconds: advances by elapsed time only, never by the wall clock, and never
    /// goes back. The state machine takes the maximum of it and what it has seen.
    pub log_ms: u64,
    /// The leader's wall clock, for file times.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("1.5 GiB".parse(), Ok(ByteSize(3 << 29)));
        assert_eq!("10g".parse(), Ok(ByteSize(10 << 30)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        assert!("".parse::<ByteSize>().is_err());
        assert!("5 apples".parse::<ByteSize>().is_err());
        assert!("99999999999 TiB".parse::<ByteSize>().is_err());
        assert_eq!(ByteSize(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(0).to_string(), "0 B");
    }
}
