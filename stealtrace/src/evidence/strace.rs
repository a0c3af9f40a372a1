//! strace of a VMM: which thread issued which vCPU ioctl. Reads `-f` with `[pid N]` or leading pids, `-t`, `-tt`,
//! `-ttt`, `-y`, `-X`, and calls that strace tells in two halves. strace does not show MSR indices, so a restore is only
//! possible.

mod families;
mod line;
mod request;

use std::io;

use memchr::memrchr;
use rustc_hash::FxHashMap;
use stealtrace_common::{
    event::{Event, EventKind, NUMBERS_UNKNOWN},
    kvm::{KVM_CREATE_VCPU, KVM_RUN, KVM_SET_MSRS, KVMIO, ioctl_type},
};

use self::{
    families::Families,
    line::{IOCTL, Ioctl, Parts, is_known, number, parted, split},
    request::Request,
};
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

/// What a descriptor of which an ioctl is told can be.
enum Whose<'a> {
    Vcpu(&'a mut Descriptor),
    /// Nothing that matters.
    Other,
    /// A vCPU, but there are too many.
    TooMany,
}

/// What it is evidence by.
pub(super) const WANTS: &str = "vCPU ioctl (was it made with `strace -f` on the VMM?)";

pub(super) fn is_one(line: &str) -> bool {
    let call = split(line).call;
    call.starts_with(IOCTL) || call.starts_with("<... ioctl resumed>")
}

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

#[cfg(test)]
mod tests;
