//! The tax on a VMM and on everybody else: the same load watched and unwatched, in turn.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result};

use super::{
    Goal, Row,
    watcher::{Watcher, Way, watchers},
};
use crate::process::{output, say};

/// System calls that have nothing to do with KVM: as many reads and writes of a byte.
const OTHER_CALLS: &str = "1000000";

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let (watchers, absent) = watchers(stealtrace);
    let [floor, edges, ..] = &watchers[..] else { return Ok(Vec::new()) };
    watchers.iter().try_for_each(Watcher::warm_up)?;
    let mut rows = Vec::new();
    for work in ["get-regs", "run"] {
        for vcpus in ["1", "2"] {
            let what = format!("{work}, {vcpus} vCPU");
            say(&format!("bench: {what}"));
            let load = |around: &[String]| ns_per_call(stealtrace, around, work, vcpus);
            let taxes =
                watchers.iter().map(|watcher| tax(&what, watcher, load)).collect::<Result<Vec<_>>>()?;
            rows.extend(share_of_bpftrace(&what, &taxes));
            rows.extend(taxes);
            rows.extend(absent.iter().map(|(name, why)| Row::absent(format!("{what}, {name}"), why)));
            let ratios = interleaved(7, || Ok(watched(edges, load)? / watched(floor, load)?))?;
            rows.push(Row::of(format!("{what}, edges over empty programs"), ratios, "x", Goal::AtMost(1.05)));
        }
    }
    say("bench: system calls that have nothing to do with KVM");
    for (watcher, goal) in [(floor, Goal::None), (edges, Goal::AtMost(1.03))] {
        let ratios = interleaved(7, || {
            let unwatched = others()?;
            let _watching = watcher.start()?;
            Ok(others()? / unwatched)
        })?;
        rows.push(Row::of(format!("other system calls, {}", watcher.name), ratios, "x", goal));
    }
    Ok(rows)
}

/// Watched over unwatched.
fn tax(what: &str, watcher: &Watcher, load: impl Fn(&[String]) -> Result<f64> + Copy) -> Result<Row> {
    let (rounds, goal) = match watcher.name {
        "edges" => (7, Goal::AtMost(1.10)),
        "all" => (7, Goal::AtMost(1.35)),
        "empty programs" => (7, Goal::None),
        _ => (3, Goal::None), // far off, and slow to attach
    };
    let ratios = interleaved(rounds, || {
        let unwatched = load(&[])?;
        Ok(watched(watcher, load)? / unwatched)
    })?;
    Ok(Row::of(format!("{what}, {}", watcher.name), ratios, "x", goal))
}

fn watched(watcher: &Watcher, load: impl Fn(&[String]) -> Result<f64>) -> Result<f64> {
    if watcher.way == Way::Around {
        return load(&watcher.command);
    }
    let _watching = watcher.start()?;
    load(&[])
}

/// The tax of all events over that of bpftrace printing a line for each.
fn share_of_bpftrace(what: &str, taxes: &[Row]) -> Option<Row> {
    let tax = |name: &str| Some(taxes.iter().find(|row| row.what.ends_with(name))?.measured - 1.0);
    let share = tax(", all")? / tax(", bpftrace print")?;
    Some(Row::of(format!("{what}, tax of all over bpftrace print's"), vec![share], "x", Goal::AtMost(0.5)))
}

fn interleaved(rounds: usize, one: impl Fn() -> Result<f64>) -> Result<Vec<f64>> {
    (0..rounds).map(|_| one()).collect()
}

fn ns_per_call(stealtrace: &Path, around: &[String], work: &str, vcpus: &str) -> Result<f64> {
    let words: Vec<_> = around
        .iter()
        .map(String::as_str)
        .chain([&*stealtrace.to_string_lossy()])
        .map(str::to_owned)
        .collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["load", work, "--vcpus", vcpus, "--duration", "400ms"]);
    first_number(&output(&mut command)?)
}

/// `stealtrace load` prints nanoseconds per call, then calls.
pub(super) fn first_number(text: &str) -> Result<f64> {
    number(text.split_whitespace().next(), text)
}

/// How many calls.
pub(super) fn last_number(text: &str) -> Result<f64> {
    number(text.split_whitespace().next_back(), text)
}

fn number(word: Option<&str>, text: &str) -> Result<f64> {
    let printed = || format!("load printed {text:?}");
    word.with_context(printed)?.parse().with_context(printed)
}

fn others() -> Result<f64> {
    let start = Instant::now();
    output(Command::new("dd").args([
        "if=/dev/zero",
        "of=/dev/null",
        "bs=1",
        &format!("count={OTHER_CALLS}"),
    ]))?;
    Ok(start.elapsed().as_secs_f64())
}
