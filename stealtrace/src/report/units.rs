//! Numbers with units.

/// `1371057534 ns`; a number past 2^63 also in hexadecimal, as it stands in the guest's memory.
pub(crate) fn ns(ns: u64) -> String {
    if ns > i64::MAX.cast_unsigned() { format!("{ns} ns ({ns:#x})") } else { format!("{ns} ns") }
}

/// `0.183422 s`
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

#[cfg(test)]
mod tests {
    use super::{ns, seconds};

    #[test]
    fn a_wrapped_number_shows_its_bits() {
        assert_eq!(ns(40_304), "40304 ns");
        assert_eq!(ns(0xffff_ffff_a9c1_85a5), "18446744072262616485 ns (0xffffffffa9c185a5)");
    }

    #[test]
    fn seconds_have_microseconds() {
        assert_eq!(seconds(1_000_183_422), "1.000183 s");
    }
}
