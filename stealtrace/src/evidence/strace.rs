//! strace of a VMM: which thread issued which vCPU ioctl. Reads `-f` with `[pid N]` or leading pids, `-t`, `-tt`,
//! `-ttt`, `-y`, `-X`, and calls that strace tells in two halves. strace does not show MSR indices, so a restore is only
//! possible.

mod families;
mod request;

use std::io;

use memchr::{memchr, memrchr};
use rustc_hash::FxHashMap;
use stealtrace_common::{
    event::{Event, EventKind, NUMBERS_UNKNOWN},
    kvm::{KVM_CREATE_VCPU, KVM_RUN, KVM_SET_MSRS, KVMIO, ioctl_type},
};

use self::{families::Families, request::Request};
use super::{Line, Reader, Sink};
use crate::{
    detect::foreign_steal_restore,
    model::{Finding, Severity, Thread, Value, Vcpu, VcpuKey, VcpuName},
};

/// Descriptors and unfinished calls remembered at most; a log of more is not one VMM's.
const MOST: usize = 65_536;

/// What descriptors are, and which vCPUs are about to be.
#[derive(Default)]
pub(super) struct Strace {
    vcpus: FxHashMap<Key, Descriptor>,
    families: Families,
    /// KVM_CREATE_VCPU that strace has told half of, by thread: the id.
    creating: FxHashMap<u32, u32>,
    created: u64,
}

/// A process, as [`Families`] tell it, and one of its descriptors.
type Key = (u32, u32);

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
    request: Request,
    argument: &'a str,
    /// None as long as it is not known.
    result: Option<&'a str>,
}

/// What a descriptor of which an ioctl is told can be.
enum Whose<'a> {
    Vcpu(&'a mut Descriptor),
    /// Nothing that matters.
    Other,
    /// A vCPU, but there are too many.
    TooMany,
}

pub(super) fn is_one(line: &str) -> bool {
    let call = split(line).call;
    call.starts_with(IOCTL) || call.starts_with("<... ioctl resumed>")
}

const IOCTL: &str = "ioctl(";

impl Reader for Strace {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let parts = split(line);
        if parts.call.starts_with(IOCTL) {
            return match Ioctl::parse(parts.call) {
                Some(ioctl) => self.ioctl(parts, &ioctl, sink),
                None => Ok(Line::Damaged),
            };
        }
        if let Some(fd) = parts.call.strip_prefix("close(").and_then(number) {
            return self.close(parts, fd, sink);
        }
        self.families.learn(parts.tid, parts.call);
        match parts.call.strip_prefix("<... ioctl resumed>") {
            Some(rest) => self.resumed(parts, rest, sink),
            None if parts.call.is_empty() => Ok(Line::Blank),
            None if is_known(parts.call) => Ok(Line::Known),
            None => Ok(Line::NotUnderstood),
        }
    }

    fn end(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        self.creating
            .drain()
            .for_each(|_| sink.missed("KVM_CREATE_VCPU have no end, so that their vCPU is not known"));
        Ok(())
    }
}

impl Strace {
    fn process(&self, tid: u32) -> u32 {
        self.families.process(tid)
    }

    /// As it is entered, which is what an event tells; only a creation waits for its result.
    fn ioctl(&mut self, parts: Parts<'_>, ioctl: &Ioctl<'_>, sink: &mut dyn Sink) -> io::Result<Line> {
        if ioctl.request.number() == Some(KVM_CREATE_VCPU) {
            return self.create(parts, ioctl, sink);
        }
        if ioctl.result.is_some_and(|result| result.starts_with("-1 EIO")) {
            return Ok(Line::Known); // KVM obeys nobody but the VM's own process
        }
        let process = self.process(parts.tid);
        let vcpu = match self.descriptor(process, ioctl) {
            Whose::Vcpu(vcpu) => vcpu,
            Whose::Other => return Ok(Line::Known),
            Whose::TooMany => return Ok(too_many(sink)),
        };
        let number = match ioctl.request {
            Request::Exactly(number) | Request::OneOf(number) if ioctl_type(number) == KVMIO => number,
            Request::NotKnown => return Ok(Line::Damaged),
            Request::Exactly(_) | Request::OneOf(_) | Request::OfOthers => return Ok(Line::Known),
        };
        let event = event(EventKind::Ioctl, parts, (process, ioctl.fd), *vcpu, number);
        let restored =
            (number == KVM_SET_MSRS).then(|| possible_restore(vcpu, parts.tid, ioctl.fd, &event)).flatten();
        if number == KVM_RUN {
            vcpu.runner = parts.tid;
        }
        sink.event(&event)?;
        if let Some(finding) = restored {
            sink.finding(VcpuKey::of(&event), finding)?;
        }
        Ok(Line::Evidence)
    }

    fn create(&mut self, parts: Parts<'_>, ioctl: &Ioctl<'_>, sink: &mut dyn Sink) -> io::Result<Line> {
        let vcpu_id = number(ioctl.argument).unwrap_or(0);
        match ioctl.result {
            Some(result) => self.created(parts, vcpu_id, result, sink),
            None if self.creating.len() >= MOST => Ok(too_many(sink)),
            None => {
                self.creating.insert(parts.tid, vcpu_id);
                Ok(Line::Known)
            }
        }
    }

    /// The second half of a call; the first was judged already, but for a creation's.
    fn resumed(&mut self, parts: Parts<'_>, rest: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let Some(vcpu_id) = self.creating.remove(&parts.tid) else {
            return Ok(Line::Known);
        };
        match parted(rest, memrchr(b'=', rest.as_bytes())) {
            Some((_, result)) => self.created(parts, vcpu_id, result.trim_ascii_start(), sink),
            None => Ok(Line::Damaged),
        }
    }

    fn created(
        &mut self,
        parts: Parts<'_>,
        vcpu_id: u32,
        result: &str,
        sink: &mut dyn Sink,
    ) -> io::Result<Line> {
        let Some(fd) = number(result) else {
            return Ok(Line::Known); // it failed
        };
        let key = (self.process(parts.tid), fd);
        let Some(vcpu) = self.begin(key, vcpu_id, parts.tid) else {
            return Ok(too_many(sink));
        };
        sink.event(&event(EventKind::Created, parts, key, *vcpu, 0))?;
        Ok(Line::Evidence)
    }

    fn close(&mut self, parts: Parts<'_>, fd: u32, sink: &mut dyn Sink) -> io::Result<Line> {
        let key = (self.process(parts.tid), fd);
        if let Some(vcpu) = self.vcpus.remove(&key) {
            sink.event(&event(EventKind::Destroyed, parts, key, vcpu, 0))?;
        }
        Ok(Line::Known)
    }

    /// None if there are too many.
    fn begin(&mut self, key: Key, vcpu_id: u32, creator: u32) -> Option<&mut Descriptor> {
        if self.vcpus.len() >= MOST && !self.vcpus.contains_key(&key) {
            return None;
        }
        self.created += 1;
        let vcpu = Descriptor { generation: self.created, vcpu_id, creator, runner: 0 };
        Some(self.vcpus.entry(key).insert_entry(vcpu).into_mut())
    }

    /// Whose descriptor: a vCPU's if strace shows so, or else if it was created here, or takes what only vCPUs take.
    fn descriptor(&mut self, process: u32, ioctl: &Ioctl<'_>) -> Whose<'_> {
        let key = (process, ioctl.fd);
        let known = self.vcpus.get(&key).map(|vcpu| vcpu.vcpu_id);
        let vcpu_id = match ioctl.shown {
            Some(shown) => match shown_id(shown) {
                Some(shown) => shown.or(known).unwrap_or(ioctl.fd),
                None => return Whose::Other,
            },
            None if known.is_some() || ioctl.is_only_a_vcpus() => known.unwrap_or(ioctl.fd),
            None => return Whose::Other,
        };
        let vcpu =
            if known == Some(vcpu_id) { self.vcpus.get_mut(&key) } else { self.begin(key, vcpu_id, 0) };
        vcpu.map_or(Whose::TooMany, Whose::Vcpu)
    }
}

fn too_many(sink: &mut dyn Sink) -> Line {
    sink.missed("lines are of more vCPUs at once than are remembered (65536)");
    Line::Evidence
}

/// Is what `-y` shows a vCPU, and with which id? Before Linux 4.16 it had none.
fn shown_id(shown: &str) -> Option<Option<u32>> {
    let (_, after) = shown.rsplit_once("kvm-vcpu")?;
    Some(after.strip_prefix(':').and_then(number))
}

/// KVM_SET_MSRS by a thread that neither created nor runs the vCPU.
fn possible_restore(vcpu: &Descriptor, tid: u32, fd: u32, event: &Event) -> Option<Finding> {
    if tid == vcpu.creator || tid == vcpu.runner || (vcpu.creator == 0 && vcpu.runner == 0) {
        return None;
    }
    let shown = Vcpu::first_seen(VcpuName { pid: 0, vm: 1, id: event.vcpu_id });
    let what = format!(
        "possible restore of the steal MSR by {}; strace does not show which MSRs",
        Thread::caller(event)
    );
    let finding = Finding::new(foreign_steal_restore::RULE.id, Severity::Notice, &shown, event, what);
    Some(finding.with("fd", Value::Number(fd.into())))
}

fn event(kind: EventKind, parts: Parts<'_>, (process, fd): Key, vcpu: Descriptor, ioctl: u32) -> Event {
    Event {
        kind,
        time_ns: parts.time_ns,
        vcpu: u64::from(process) << 32 | u64::from(fd),
        vm_tgid: process,
        caller_tgid: process,
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
        let inside = call.strip_prefix(IOCTL)?;
        let (inside, result) = match unfinished(inside) {
            Some(inside) => (inside, None),
            None => {
                let (inside, result) = parted(inside, memrchr(b'=', inside.as_bytes()))?;
                (inside.trim_ascii_end().strip_suffix(')')?, Some(result.trim_ascii_start()))
            }
        };
        let (fd, rest) = at_first(inside, b',')?;
        let (fd, shown) = match at_first(fd, b'<') {
            Some((fd, shown)) => (fd, Some(shown.strip_suffix('>')?)),
            None => (fd, None),
        };
        let (request, argument) = Request::parse(rest.trim_ascii_start())?;
        let fd = fd.strip_prefix("0x").map_or_else(|| fd.parse(), |hex| u32::from_str_radix(hex, 16)).ok()?;
        Some(Self { fd, shown, request, argument, result })
    }

    /// Would no other descriptor take it? A refusal shows that this is another.
    fn is_only_a_vcpus(&self) -> bool {
        self.request.is_only_a_vcpus()
            && !self.result.is_some_and(|result| REFUSALS.iter().any(|refusal| result.starts_with(refusal)))
    }
}

/// By what is no vCPU's descriptor.
const REFUSALS: [&str; 2] = ["-1 ENOTTY", "-1 EBADF"];

/// The first half of a call that was not over yet when the next line was written, or when strace let go.
fn unfinished(call: &str) -> Option<&str> {
    let call = call.strip_suffix('>')?;
    let half = call.strip_suffix("<unfinished ...").or_else(|| call.strip_suffix("<detached ..."))?;
    Some(half.trim_ascii_end())
}

/// Any system call, signal or end that strace tells, and what it says between: nothing we need, but nothing strange.
fn is_known(call: &str) -> bool {
    const OTHERS: [&str; 7] = ["+++ ", "--- ", "<... ", "strace: ", "Process ", "[ Process ", "> "];
    let word = call.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(call.len());
    (word > 0 && call[word..].starts_with('('))
        || OTHERS.iter().any(|other| call.starts_with(other))
        || is_vcpu_dump(call)
}

/// `VCPU:0> {request_interrupt_window=0, ...}`, from `-e kvm=vcpu+`.
fn is_vcpu_dump(call: &str) -> bool {
    call.strip_prefix("VCPU").is_some_and(|rest| {
        rest.trim_start_matches(|c: char| c == ':' || c.is_ascii_digit()).starts_with(['<', '>', '+'])
    })
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

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_SET_MSRS;

    use super::{split, time};
    use crate::{
        detect::{cross_thread_ioctl, foreign_steal_restore, runner_hand_off},
        evidence::{Kind, detect, testing::read},
        model::{Severity, VcpuSummary},
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
        assert_eq!(summary.findings[&(cross_thread_ioctl::RULE.id, Severity::Notice)], 20);
        assert_eq!(summary.findings[&(foreign_steal_restore::RULE.id, Severity::Notice)], 4);
        let possible: Vec<_> =
            kept.findings.iter().filter(|f| f.rule == foreign_steal_restore::RULE.id).collect();
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
        assert_eq!((kept.findings[0].rule, kept.findings[0].caller.tid), (cross_thread_ioctl::RULE.id, 12));
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

    fn seen(log: &str) -> Vec<(u32, Option<u32>, u64)> {
        let vcpus = read(Kind::Strace, log).engine.summary().vcpus;
        let runner = |vcpu: &VcpuSummary| vcpu.runner.as_ref().map(|thread| thread.tid);
        vcpus.iter().map(|vcpu| (vcpu.name.id, runner(vcpu), vcpu.ioctls.values().sum())).collect()
    }

    #[test]
    fn requests_by_number_are_the_same_as_by_name() {
        let named = "\
10 ioctl(9, KVM_CREATE_VCPU, 0) = 11
10 ioctl(11, KVM_RUN, 0) = 0
12 ioctl(11, KVM_GET_REGS, {rax=0, rbx=1}) = 0
";
        let raw = named
            .replace("KVM_CREATE_VCPU", "0xae41")
            .replace("KVM_RUN", "0xae80")
            .replace("KVM_GET_REGS", "0x8090ae81");
        let verbose = named.replace("KVM_RUN", "0xae80 /* KVM_RUN */");
        let encoded = named.replace("KVM_RUN", "_IOC(_IOC_NONE, 0xae, 0x80, 0)");
        for log in [named, &raw, &verbose, &encoded] {
            assert_eq!(seen(log), [(0, Some(10), 2)], "{log}");
            let found = read(Kind::Strace, log).findings;
            assert_eq!(found.iter().map(|f| f.caller.tid).collect::<Vec<_>>(), [12], "{log}");
        }
    }

    #[test]
    fn a_call_that_does_not_end_was_entered() {
        for end in ["<unfinished ...>", "<detached ...>", "<unfinished ...>) = ?"] {
            let log = format!(
                "\
10 ioctl(9, KVM_CREATE_VCPU, 0) = 11
10 ioctl(11, KVM_RUN, 0) = 0
12 ioctl(11, KVM_RUN, 0 {end}
"
            );
            assert_eq!(seen(&log), [(0, Some(12), 2)], "{log}");
            assert_eq!(read(Kind::Strace, &log).findings[0].rule, runner_hand_off::RULE.id, "{log}");
        }
    }

    #[test]
    fn a_creation_waits_for_its_result() {
        let log = "10 ioctl(9, KVM_CREATE_VCPU, 3 <unfinished ...>\n11 getpid() = 1\n";
        assert_eq!(
            seen(&format!("{log}10 <... ioctl resumed>) = 11<anon_inode:kvm-vcpu:3>\n")),
            [(3, None, 0)]
        );
        assert_eq!(seen(&format!("{log}10 <... ioctl resumed>) = -1 EEXIST (File exists)\n")), []);
        assert_eq!(read(Kind::Strace, log).missed.len(), 1);
    }

    #[test]
    fn only_what_vcpus_alone_take_tells_an_unnamed_descriptor_is_one() {
        let log = "\
openat(AT_FDCWD, \"/dev/kvm\", O_RDWR|O_CLOEXEC) = 3
ioctl(3, KVM_GET_MSRS, 0x7f) = 1
ioctl(3, KVM_GET_SUPPORTED_HV_CPUID, 0x7f) = 0
ioctl(3, KVM_CREATE_VM, 0) = 4
ioctl(4, KVM_SET_TSC_KHZ, 0x7f) = 0
ioctl(4, KVM_ENABLE_CAP, 0x7f) = 0
ioctl(4, KVM_SET_XSAVE or KVM_SIGNAL_MSI, 0x7f) = 0
ioctl(5, KVM_SET_DEVICE_ATTR, 0x7f) = 0
ioctl(6, KVM_GET_REGS, 0x7f) = -1 ENOTTY (Inappropriate ioctl for device)
ioctl(7, KVM_RUN, 0) = 0
ioctl(7, KVM_GET_MSRS, 0x7f) = 1
";
        assert_eq!(seen(log), [(7, Some(0), 2)]);
    }

    #[test]
    fn names_of_descriptors_say_more_than_what_was_seen_of_them() {
        let log = "\
10 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0
10 ioctl(11<anon_inode:kvm-vcpu:1>, KVM_RUN, 0) = 0
10 ioctl(11<anon_inode:kvm-vm>, KVM_GET_MSRS, 0) = 0
10 ioctl(12<anon_inode:kvm-vcpu>, KVM_GET_MSRS, 0) = 0
";
        assert_eq!(seen(log), [(0, Some(10), 1), (1, Some(10), 1), (12, None, 1)]);
    }

    #[test]
    fn what_strace_says_besides_is_known_and_what_is_cut_is_missed() {
        let known = "\
12 VCPU:0> {request_interrupt_window=0, exit_reason=2 /* KVM_EXIT_IO */, if_flag=0}
 VCPU< {request_interrupt_window=0}
 VCPU+ {exit_reason=2}
strace: Process 12 attached
12 +++ exited with 0 +++
 > /lib/libc.so.6(ioctl+0x3b) [0x1]
";
        let kept = read(Kind::Strace, known);
        assert_eq!((kept.not_understood, kept.missed.len()), (0, 0));
        for cut in ["12 ioctl(11, KVM_R", "12 ioctl(11, 0xae80, 0)", "ioctl(x, KVM_RUN, 0) = 0", "ioctl("] {
            assert_eq!(read(Kind::Strace, cut).missed.len(), 1, "{cut}");
        }
        let new = "1 ioctl(3<anon_inode:kvm-vcpu:0>, KVM_OF_TOMORROW, 0) = 0\n";
        assert_eq!(read(Kind::Strace, new).missed.len(), 1);
    }

    #[test]
    fn vcpus_beyond_the_bound_are_missed() {
        let more = super::MOST + 10;
        let log: String = (0..more).map(|fd| format!("1 ioctl({fd}, KVM_RUN, 0) = 0\n")).collect();
        let kept = read(Kind::Strace, &log);
        assert_eq!((kept.engine.summary().events, kept.missed.len()), (super::MOST as u64, 10));
        let closed: String =
            (0..more).map(|fd| format!("1 ioctl({fd}, KVM_RUN, 0) = 0\n1 close({fd}) = 0\n")).collect();
        assert!(read(Kind::Strace, &closed).missed.is_empty());
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
