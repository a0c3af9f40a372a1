//! What became of a log's lines, and what that is worth: a log of which nothing was understood, or that holds no
//! evidence of its kind, proves nothing.

use std::{
    collections::BTreeMap,
    io::{self, BufRead},
};

use super::{Kind, Line, Lines, Reader, Sink};

/// Pieces of evidence that were not judged, by why.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missed(BTreeMap<&'static str, u64>);

impl Missed {
    /// One more.
    pub fn add(&mut self, why: &'static str) {
        let Self(missed) = self;
        *missed.entry(why).or_default() += 1;
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self(missed) = self;
        missed.values().sum()
    }

    /// In words.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let Self(missed) = self;
        missed.iter().map(|(why, count)| format!("{count} {why}")).collect()
    }
}

/// Lines, by what they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    lines: u64,
    understood: u64,
    not_understood: u64,
    evidence: u64,
    /// Why the rest could not be read, if so.
    cut: Option<String>,
}

impl Tally {
    /// Hand over the next line; false if there is none.
    ///
    /// # Errors
    /// When the output cannot be written. An input that cannot be read ends, and is remembered.
    pub fn next_line(
        &mut self,
        lines: &mut Lines<impl BufRead>,
        reader: &mut dyn Reader,
        sink: &mut dyn Sink,
    ) -> io::Result<bool> {
        match lines.next_line() {
            Ok(Some(line)) => {
                let what = if line.whole { reader.line(&line.text, sink)? } else { Line::NotUnderstood };
                self.count(what);
                if what == Line::Damaged {
                    sink.missed("lines that hold evidence could not be read");
                }
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.cut = Some(error.to_string());
                Ok(false)
            }
        }
    }

    fn count(&mut self, line: Line) {
        self.lines += 1;
        self.understood += u64::from(matches!(line, Line::Known | Line::Evidence));
        self.evidence += u64::from(line == Line::Evidence);
        self.not_understood += u64::from(matches!(line, Line::NotUnderstood | Line::Damaged));
    }

    /// Lines that nothing is known of.
    #[must_use]
    pub const fn not_understood(&self) -> u64 {
        self.not_understood
    }

    /// In words.
    #[must_use]
    pub fn note(&self) -> String {
        format!("{} lines read, {} not understood", self.lines, self.not_understood)
    }

    /// Why no finding in this log proves nothing, if so.
    #[must_use]
    pub fn unproved(&self, kind: Kind) -> Option<String> {
        if let Some(error) = &self.cut {
            return Some(format!("it could not be read to its end: {error}"));
        }
        if self.evidence > 0 {
            return None;
        }
        Some(match (self.lines, self.understood, self.not_understood) {
            (0, _, _) => "it is empty".to_owned(),
            (_, 0, 0) => "all its lines are blank".to_owned(),
            (_, 0, _) => format!("nothing of it was understood as {}", kind.word()),
            _ => format!("it holds no {}", kind.wants()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Missed;
    use crate::evidence::{Kind, testing::read};

    fn unproved(kind: Kind, text: &str) -> String {
        read(kind, text).tally.unproved(kind).unwrap_or_default()
    }

    #[test]
    fn what_was_not_understood_proves_nothing() {
        for kind in [Kind::Systemtap, Kind::Strace, Kind::ProcStat, Kind::Xp] {
            assert_eq!(unproved(kind, ""), "it is empty");
            assert_eq!(unproved(kind, "\n  \n"), "all its lines are blank");
            assert!(unproved(kind, "\u{7f}ELF\n# a remark\n").contains("understood"), "{kind:?}");
        }
    }

    #[test]
    fn what_holds_nothing_of_its_kind_proves_nothing() {
        for (kind, text, wants) in [
            (Kind::Strace, "12 openat(3, \"x\", O_RDONLY) = 4\n", "vCPU ioctl"),
            (Kind::Systemtap, " 0 q(2): -> kvm_arch_vcpu_load\n", "delta"),
            (Kind::ProcStat, "cpu  1 2 3 4 5 6 7 8\nbtime 5\n", "CPU"),
            (Kind::Xp, "(qemu) xp /gx 0x1000\n", "counter"),
        ] {
            let why = unproved(kind, text);
            assert!(why.starts_with("it holds no ") && why.contains(wants), "{why}");
        }
    }

    #[test]
    fn one_piece_of_evidence_is_enough() {
        let evidence = "cpu0 1 2 3 4 5 6 7 8\n";
        assert_eq!(read(Kind::ProcStat, evidence).tally.unproved(Kind::ProcStat), None);
    }

    #[test]
    fn what_was_missed_is_counted_and_said() {
        let mut missed = Missed::default();
        for why in ["b", "a", "a"] {
            missed.add(why);
        }
        assert_eq!(missed.total(), 3);
        assert_eq!(missed.notes(), ["2 a", "1 b"]);
    }
}
