//! The last that was seen of each vCPU, by its descriptor and by what it does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use stealtrace_common::{
    event::{Event, EventKind},
    kvm::KVM_RUN,
    ring::Sighting,
    source::{Area, Source},
};

use super::proc::{self, Memory};
use crate::{live::Sink, pipeline::Flow};

/// The last that was seen of each vCPU, by address.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) vcpus: BTreeMap<u64, Last>,
    /// Processes that have a descriptor of a vCPU, and its id: its VM may be another's.
    pub(super) holders: BTreeSet<(u32, String)>,
}

pub(super) struct Last {
    /// All that is known of it by now.
    pub(super) now: Sighting,
    pub(super) area: Option<Area>,
    /// Why it may not be read, if so.
    pub(super) unread: Option<String>,
    /// `last_steal` before the area was read.
    pub(super) charged_before_ns: u64,
}

impl Sink for Seen {
    fn event(&mut self, event: &Event) -> Result<Flow> {
        match event.kind {
            EventKind::Created => drop(self.vcpus.insert(event.vcpu, Last::new(&seen(event)))),
            EventKind::Destroyed => drop(self.vcpus.remove(&event.vcpu)),
            EventKind::Ioctl | EventKind::Load | EventKind::Update | EventKind::EnablingWrite => {
                let last = self.vcpus.entry(event.vcpu).or_insert_with(|| Last::new(&seen(event)));
                last.learn_event(event);
            }
            EventKind::Call | EventKind::Return | EventKind::ThreadEnded => {}
        }
        Ok(Flow::Continue)
    }

    fn sighting(&mut self, sighting: &Sighting) -> Result<Flow> {
        self.holders.insert((sighting.holder_tgid, sighting.vcpu_id.to_string()));
        self.vcpus.entry(sighting.vcpu).or_insert_with(|| Last::new(sighting)).learn(sighting);
        Ok(Flow::Continue)
    }
}

/// The same, as far as an event tells it.
fn seen(event: &Event) -> Sighting {
    Sighting {
        time_ns: event.time_ns,
        vcpu: event.vcpu,
        vm: event.vm,
        enabling: event.enabling_after,
        last_steal_ns: event.last_steal_after_ns,
        area: event.area,
        vcpu_id: event.vcpu_id,
        holder_tgid: event.vm_tgid,
        runner_tid: if event.ioctl == KVM_RUN { event.caller_tid } else { 0 },
        owned: 0,
        run_delay_ns: 0,
        fd: 0,
        reserved: 0,
    }
}

impl Seen {
    pub(super) fn read_areas(&mut self) {
        let mut vcpus: Vec<_> = self.vcpus.values_mut().collect();
        vcpus.sort_unstable_by_key(|last| last.now.holder_tgid);
        let mut memory = Memory::default();
        for last in vcpus {
            last.charged_before_ns = last.now.last_steal_ns;
            let (address, pid) = (Some(last.now.area).filter(|at| *at != 0), last.now.holder_tgid);
            let read =
                address.map(|at| memory.read_area(pid, last.runner_tid(), at, Source::of(last.now.enabling)));
            last.unread = read.as_ref().and_then(|read| proc::refusal(pid, read.as_ref().err()?));
            last.area = read.and_then(Result::ok);
        }
    }
}

impl Last {
    const fn new(now: &Sighting) -> Self {
        Self { now: *now, area: None, unread: None, charged_before_ns: 0 }
    }

    fn learn(&mut self, now: &Sighting) {
        let inherited = now.owned == 0 && (self.now.owned != 0 || now.holder_tgid > self.now.holder_tgid);
        if !inherited {
            self.now = *now; // else a process that inherited the descriptor, or was sent it
        }
    }

    /// An event tells who runs it, and where the area lies, only now and then.
    fn learn_event(&mut self, event: &Event) {
        let (before, now) = (self.now, seen(event));
        let known_area = if before.enabling == now.enabling { before.area } else { 0 };
        self.now = Sighting {
            area: if now.area == 0 { known_area } else { now.area },
            runner_tid: if now.runner_tid == 0 { before.runner_tid } else { now.runner_tid },
            fd: before.fd,
            owned: before.owned,
            ..now
        };
    }

    pub(super) fn runner_tid(&self) -> Option<u32> {
        Some(self.now.runner_tid).filter(|tid| *tid != 0)
    }
}
