//! A vCPU as far as events have shown it, and the threads around it.

use std::fmt;

use rustc_hash::FxHashMap;
use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED},
    kvm::KVM_RUN,
};

use super::{Enabling, HandOff, Pid, Restore, Thread, Unsettled};

/// Tells vCPUs apart: addresses are reused at once, generations never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VcpuKey {
    /// `struct kvm_vcpu *`
    pub address: u64,
    /// When it was created or first seen.
    pub generation: u64,
}

impl VcpuKey {
    /// The vCPU an event is about.
    #[must_use]
    pub const fn of(event: &Event) -> Self {
        Self { address: event.vcpu, generation: event.generation }
    }
}

/// How a vCPU is shown: process, which of its VMs, and vCPU id in that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuName {
    /// Process of the VM.
    pub pid: u32,
    /// Which VM of the process, counted from 1 as they appear.
    pub vm: u32,
    /// `kvm_vcpu.vcpu_id`
    pub id: u32,
}

impl fmt::Display for VcpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "{}/{}", self.vm, self.id), // a log that does not tell the process
            pid => write!(f, "{}/{}/{}", Pid(pid), self.vm, self.id),
        }
    }
}

/// A vCPU as far as events have shown it.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// How it is shown.
    pub name: VcpuName,
    /// Thread that made it; None if it was there before us.
    pub creator: Option<Thread>,
    /// Last thread to issue KVM_RUN.
    pub runner: Option<Thread>,
    /// A hand-off whose steal update has not been seen yet.
    pub hand_off: Option<HandOff>,
    /// A restore that no KVM_RUN has followed yet.
    pub unrun_restore: Option<Restore>,
    /// Has the runner ended?
    pub runner_ended: bool,
    /// Has the creator?
    pub creator_ended: bool,
    /// ioctls by threads that did not create it, while nobody runs it, and how often: whoever runs it next is no
    /// stranger.
    pub strangers: FxHashMap<(u32, u32), (Event, u64)>,
    /// Thread whose run_delay the kernel copied into `last_steal` when it restored steal time.
    pub copied_by: Option<u32>,
    /// The last enabling of steal time.
    pub enabling: Option<Enabling>,
    /// An underflow that the next update settles.
    pub unsettled: Option<Box<Unsettled>>,
    /// ioctls by thread id and number.
    pub ioctls: FxHashMap<(u32, u32), u64>,
    /// Steal updates seen.
    pub updates: u64,
    /// Findings about it.
    pub findings: u64,
}

impl Vcpu {
    /// A vCPU of which nothing else is known.
    #[must_use]
    pub fn first_seen(name: VcpuName) -> Self {
        Self {
            name,
            creator: None,
            runner: None,
            hand_off: None,
            unrun_restore: None,
            runner_ended: false,
            creator_ended: false,
            strangers: FxHashMap::default(),
            copied_by: None,
            enabling: None,
            unsettled: None,
            ioctls: FxHashMap::default(),
            updates: 0,
            findings: 0,
        }
    }

    /// May something be found of it that waits for more, as most of the time nothing does? What rules settle is in these.
    #[must_use]
    pub fn awaits_more(&self) -> bool {
        self.hand_off.is_some() || self.unsettled.is_some() || !self.strangers.is_empty()
    }

    /// The hand-off that this update ends: it is the new runner's first.
    #[must_use]
    pub fn ended_hand_off(&self, update: &Event) -> Option<&HandOff> {
        self.hand_off.as_ref().filter(|hand_off| hand_off.run.caller_tid == update.caller_tid)
    }

    /// Learn from an event, after the rules have judged it.
    pub fn learn(&mut self, event: &Event) {
        match event.kind {
            EventKind::Created => self.creator = Some(Thread::caller(event)),
            EventKind::Ioctl => self.learn_ioctl(event),
            EventKind::EnablingWrite => self.learn_enabling(event),
            EventKind::Update => self.learn_update(event),
            EventKind::ThreadEnded => self.learn_end(event.caller_tid),
            EventKind::Load | EventKind::Destroyed | EventKind::Call | EventKind::Return => {}
        }
    }

    /// The thread that runs it, as far as is known, if that still lives.
    #[must_use]
    pub fn living_runner(&self) -> Option<&Thread> {
        self.runner.as_ref().filter(|_| !self.runner_ended)
    }

    /// Is it this thread that runs it? Another one may get the number of one that ended.
    #[must_use]
    pub fn is_run_by(&self, tid: u32) -> bool {
        self.living_runner().is_some_and(|runner| runner.tid == tid)
    }

    /// Is this thread its creator or runner?
    #[must_use]
    pub fn is_owned_by(&self, tid: u32) -> bool {
        let creator = self.creator.as_ref().filter(|_| !self.creator_ended);
        [creator, self.living_runner()].into_iter().flatten().any(|owner| owner.tid == tid)
    }

    /// Another thread may get the number of one that ended.
    fn learn_end(&mut self, tid: u32) {
        self.runner_ended |= self.is_run_by(tid);
        self.creator_ended |= self.creator.as_ref().is_some_and(|creator| creator.tid == tid);
    }

    fn learn_ioctl(&mut self, event: &Event) {
        if event.ioctl == KVM_RUN {
            self.learn_run(event);
        } else if self.living_runner().is_none() && !self.is_owned_by(event.caller_tid) {
            self.learn_stranger(event);
        }
        *self.ioctls.entry((event.caller_tid, event.ioctl)).or_default() += 1;
    }

    fn learn_stranger(&mut self, event: &Event) {
        let (_, times) = self.strangers.entry((event.caller_tid, event.ioctl)).or_insert((*event, 0));
        *times += 1;
    }

    fn learn_run(&mut self, event: &Event) {
        self.unrun_restore = None;
        self.strangers.clear();
        if self.is_run_by(event.caller_tid) {
            self.hand_off.iter_mut().for_each(|hand_off| hand_off.is_past = true);
            return;
        }
        self.runner_ended = false;
        let from = self.runner.replace(Thread::caller(event)).filter(|_| event.is_enabled());
        self.hand_off = from.map(|from| HandOff { from, run: *event, is_past: false });
    }

    fn learn_enabling(&mut self, event: &Event) {
        if !event.is_enabled() {
            return;
        }
        self.enabling = Some(Enabling { tid: event.caller_tid, run_delay_ns: event.run_delay_ns });
        if event.has(HOST_INITIATED) {
            let restore = Restore::from_event(event);
            self.copied_by = restore.copied().then_some(event.caller_tid);
            self.unrun_restore = Some(restore);
        }
    }

    fn learn_update(&mut self, event: &Event) {
        self.updates = self.updates.max(event.updates.into());
        if event.ioctl == KVM_RUN {
            self.unrun_restore = None; // edges do not tell of every KVM_RUN
        }
        let copied_by = self.copied_by;
        if copied_by != Some(event.caller_tid) {
            self.copied_by = None; // whoever copied may load the vCPU once more before the runner does
        }
        let hand_off = self.hand_off.take_if(|hand_off| hand_off.run.caller_tid == event.caller_tid);
        let unsettled = Unsettled::begins_with(event);
        self.unsettled = unsettled.then(|| Box::new(Unsettled { event: *event, hand_off, copied_by }));
        // Only guest entry advances the version; where there is none, it makes every update.
        let at_entry = event.version_before != event.version_after || event.source.versions() == 0;
        if self.runner.is_none() && at_entry {
            self.runner = Some(Thread::caller(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::target::OUTSIDE;

    use super::{Thread, VcpuName};

    #[test]
    fn a_thread_of_another_pid_namespace_is_marked() {
        let thread = |tid| Thread { tid, comm: "vcpu0".to_owned() }.to_string();
        assert_eq!(thread(7), "vcpu0(7)");
        assert_eq!(thread(OUTSIDE | 7), "vcpu0(outside:7)");
        assert_eq!(VcpuName { pid: OUTSIDE | 5, vm: 1, id: 0 }.to_string(), "outside:5/1/0");
    }
}
