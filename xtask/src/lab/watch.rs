//! A lab guest's life as its control port tells it: booting, steps, the end; or a hang, or a death.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::{
    progress::{Counts, Look, Progress},
    serial::Written,
};
use crate::ledger;

/// How often to look where nothing is said.
const LOOK: Duration = Duration::from_secs(1);

/// After so many such looks at a lab guest that beats it is nudged, for so many looks: what nobody reads any more fills the
/// port, and would hold us up. It beats every three seconds.
const NUDGED: Range<u32> = 5..65;

/// How a boot ended.
pub(crate) enum Outcome {
    /// The command's exit code.
    Exited(u8),
    /// It booted, but a module does not load.
    Refused(String),
    /// Nothing happened any more.
    Hung(String),
    /// The lab guest ended before the command did.
    Died(String),
}

/// What to watch.
pub(super) struct Watch<'a> {
    /// Of the kernel, for the record of what took how long.
    pub(super) name: &'a str,
    pub(super) counts: Counts,
    /// From the boot to the command's end; what the emulator waits for a CPU does not count.
    pub(super) timeout: Duration,
    pub(super) control: &'a Receiver<String>,
    /// The control port itself.
    pub(super) port: &'a UnixStream,
    pub(super) written: Written,
    pub(super) console: &'a Path,
    /// QEMU's process.
    pub(super) emulator: u32,
}

/// Watch it to its end.
pub(super) fn watch(watched: &Watch<'_>) -> Outcome {
    let mut life = Life::begin(watched);
    loop {
        match watched.control.recv_timeout(LOOK) {
            Ok(line) => {
                if let Some(outcome) = life.hear(line) {
                    return outcome;
                }
            }
            Err(RecvTimeoutError::Timeout) => life.wait(),
            Err(RecvTimeoutError::Disconnected) => return Outcome::Died(life.death()),
        }
        if let Some(how) = life.hangs() {
            return Outcome::Hung(how);
        }
    }
}

/// What is known of it so far.
struct Life<'a> {
    watched: &'a Watch<'a>,
    began: Instant,
    booted: Option<Look>,
    step: Option<(String, Look)>,
    last: String,
    /// Lines that count as progress.
    words: u64,
    /// Looks since it said something.
    silent: u32,
    progress: Progress,
}

impl<'a> Life<'a> {
    fn begin(watched: &'a Watch<'a>) -> Self {
        Self {
            watched,
            began: Instant::now(),
            booted: None,
            step: None,
            last: String::new(),
            words: 0,
            silent: 0,
            progress: Progress::new(),
        }
    }

    /// It says nothing. QEMU up to 10.1 now and then forgets an interrupt of the timer that expires just when a guest of
    /// the lab guest exits: `do_vmexit` clears a bit of `interrupt_request` while another thread sets one. The interrupt
    /// stays pending in the local APIC, which looks again when the next one comes: that of a byte on this port. The lab
    /// guest passes empty lines over.
    fn wait(&mut self) {
        self.silent += 1;
        if NUDGED.contains(&self.silent) && self.booted.is_some() && self.watched.counts != Counts::Nothing {
            let mut port = self.watched.port;
            let _ended = port.write_all(b"\n");
        }
    }

    /// Its end, if that is what it said.
    fn hear(&mut self, line: String) -> Option<Outcome> {
        self.silent = 0;
        if line == "booted" {
            let look = self.look();
            self.booted = Some(look);
            self.progress.booted(look);
        } else if let Some(step) = line.strip_prefix("step ") {
            self.next_step(Some(step));
        } else if let Some(why) = line.strip_prefix("refused ") {
            return Some(Outcome::Refused(why.to_owned()));
        } else if let Some(code) = line.strip_prefix("exit ") {
            self.next_step(None);
            let died = || Outcome::Died(format!("said exit {code:?}"));
            return Some(code.trim().parse().map_or_else(|_| died(), Outcome::Exited));
        }
        self.words += u64::from(self.watched.counts == Counts::Life || line != self.last);
        self.last = line;
        None
    }

    fn next_step(&mut self, name: Option<&str>) {
        let now = self.look();
        let next = name.map(|name| (name.to_owned(), now));
        if let Some((ended, before)) = std::mem::replace(&mut self.step, next) {
            ledger::took(&format!("{}: {ended}", self.watched.name), now.since(&before));
        }
    }

    fn look(&self) -> Look {
        let console = fs::metadata(self.watched.console).map_or(0, |metadata| metadata.len());
        Look {
            at: self.began.elapsed(),
            waited: waited(self.watched.emulator),
            written: self.words + console + self.watched.written.bytes(),
        }
    }

    /// How, if it does.
    fn hangs(&mut self) -> Option<String> {
        let (timeout, look) = (self.watched.timeout, self.look());
        if self.booted.is_some_and(|booted| look.since(&booted) > timeout) {
            return Some(format!("did not finish within {timeout:?}{}", self.place()));
        }
        if self.booted.is_some() && self.watched.counts == Counts::Nothing {
            return None;
        }
        let silent = self.progress.hangs(look)?.as_secs();
        let since = if self.booted.is_some() { "" } else { " while booting" };
        Some(format!("made no progress for {silent} s{since}{}", self.place()))
    }

    fn death(&self) -> String {
        match self.booted {
            None => "died while booting".to_owned(),
            Some(_) => format!("died (panic?) before the command ended{}", self.place()),
        }
    }

    fn place(&self) -> String {
        self.step.as_ref().map_or_else(String::new, |(step, _)| format!(", in {step:?}"))
    }
}

/// How long the emulator's busiest thread, the one that emulates, has waited for a CPU.
fn waited(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waits = tasks.filter_map(|task| run_delay(&task.path().join("schedstat")));
    Duration::from_nanos(waits.max().unwrap_or(0))
}

fn run_delay(schedstat: &PathBuf) -> Option<u64> {
    fs::read_to_string(schedstat).ok()?.split(' ').nth(1)?.parse().ok()
}

/// The control port, line by line.
pub(super) fn lines(control: UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What follows this word on the first line that begins with it.
pub(super) fn wait_for(
    control: &Receiver<String>,
    word: &str,
    patience: Duration,
) -> Result<String, RecvTimeoutError> {
    let end = Instant::now() + patience;
    loop {
        let line = control.recv_timeout(end.saturating_duration_since(Instant::now()))?;
        if let Some(rest) = line.strip_prefix(word) {
            return Ok(rest.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, path::Path, sync::mpsc, time::Duration};

    use super::{Counts, Life, Outcome, Watch, Written};

    fn heard(counts: Counts, lines: &[&str]) -> (u64, Option<String>, Option<u8>) {
        let (_sender, control) = mpsc::channel();
        let (port, _other) = UnixStream::pair().unwrap();
        let console = Path::new("/nonexistent");
        let timeout = Duration::from_secs(9);
        let watched = Watch {
            name: "test",
            counts,
            timeout,
            control: &control,
            port: &port,
            written: Written::default(),
            console,
            emulator: 0,
        };
        let mut life = Life::begin(&watched);
        let mut code = None;
        for line in lines {
            if let Some(Outcome::Exited(exit)) = life.hear((*line).to_owned()) {
                code = Some(exit);
            }
        }
        (life.words, life.step.map(|(step, _)| step), code)
    }

    #[test]
    fn a_beat_that_repeats_itself_is_life_but_no_work() {
        let beats = ["booted", "alive 7", "alive 7", "alive 7", "alive 8"];
        assert_eq!(heard(Counts::Life, &beats).0, 5);
        assert_eq!(heard(Counts::Work, &beats).0, 3);
    }

    #[test]
    fn the_step_is_known_and_the_end_is_a_code() {
        assert_eq!(heard(Counts::Work, &["booted", "step a", "step b"]).1.as_deref(), Some("b"));
        assert_eq!(heard(Counts::Work, &["booted", "step a", "exit 7"]).2, Some(7));
    }
}
