//! Logs of old bug reports, read as what they are evidence of. One kind a file; every line counts:
//! what is not understood is counted and reported, and nothing of a readable file is refused.

mod lines;
mod proc_stat;
mod strace;
mod systemtap;
mod tally;
#[cfg(test)]
mod testing;
mod xp;

pub use self::{
    lines::{Lines, Text},
    proc_stat::ProcStat,
    tally::{Missed, Tally},
};

use std::io;

use clap::ValueEnum;
use stealtrace_common::event::Event;

use crate::model::{Finding, VcpuKey};

/// A kind of log is its reader, by what its lines are known, and what it is evidence by.
macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $Kind:ident = $word:literal, $file:ident::$Reader:ident;)+) => {
        /// What a file is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub enum Kind {
            /// `stealtrace trace --record`
            Recording,
            $($(#[doc = $about])+ $Kind,)+
        }

        impl Kind {
            /// Its name on the command line.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    Self::Recording => "recording",
                    $(Self::$Kind => $word,)+
                }
            }

            /// What it is evidence by: without that it proves nothing.
            const fn wants(self) -> &'static str {
                match self {
                    Self::Recording => "event",
                    $(Self::$Kind => $file::WANTS,)+
                }
            }
        }

        /// The reader for a kind; None for recordings, which are not text.
        #[must_use]
        pub fn reader(kind: Kind) -> Option<Box<dyn Reader>> {
            match kind {
                Kind::Recording => None,
                $(Kind::$Kind => Some(Box::<$file::$Reader>::default()),)+
            }
        }

        fn kind_of(line: &str) -> Option<Kind> {
            $(if $file::is_one(line) {
                return Some(Kind::$Kind);
            })+
            None
        }
    };
}

// Every kind, in the order in which a line is tried. To add one: write its file, add its line.
kinds! {
    /// The systemtap script of Launchpad 1494350
    Systemtap = "systemtap", systemtap::Systemtap;
    /// strace, with ioctls of KVM
    Strace = "strace", strace::Strace;
    /// One or more copies of a guest's /proc/stat
    ProcStat = "proc-stat", proc_stat::ProcStat;
    /// QEMU's monitor command xp, on a guest's steal area
    Xp = "xp", xp::Xp;
}

/// What a reader of evidence hands over.
pub trait Sink {
    /// Something that happened, to be judged by the rules.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn event(&mut self, event: &Event) -> io::Result<()>;

    /// Something the log shows by itself.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn finding(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<()>;

    /// Something worth saying that is no finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn note(&mut self, note: &str) -> io::Result<()>;

    /// A piece of evidence was not judged; "12 " and these words are said at the end.
    fn missed(&mut self, why: &'static str);
}

/// Was a line understood?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// There is nothing on it.
    Blank,
    /// Yes, but it is evidence of nothing.
    Known,
    /// Yes, and it was judged.
    Evidence,
    /// No; it is counted.
    NotUnderstood,
    /// No, but it holds evidence, which is now missing.
    Damaged,
}

/// Reads one kind of evidence, line by line.
pub trait Reader {
    /// The next line, without its end and trailing blanks.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line>;

    /// Nothing follows.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn end(&mut self, _sink: &mut dyn Sink) -> io::Result<()> {
        Ok(())
    }
}

/// What a log is, judged by its first lines.
#[must_use]
pub fn detect(head: impl AsRef<[u8]>) -> Option<Kind> {
    let mut lines = Lines::new(head.as_ref());
    while let Ok(Some(line)) = lines.next_line() {
        if let Some(kind) = kind_of(&line.text) {
            return Some(kind);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, detect, testing::read};

    const KINDS: [Kind; 4] = [Kind::Systemtap, Kind::Strace, Kind::ProcStat, Kind::Xp];
    const LOGS: [&str; 5] = [
        include_str!("../../../tests/evidence/systemtap.txt"),
        include_str!("../../../tests/evidence/strace.txt"),
        include_str!("../../../tests/evidence/proc-stat.txt"),
        include_str!("../../../tests/evidence/xp-bytes.txt"),
        include_str!("../../../tests/evidence/xp-decimal.txt"),
    ];

    /// Words that parsers look for, and numbers at their limits.
    fn fragment() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "ioctl(",
            "<... ioctl resumed>",
            "<unfinished ...>",
            "[pid ",
            "] ",
            "KVM_CREATE_VCPU",
            "KVM_RUN",
            ", ",
            ") = ",
            "close(",
            "**",
            "-> ",
            "<- ",
            "): ",
            "(",
            "delta: ",
            " ns, steal=",
            " ns, run_delay=",
            ": run_delay=",
            " ns steal=",
            " ns",
            "cpu",
            "cpu0 ",
            "xp /",
            "8xb",
            "gx",
            "(qemu) ",
            ": ",
            "0x",
            "\n",
            " ",
            "<anon_inode:kvm-vcpu:",
            ">",
            "12:00:00.5 ",
            "18446744073709551615",
            "18446744073709551616",
            "-1",
            "0",
            "\u{a0}",
            "é",
        ]);
        prop_oneof![
            words.prop_map(str::to_owned),
            any::<u64>().prop_map(|number| number.to_string()),
            ".{0,8}"
        ]
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(fragments in prop::collection::vec(fragment(), 0..60)) {
            let text = fragments.concat();
            let _any = detect(&text);
            for kind in KINDS {
                let kept = read(kind, &text);
                prop_assert!(kept.not_understood <= text.lines().count() as u64);
            }
        }

        #[test]
        fn no_damage_to_a_real_log_makes_a_reader_panic(
            log in 0..LOGS.len(), at in any::<prop::sample::Index>(), cut in 0..40_usize, fragment in fragment(),
        ) {
            let mut text: Vec<char> = LOGS[log].chars().collect();
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, fragment.chars());
            let text: String = text.into_iter().collect();
            for kind in KINDS {
                read(kind, &text);
            }
        }
    }
}
