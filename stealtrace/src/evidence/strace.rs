//! strace of a VMM: which thread issued which vCPU ioctl. Reads `-f` with `[pid N]` or leading pids, `-t`, `-tt`,
//! `-ttt`, `-y`, and calls that strace tells in two halves. strace does not show MSR indices, so a restore is only possible.

use std::io;

use memchr::{memchr, memrchr};
use rustc_hash::FxHashMap;
use stealtrace_common::{
    event::{Event, EventKind, NUMBERS_UNKNOWN},
    kvm::{KVM_CREATE_VCPU, KVM_RUN, KVM_SET_MSRS},
};

use super::{Line, Reader, Sink};
use crate::{
    ioctl,
    model::{Finding, Severity, Thread, Value, Vcpu, VcpuKey, VcpuName},
};

/// Descriptors and unfinished calls remembered at most; a log of more is not one VMM's.
const MOST: usize = 65_536;

/// What descriptors are, and which calls are half told.
#[derive(Default)]
pub(super) struct Strace {
    vcpus: FxHashMap<u32, Descriptor>,
    unfinished: FxHashMap<u32, String>,
    created: u64,
}

/// A descriptor of a vCPU.
#[derive(Clone, Copy)]
struct Descriptor {
    /// Tells vCPUs with the same descriptor apart.
    generation: u64,
    vcpu_id: u32,
    creator: u32,
    runner: u32,
}

/// A line apart: who, when, what.
#[derive(Clone, Copy)]
struct Parts<'a> {
    tid: u32,
    time_ns: u64,
    call: &'a str,
}

/// `ioctl(20<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0`
struct Ioctl<'a> {
    fd: u32,
    shown: Option<&'a str>,
    names: &'a str,
    argument: &'a str,
    result: i64,
}

pub(super) fn is_one(line: &str) -> bool {
    let call = split(line).call;
    call.starts_with("ioctl(") || call.starts_with("<... ioctl resumed>")
}

impl Reader for Strace {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let parts = split(line);
        if parts.call.is_empty() {
            return Ok(Line::Understood);
        }
        if let Some(half) = parts.call.strip_suffix("<unfinished ...>") {
            if self.unfinished.len() < MOST {
                self.unfinished.insert(parts.tid, half.trim_end().to_owned());
            }
            return Ok(Line::Understood);
        }
        match self.whole(parts) {
            Some(call) => self.call(Parts { call: &call, ..parts }, sink),
            None => self.call(parts, sink),
        }
    }
}

impl Strace {
    /// Both halves of a call that strace told in two.
    fn whole(&mut self, parts: Parts<'_>) -> Option<String> {
        let rest = parts.call.strip_prefix("<... ")?;
        let (_, rest) = rest.split_once("resumed>")?;
        let mut call = self.unfinished.remove(&parts.tid)?;
        call.push_str(rest);
        Some(call)
    }

    fn call(&mut self, parts: Parts<'_>, sink: &mut dyn Sink) -> io::Result<Line> {
        if let Some(ioctl) = Ioctl::parse(parts.call) {
            self.ioctl(parts, &ioctl, sink)?;
        } else if let Some(fd) = parts.call.strip_prefix("close(").and_then(number) {
            self.vcpus.remove(&fd);
        } else if !is_call(parts.call) {
            return Ok(Line::NotUnderstood);
        }
        Ok(Line::Understood)
    }

    fn ioctl(&mut self, parts: Parts<'_>, ioctl: &Ioctl<'_>, sink: &mut dyn Sink) -> io::Result<()> {
        let Some(number) = number_of(ioctl.names) else {
            return Ok(()); // not KVM's, or not a vCPU's
        };
        if number == KVM_CREATE_VCPU {
            return self.create(parts, ioctl, sink);
        }
        let Some(vcpu) = self.descriptor(ioctl) else {
            return Ok(());
        };
        let event = event(EventKind::Ioctl, parts, ioctl.fd, *vcpu, number);
        let restored = (number == KVM_SET_MSRS).then(|| possible_restore(vcpu, parts.tid, &event)).flatten();
        if number == KVM_RUN {
            vcpu.runner = parts.tid;
        }
        sink.event(&event)?;
        match restored {
            Some(finding) => sink.finding(VcpuKey::of(&event), finding),
            None => Ok(()),
        }
    }

    fn create(&mut self, parts: Parts<'_>, ioctl: &Ioctl<'_>, sink: &mut dyn Sink) -> io::Result<()> {
        let Ok(fd) = u32::try_from(ioctl.result) else {
            return Ok(()); // it failed
        };
        let vcpu_id = number(ioctl.argument).unwrap_or(0);
        if let Some(vcpu) = self.begin(fd, vcpu_id, parts.tid) {
            sink.event(&event(EventKind::Created, parts, fd, vcpu, 0))?;
        }
        Ok(())
    }

    fn begin(&mut self, fd: u32, vcpu_id: u32, creator: u32) -> Option<Descriptor> {
        if self.vcpus.len() >= MOST {
            return None;
        }
        self.created += 1;
        let vcpu = Descriptor { generation: self.created, vcpu_id, creator, runner: 0 };
        self.vcpus.insert(fd, vcpu);
        Some(vcpu)
    }

    /// The vCPU behind a descriptor: seen being created, shown by `-y`, or taken for one by its first vCPU ioctl.
    fn descriptor(&mut self, ioctl: &Ioctl<'_>) -> Option<&mut Descriptor> {
        if !self.vcpus.contains_key(&ioctl.fd) {
            let vcpu_id = match ioctl.shown {
                Some(shown) => number(shown.rsplit_once("kvm-vcpu:")?.1)?,
                None => ioctl.fd,
            };
            self.begin(ioctl.fd, vcpu_id, 0)?;
        }
        self.vcpus.get_mut(&ioctl.fd)
    }
}

/// strace names every ioctl that has a number: `KVM_SET_XSAVE or KVM_SIGNAL_MSI`.
fn number_of(names: &str) -> Option<u32> {
    ioctl::number(names).or_else(|| names.split(" or ").find_map(ioctl::number))
}

/// KVM_SET_MSRS by a thread that neither created nor runs the vCPU.
fn possible_restore(vcpu: &Descriptor, tid: u32, event: &Event) -> Option<Finding> {
    if tid == vcpu.creator || tid == vcpu.runner || (vcpu.creator == 0 && vcpu.runner == 0) {
        return None;
    }
    let shown = Vcpu::first_seen(VcpuName { pid: 0, vm: 1, id: event.vcpu_id });
    let what = format!(
        "possible restore of the steal MSR by {}; strace does not show which MSRs",
        Thread::caller(event)
    );
    let finding = Finding::new("foreign-steal-restore", Severity::Notice, &shown, event, what);
    Some(finding.with("fd", Value::Number(event.vcpu)))
}

fn event(kind: EventKind, parts: Parts<'_>, fd: u32, vcpu: Descriptor, ioctl: u32) -> Event {
    Event {
        kind: kind as u32,
        time_ns: parts.time_ns,
        vcpu: fd.into(),
        generation: vcpu.generation,
        vcpu_id: vcpu.vcpu_id,
        caller_tid: parts.tid,
        ioctl,
        flags: NUMBERS_UNKNOWN,
        comm: *b"thread\0\0\0\0\0\0\0\0\0\0",
        ..Event::default()
    }
}

impl<'a> Ioctl<'a> {
    fn parse(call: &'a str) -> Option<Self> {
        let inside = call.strip_prefix("ioctl(")?;
        let (inside, result) = parted(inside, memrchr(b'=', inside.as_bytes()))?;
        let inside = inside.trim_ascii_end().strip_suffix(')')?;
        let (fd, rest) = at_first(inside, b',')?;
        let (names, argument) = at_first(rest, b',').unwrap_or((rest, ""));
        let (names, argument) = (names.trim_ascii(), argument.trim_ascii_start());
        let (fd, shown) = match at_first(fd, b'<') {
            Some((fd, shown)) => (fd, Some(shown.strip_suffix('>')?)),
            None => (fd, None),
        };
        Some(Self {
            fd: fd.parse().ok()?,
            shown,
            names,
            argument,
            result: signed(result.trim_ascii_start())?,
        })
    }
}

/// Any system call, signal or end that strace tells: nothing we need, but nothing strange.
fn is_call(call: &str) -> bool {
    let word = call.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(call.len());
    (word > 0 && call[word..].starts_with('('))
        || call.starts_with("+++ ")
        || call.starts_with("--- ")
        || call.starts_with("<... ")
}

/// What stands before and behind the first of an ASCII character; `str::split_once` takes twice as long for that.
fn at_first(text: &str, ascii: u8) -> Option<(&str, &str)> {
    parted(text, memchr(ascii, text.as_bytes()))
}

/// What stands before and behind an ASCII character.
fn parted(text: &str, at: Option<usize>) -> Option<(&str, &str)> {
    let at = at?;
    Some((&text[..at], &text[at + 1..]))
}

/// `[pid 1859] `, `1859 `, and a time stand before the call, each or none.
fn split(line: &str) -> Parts<'_> {
    let mut rest = line.trim(); // logs pasted into a web page begin with other spaces
    let mut tid = 0;
    if let Some((pid, after)) = rest.strip_prefix("[pid").and_then(|rest| at_first(rest, b']')) {
        if let Ok(pid) = pid.trim_ascii().parse() {
            (tid, rest) = (pid, after.trim_ascii_start());
        }
    } else if let Some((pid, after)) = at_first(rest, b' ')
        && let Ok(pid) = pid.parse()
    {
        (tid, rest) = (pid, after.trim_ascii_start());
    }
    let time_ns = match at_first(rest, b' ') {
        Some((word, after)) => match time(word) {
            Some(time_ns) => {
                rest = after.trim_ascii_start();
                time_ns
            }
            None => 0,
        },
        None => 0,
    };
    Parts { tid, time_ns, call: rest }
}

/// `12:34:56`, `12:34:56.789012` or `1431642967.123456`, in ns.
fn time(word: &str) -> Option<u64> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (whole, fraction) = at_first(word, b'.').unwrap_or((word, ""));
    let seconds = match at_first(whole, b':') {
        None if fraction.is_empty() => return None, // a bare number is no time
        None => whole.parse::<u64>().ok()?,
        Some((hours, rest)) => {
            let (minutes, seconds) = at_first(rest, b':')?;
            let minutes = hours.parse::<u64>().ok()?.checked_mul(60)?.checked_add(minutes.parse().ok()?)?;
            minutes.checked_mul(60)?.checked_add(seconds.parse().ok()?)?
        }
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns(fraction)?)
}

fn fraction_ns(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    let power = 9_u32.checked_sub(u32::try_from(digits.len()).ok()?)?;
    digits.parse::<u64>().ok()?.checked_mul(10_u64.pow(power))
}

/// The decimal or 0x number that a text begins with.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    u32::from_str_radix(&digits[..end], radix).ok()
}

/// The number a result begins with: `0`, `-1 EINTR (Interrupted system call)`, `?`.
fn signed(result: &str) -> Option<i64> {
    match result.split([' ', '<']).next()? {
        "?" => Some(-1),
        digits => match digits.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_SET_MSRS;

    use super::{split, time};
    use crate::{
        evidence::{Kind, detect, testing::read},
        model::Severity,
    };

    const LOG: &str = include_str!("../../../tests/evidence/strace.txt");

    #[test]
    fn the_bug_report_is_ten_cross_thread_ioctls_on_each_vcpu() {
        let kept = read(Kind::Strace, LOG);
        let summary = kept.engine.summary();
        assert_eq!(summary.vcpus.len(), 2);
        for (vcpu, creator) in summary.vcpus.iter().zip([1861, 1862]) {
            assert_eq!(vcpu.creator.as_ref().map(|thread| thread.tid), Some(creator));
            let by_main: u64 =
                vcpu.ioctls.iter().filter(|(thread, _)| thread.tid == 1859).map(|(_, count)| count).sum();
            assert_eq!(by_main, 10);
        }
        assert_eq!(summary.findings[&("cross-thread-ioctl", Severity::Notice)], 20);
        assert_eq!(summary.findings[&("foreign-steal-restore", Severity::Notice)], 4);
        let possible: Vec<_> = kept.findings.iter().filter(|f| f.rule == "foreign-steal-restore").collect();
        assert!(
            possible.iter().all(|f| f.ioctl == KVM_SET_MSRS && f.what.contains("does not show which MSRs"))
        );
        assert_eq!(kept.not_understood, 4, "the reporter's remarks");
    }

    #[test]
    fn pids_times_paths_and_halves_are_read() {
        let log = "\
10    12:00:00.000001 ioctl(9<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0) = 11<anon_inode:kvm-vcpu:0>
10    12:00:00.000002 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_RUN, 0 <unfinished ...>
12    12:00:00.000003 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_GET_REGS, {rax=0, rbx=1}) = 0
10    12:00:00.000004 <... ioctl resumed>) = -1 EINTR (Interrupted system call)
";
        let kept = read(Kind::Strace, log);
        assert_eq!(kept.not_understood, 0);
        assert_eq!(kept.findings.len(), 1);
        assert_eq!((kept.findings[0].rule, kept.findings[0].caller.tid), ("cross-thread-ioctl", 12));
        assert_eq!(kept.engine.summary().vcpus[0].runner.as_ref().map(|thread| thread.tid), Some(10));
    }

    #[test]
    fn a_descriptor_of_something_else_is_no_vcpu() {
        let kept = read(Kind::Strace, "[pid 5] ioctl(3</dev/kvm>, KVM_GET_MSRS, 0x7f) = 1\n");
        assert_eq!(kept.engine.summary().vcpus.len(), 0);
    }

    #[test]
    fn a_closed_descriptor_is_another_vcpu_when_it_comes_again() {
        let log = "\
[pid 1] ioctl(9, KVM_CREATE_VCPU, 0) = 11
[pid 1] close(11) = 0
[pid 2] ioctl(9, KVM_CREATE_VCPU, 0) = 11
[pid 2] ioctl(11, KVM_SET_REGS, 0x1) = 0
";
        let kept = read(Kind::Strace, log);
        assert!(kept.findings.is_empty());
        assert_eq!(kept.engine.summary().vcpus.len(), 2);
    }

    #[test]
    fn every_kind_of_time_is_read() {
        assert_eq!(time("12:34:56"), Some(45_296_000_000_000));
        assert_eq!(time("00:00:01.5"), Some(1_500_000_000));
        assert_eq!(time("1431642967.123456"), Some(1_431_642_967_123_456_000));
        assert_eq!(time("42"), None);
        assert_eq!(time("ioctl(3,"), None);
        assert_eq!(split("1431642967.123456 ioctl(3, KVM_RUN, 0) = 0").call, "ioctl(3, KVM_RUN, 0) = 0");
    }

    #[test]
    fn it_is_recognised() {
        assert_eq!(detect(LOG), Some(Kind::Strace));
    }
}
