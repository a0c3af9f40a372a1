//! QEMU's monitor command `xp` on a guest's steal area: bytes, words or giants, in hexadecimal or decimal, once or often.

use std::io;

use rustc_hash::FxHashMap;
use stealtrace_common::{event::Event, steal::is_impossible};

use super::{Line, Reader, Sink};
use crate::{
    detect::{steal_backwards, steal_poisoned},
    model::{Finding, RuleId, Severity, Value, Vcpu, VcpuKey, VcpuName},
};

/// Addresses remembered at most.
const MOST_AREAS: usize = 65_536;
const BYTES_PER_COUNTER: usize = 8;

/// The last command, the value being put together, and the counters seen.
#[derive(Default)]
pub(super) struct Xp {
    size: Option<usize>,
    partial: Option<Partial>,
    counters: FxHashMap<u64, u64>,
}

/// The first bytes of a counter.
struct Partial {
    address: u64,
    bytes: Vec<u8>,
}

/// What it is evidence by.
pub(super) const WANTS: &str = "counter";

pub(super) fn is_one(line: &str) -> bool {
    command(line).is_some() || data(line).is_some()
}

impl Reader for Xp {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        if let Some(size) = command(line) {
            self.size = Some(size);
            self.leave(sink);
            return Ok(Line::Known);
        }
        let Some((address, values)) = data(line) else {
            return Ok(match line.trim() {
                "" => Line::Blank,
                "(qemu)" => Line::Known,
                _ => Line::NotUnderstood,
            });
        };
        match self.bytes(&values) {
            Some(bytes) => self.area(address, &bytes, sink),
            None => Ok(Line::Damaged),
        }
    }

    fn end(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        self.leave(sink);
        Ok(())
    }
}

impl Xp {
    /// Nothing follows of the counter that was being put together.
    fn leave(&mut self, sink: &mut dyn Sink) {
        if self.partial.take().is_some_and(|partial| partial.bytes.len() < BYTES_PER_COUNTER) {
            sink.missed("counters have fewer bytes than 8; print all of one with `xp /8xb ADDRESS`");
        }
    }

    /// The bytes behind the values of a line, in memory order.
    fn bytes(&self, values: &[&str]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for value in values {
            let size = self.size.or_else(|| size_of_digits(value))?;
            bytes.extend_from_slice(parse(value)?.to_le_bytes().get(..size)?);
        }
        Some(bytes)
    }

    /// A counter is eight bytes; bytes and words may come over several lines.
    fn area(&mut self, address: u64, bytes: &[u8], sink: &mut dyn Sink) -> io::Result<Line> {
        let follows = |partial: &Partial| partial.address.wrapping_add(partial.bytes.len() as u64) == address;
        if !self.partial.as_ref().is_some_and(follows) {
            self.leave(sink);
        }
        let partial = self.partial.get_or_insert_with(|| Partial { address, bytes: Vec::new() });
        let complete = partial.bytes.len() >= BYTES_PER_COUNTER;
        partial.bytes.extend_from_slice(bytes);
        let start = partial.address;
        match partial.bytes.first_chunk::<BYTES_PER_COUNTER>() {
            // The rest of the area: version, flags.
            _ if complete => {
                partial.bytes.truncate(BYTES_PER_COUNTER);
                partial.address =
                    address.wrapping_add(bytes.len() as u64).wrapping_sub(BYTES_PER_COUNTER as u64);
                Ok(Line::Known)
            }
            None => Ok(Line::Known),
            Some(counter) => {
                let steal_ns = u64::from_le_bytes(*counter);
                self.counter(start, steal_ns, sink).map(|()| Line::Evidence)
            }
        }
    }

    fn counter(&mut self, address: u64, steal_ns: u64, sink: &mut dyn Sink) -> io::Result<()> {
        let before = self.counters.get(&address).copied();
        if before.is_some() || self.counters.len() < MOST_AREAS {
            self.counters.insert(address, steal_ns);
        } else {
            sink.missed("counters are more than are remembered (65536)");
            return Ok(());
        }
        let key = VcpuKey { address, generation: 0 };
        match before {
            Some(before) if is_impossible(before) && is_impossible(steal_ns) => {
                sink.note(&format!("{address:#x}: {before:#x} -> {steal_ns:#x}, still below zero"))
            }
            _ if is_impossible(steal_ns) => sink.finding(key, poisoned(address, steal_ns)),
            None => sink.note(&format!("{address:#x}: {steal_ns} ns, possible")),
            Some(before) if steal_ns < before => sink.finding(key, decreased(address, before, steal_ns)),
            Some(before) => {
                let growth = steal_ns - before;
                let word = if growth > 0 { "advancing" } else { "at rest" };
                sink.note(&format!("{address:#x}: {before} -> {steal_ns} ns (+{growth} ns), {word}, healthy"))
            }
        }
    }
}

fn poisoned(address: u64, steal_ns: u64) -> Finding {
    let signed = steal_ns.cast_signed();
    let what = format!("the counter at {address:#x} is {steal_ns:#x} = {signed} ns: it went below zero");
    finding(steal_poisoned::RULE.id, what).with("steal_found", Value::Ns(steal_ns))
}

fn decreased(address: u64, before: u64, after: u64) -> Finding {
    let what = format!("the counter at {address:#x} decreased between two samples");
    finding(steal_backwards::RULE.id, what)
        .with("steal_before", Value::Ns(before))
        .with("steal_after", Value::Ns(after))
}

fn finding(rule: RuleId, what: String) -> Finding {
    let vcpu = Vcpu::first_seen(VcpuName::default());
    let event = Event { comm: *b"guest\0\0\0\0\0\0\0\0\0\0\0", ..Event::default() };
    Finding::new(rule, Severity::Error, &vcpu, &event, what)
}

/// Bytes per value of `(qemu) xp /8xb 0x1fc0cfc0`.
fn command(line: &str) -> Option<usize> {
    let line = line.trim();
    let line = line.strip_prefix("(qemu)").unwrap_or(line).trim_start();
    let arguments = line.strip_prefix("xp")?.trim_start();
    let format = match arguments.strip_prefix('/') {
        Some(format) => format.split(' ').next()?,
        None => "",
    };
    let known = |c: char| c.is_ascii_digit() || "xduocisbhwg".contains(c);
    if !format.chars().all(known) {
        return None;
    }
    // Without a size letter QEMU prints words, or what the last command printed.
    Some(format.chars().rev().find_map(size_of_letter).unwrap_or(4))
}

const fn size_of_letter(letter: char) -> Option<usize> {
    match letter {
        'b' => Some(1),
        'h' => Some(2),
        'w' => Some(4),
        'g' => Some(8),
        _ => None,
    }
}

/// Without the command: as wide as the hexadecimal digits, else a counter.
fn size_of_digits(value: &str) -> Option<usize> {
    match value.strip_prefix("0x").map(str::len) {
        None => Some(8),
        Some(digits @ (2 | 4 | 8 | 16)) => Some(digits / 2),
        Some(_) => None,
    }
}

/// `000000001fc0cfc0: 0x94 0x57`
fn data(line: &str) -> Option<(u64, Vec<&str>)> {
    let (address, values) = line.trim().split_once(':')?;
    if address.len() < 8 {
        return None;
    }
    let address = u64::from_str_radix(address, 16).ok()?;
    let values: Vec<_> = values.split_ascii_whitespace().collect();
    (!values.is_empty() && values.iter().all(|value| parse(value).is_some())).then_some((address, values))
}

fn parse(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok().or_else(|| value.parse().ok().map(i64::cast_unsigned)),
    }
}

#[cfg(test)]
mod tests;
