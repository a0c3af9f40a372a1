//! What the parts of a long run took, and what had to be tried again: kept in one file, told at its end.
//! Parts are other processes, whose own output is not always shown.

use std::{
    cell::Cell,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{cache, process::say};

/// Tells the parts where the file is.
const VARIABLE: &str = "STEALTRACE_LEDGER";

/// How many of the slowest are named.
const SLOWEST: usize = 10;

/// Something did not work at first: say it now, and once more at the end.
pub(crate) fn retry(what: &str) {
    say(&format!("RETRY: {what}"));
    note(&format!("retry {}", what.replace('\n', " ")));
}

/// This took so long.
pub(crate) fn took(what: &str, time: Duration) {
    note(&format!("took {} {what}", time.as_millis()));
}

/// A lab guest lived so long.
pub(crate) fn lived(what: &str, time: Duration) {
    note(&format!("lived {} {what}", time.as_millis()));
}

/// Lines of several processes do not mix: each is one write to the file's end.
fn note(line: &str) {
    let Some(file) = env::var_os(VARIABLE) else { return };
    if let Ok(mut file) = fs::OpenOptions::new().append(true).create(true).open(file) {
        let _untold = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// The ledger of one run.
pub(crate) struct Ledger {
    file: PathBuf,
    /// Bytes of it that were told.
    told: Cell<usize>,
}

impl Ledger {
    /// An empty one.
    pub(crate) fn begin() -> Result<Self> {
        let file = cache::target()?.join("ledger");
        fs::write(&file, "").with_context(|| format!("write {}", file.display()))?;
        Ok(Self { file, told: Cell::new(0) })
    }

    /// For a part: its name for the file's place, and the place.
    pub(crate) fn variable(&self) -> (&'static str, &Path) {
        (VARIABLE, &self.file)
    }

    /// Say what was noted since.
    pub(crate) fn tell_news(&self) {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let news = text.get(self.told.replace(whole)..whole).unwrap_or_default();
        news.lines().filter_map(news_of).for_each(|line| say(&line));
    }

    /// The last lines of a run: what was slow, what was tried again.
    pub(crate) fn told(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        Ok(last_lines(&text))
    }
}

fn last_lines(text: &str) -> Vec<String> {
    let mut times: Vec<(u64, &str)> = text.lines().filter_map(|line| time("took ", line)).collect();
    times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let slow = times.iter().take(SLOWEST).map(|(time, what)| format!("{}  {what}", seconds(*time)));
    let mut lines = vec![format!("the slowest {} steps:", SLOWEST.min(times.len()))];
    lines.extend(slow);
    let retries: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("retry ")).collect();
    lines.push(match retries.len() {
        0 => "nothing had to be tried again".to_owned(),
        number => format!("tried again: {number}"),
    });
    lines.extend(retries.iter().map(|retry| format!("RETRY: {retry}")));
    lines
}

/// Worth a line while it goes on: lab guests that have ended, and retries.
fn news_of(line: &str) -> Option<String> {
    match time("lived ", line) {
        Some((time, what)) => Some(format!("{}  {what}", seconds(time))),
        None => line.strip_prefix("retry ").map(|retry| format!("RETRY: {retry}")),
    }
}

fn time<'a>(kind: &str, line: &'a str) -> Option<(u64, &'a str)> {
    let (time, what) = line.strip_prefix(kind)?.split_once(' ')?;
    Some((time.parse().ok()?, what))
}

fn seconds(ms: u64) -> String {
    format!("{:>5}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::{last_lines, news_of};

    #[test]
    fn a_green_run_ends_with_its_slowest_parts_and_every_retry() {
        let mut text: String = (1..=12).map(|number| format!("took {number}250 step {number}\n")).collect();
        text += "retry stock-6.1 made no progress for 61 s\n";
        let lines = last_lines(&text);
        assert_eq!(lines[1], "   12.2 s  step 12");
        assert_eq!(lines.len(), 1 + 10 + 2);
        assert_eq!(lines[12], "RETRY: stock-6.1 made no progress for 61 s");
    }

    #[test]
    fn lab_guests_and_retries_are_news_and_steps_are_not() {
        assert_eq!(news_of("lived 61500 stock-6.1").as_deref(), Some("   61.5 s  stock-6.1"));
        assert_eq!(news_of("retry stock-6.1 hangs").as_deref(), Some("RETRY: stock-6.1 hangs"));
        assert_eq!(news_of("took 61500 stock-6.1: a step"), None);
    }

    #[test]
    fn a_run_without_retries_says_so() {
        assert_eq!(last_lines("").last().map(String::as_str), Some("nothing had to be tried again"));
    }
}
