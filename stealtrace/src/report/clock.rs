//! Times as people read them.

use std::time::{Duration, UNIX_EPOCH};

use super::units;
use crate::os::clock::clock_ns;

/// Turns the kernel's time into time since the start, and UTC where wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// CLOCK_MONOTONIC at the start.
    pub(crate) start_ns: u64,
    /// What to add to it for UTC; None if UTC is not wanted.
    pub(crate) utc_offset_ns: Option<u64>,
}

impl Clock {
    /// ns since the start.
    pub(crate) const fn since_start(self, time_ns: u64) -> u64 {
        time_ns.saturating_sub(self.start_ns)
    }

    /// For text: `0.183422 s`, with UTC `2015-09-10T12:00:00.183422Z 0.183422 s`.
    pub(crate) fn show(self, time_ns: u64) -> String {
        let relative = units::seconds(self.since_start(time_ns));
        match self.utc_offset_ns {
            None => relative,
            Some(offset_ns) => format!("{} {relative}", utc(time_ns, offset_ns)),
        }
    }

    /// UTC, where wanted.
    pub(crate) fn utc(self, time_ns: u64) -> Option<String> {
        self.utc_offset_ns.map(|offset_ns| utc(time_ns, offset_ns))
    }
}

/// `2015-09-10T12:00:00.183422Z`
pub(crate) fn utc(time_ns: u64, offset_ns: u64) -> String {
    let utc = UNIX_EPOCH + Duration::from_nanos(time_ns.saturating_add(offset_ns));
    humantime::format_rfc3339_micros(utc).to_string()
}

/// UTC now, for whatever has no other clock; None if there is none.
pub(crate) fn utc_now() -> Option<String> {
    clock_ns(libc::CLOCK_REALTIME).ok().map(|now_ns| utc(now_ns, 0))
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn utc_stands_beside_the_time_since_the_start() {
        let clock = Clock { start_ns: 1_000_000_000, utc_offset_ns: Some(1_431_642_967_000_000_000) };
        assert_eq!(clock.show(2_500_000_000), "2015-05-14T22:36:09.500000Z 1.500000 s");
        assert_eq!(Clock { utc_offset_ns: None, ..clock }.show(2_500_000_000), "1.500000 s");
    }
}
