//! Numbers with units.

/// How times are written for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// In the unit in which they are read most easily.
    Human,
    /// In nanoseconds.
    Plain,
}

impl Units {
    /// A time; one past 2^63 as it stands in the guest's memory, and how far below zero that is.
    pub(crate) fn ns(self, number: u64) -> String {
        match self {
            Self::Plain => ns(number),
            Self::Human if number <= i64::MAX.cast_unsigned() => exact(number),
            Self::Human => format!("{number} ns ({number:#x}, -{})", exact(number.wrapping_neg())),
        }
    }

    /// A time that may be negative.
    pub(crate) fn signed(self, number: i64) -> String {
        match self {
            Self::Plain => format!("{number} ns"),
            Self::Human if number < 0 => format!("-{}", exact(number.unsigned_abs())),
            Self::Human => exact(number.unsigned_abs()),
        }
    }
}

/// `1371057534 ns`; a number past 2^63 also in hexadecimal, as it stands in the guest's memory.
pub(crate) fn ns(ns: u64) -> String {
    if ns > i64::MAX.cast_unsigned() { format!("{ns} ns ({ns:#x})") } else { format!("{ns} ns") }
}

/// To the last nanosecond, in the unit in which it is read most easily: `302.359902 ms`.
pub(crate) fn exact(ns: u64) -> String {
    let (unit, digits, scale) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => ("µs", 3, 1_000),
        1_000_000..1_000_000_000 => ("ms", 6, 1_000_000),
        1_000_000_000.. => ("s", 9, 1_000_000_000),
    };
    let fraction = format!("{:0digits$}", ns % scale);
    match fraction.trim_end_matches('0') {
        "" => format!("{} {unit}", ns / scale),
        fraction => format!("{}.{fraction} {unit}", ns / scale),
    }
}

/// `0.183422 s`
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

#[cfg(test)]
mod tests {
    use super::{Units, exact, ns, seconds};

    #[test]
    fn units_are_for_people_unless_they_want_plain_numbers() {
        assert_eq!(Units::Human.ns(151_126), "151.126 µs");
        assert_eq!(
            Units::Human.ns(0xffff_ffff_a9c1_85a5),
            "18446744072262616485 ns (0xffffffffa9c185a5, -1.446935131 s)"
        );
        assert_eq!(Units::Human.signed(-803_009_583), "-803.009583 ms");
        assert_eq!(Units::Plain.signed(-803_009_583), "-803009583 ns");
        assert_eq!(Units::Plain.ns(40_304), "40304 ns");
    }

    #[test]
    fn nothing_is_rounded_away() {
        for (ns, shown) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (151_126, "151.126 µs"),
            (302_359_902, "302.359902 ms"),
            (27_748_495_200, "27.7484952 s"),
            (1_000_000_001, "1.000000001 s"),
        ] {
            assert_eq!(exact(ns), shown);
        }
    }

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
