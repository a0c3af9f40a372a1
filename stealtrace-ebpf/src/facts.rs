//! What a backend saw becomes an event, if it is worth one, and the vCPU's record follows.
//! Both backends come through here, so that they tell the same story.

use stealtrace_common::{
    event::EventKind,
    kvm::KVM_RUN,
    probe::Probe,
    steal::StealDelta,
    vcpu::{EnablingWrite, Snapshot, ThreadState, VcpuState},
};

use crate::{
    area,
    caller::{Caller, are_threads_chosen},
    emit::{Told, emit, now_ns},
    maps::{only_edges, put},
    other, quiet,
};

/// One thread's stay with a vCPU: from ioctl to put, or from one put to the next.
pub(crate) struct Stay<'a> {
    pub(crate) probe: Probe,
    pub(crate) caller: Caller,
    pub(crate) vcpu: u64,
    pub(crate) ioctl: u32,
    pub(crate) enabling_write: EnablingWrite,
    /// What was true when the stay began.
    pub(crate) opened: &'a Snapshot,
    /// What was true when KVM's update began; the same where no probe tells.
    pub(crate) before: &'a Snapshot,
    pub(crate) after: &'a Snapshot,
    /// The update, if there was one, happened at this moment or later.
    pub(crate) since_ns: u64,
    /// When `after` was looked at, or a little later.
    pub(crate) until_ns: u64,
    /// Is what changed in the guest's counter this stay's doing? Only running the guest changes it, and where ioctls of
    /// several threads overlap (tracepoint backend), another's exit may show it first.
    pub(crate) counts: bool,
}

impl Stay<'_> {
    #[inline(always)]
    const fn told(&self, kind: EventKind) -> Told {
        Told { probe: self.probe, kind, time_ns: self.until_ns, caller: self.caller, ioctl: self.ioctl }
    }
}

/// Put it there: what is read from there may be anything to the verifier.
#[inline(always)]
pub(crate) fn keep(place: &mut Snapshot, snapshot: &Snapshot) {
    let Snapshot { run_delay_ns, last_steal_ns, enabling, steal_ns, version, readable } = *snapshot;
    put! {
        place,
        run_delay_ns: run_delay_ns,
        last_steal_ns: last_steal_ns,
        enabling: enabling,
        steal_ns: steal_ns,
        version: version,
        readable: readable,
    }
}

/// A thread entered an ioctl. The vCPU may be in another thread's hands: only `runner` and `handed_over` change.
#[inline(always)]
pub(crate) fn entered(probe: Probe, caller: Caller, state: &mut VcpuState, thread: &mut ThreadState) {
    let (now, area) = area::snapshot_and_address(thread.vcpu);
    keep(&mut thread.entered, &now);
    let is_run = thread.ioctl == KVM_RUN;
    let foreign = caller.tid != state.runner && (is_run || caller.tid != state.creator);
    if foreign || !only_edges() {
        let ThreadState { time_ns, ioctl, vcpu, .. } = *thread;
        let told = Told { probe, kind: EventKind::Ioctl, time_ns, caller, ioctl };
        emit(told, vcpu, area, state, &now, &now);
    }
    if is_run && foreign {
        state.handed_over = u32::from(state.runner != 0);
        state.runner = caller.tid;
        state.runner_key = caller.key();
        quiet::taken_over(thread.vcpu, caller.key());
    }
}

/// A thread enters an ioctl: is a stranger in one?
#[inline(always)]
pub(crate) fn comes_in(caller: Caller, state: &mut VcpuState, thread: &mut ThreadState) {
    if caller.tid == state.runner || thread.ioctl == KVM_RUN {
        thread.overlaps = u32::from(state.stranger != 0);
    } else {
        state.stranger = caller.tid;
        state.stranger_ns = thread.time_ns;
    }
}

/// It leaves: has a stranger been in one meanwhile?
#[inline(always)]
pub(crate) fn goes_out(caller: Caller, state: &mut VcpuState, thread: &ThreadState) -> bool {
    if caller.tid == state.runner {
        return thread.overlaps != 0 || state.stranger != 0 || state.stranger_ns > thread.time_ns;
    }
    if caller.tid == state.stranger {
        state.stranger = 0;
    }
    state.stranger_ns = now_ns();
    false
}

/// What was true when this ioctl got hold of the vCPU: at its entry, or, if it then waited for another
/// thread's ioctl, or was scheduled out itself, at the last put.
#[inline(always)]
pub(crate) fn opened(thread: &ThreadState, state: &VcpuState) -> Snapshot {
    let entered = &thread.entered;
    let held = if state.open_time_ns > thread.time_ns { &state.open } else { entered };
    let counter = if state.counter_time_ns > thread.time_ns { &state.open } else { entered };
    with_counter(&Snapshot { run_delay_ns: entered.run_delay_ns, ..*held }, counter)
}

/// The same with the guest's counter as it is there.
#[inline(always)]
pub(crate) fn with_counter(snapshot: &Snapshot, counter: &Snapshot) -> Snapshot {
    let Snapshot { steal_ns, version, readable, .. } = *counter;
    Snapshot { steal_ns, version, readable, ..*snapshot }
}

/// The same for a thread whose entry was not looked at: everything is as at the last put, but for the guest's
/// counter, which the VMM or the guest may have set. KVM added the delta to whatever it was then.
#[inline(always)]
pub(crate) fn opened_unseen(state: &VcpuState, after: &Snapshot) -> Snapshot {
    let delta = StealDelta::between(state.open.last_steal_ns, after.last_steal_ns).wrapped_ns();
    let untouched = after.steal_ns == state.steal_last_ns || after.steal_ns < delta;
    let steal_ns = if untouched { state.steal_last_ns } else { after.steal_ns - delta };
    let readable = state.steal_last_known & after.readable;
    Snapshot { run_delay_ns: after.run_delay_ns, steal_ns, readable, ..state.open }
}

/// Note who wrote what enables the source. What comes back is the same, but any value to the verifier, which would follow
/// each constant to the end of the program.
#[inline(always)]
pub(crate) fn written(state: &mut VcpuState, by: EnablingWrite) -> EnablingWrite {
    let field = &raw mut state.enabling_write;
    // SAFETY: a field of a valid record, written first.
    unsafe {
        field.write_volatile(by);
        field.read_volatile()
    }
}

/// The VMM set another source: what did that do to last_steal? KVM takes the caller's run_delay with the data, also where
/// nothing enables the source yet; it leaves last_steal alone with the address. `since_ns` was its run_delay before.
#[inline(always)]
pub(crate) fn set_by_host(
    state: &mut VcpuState,
    caller: Caller,
    vcpu: u64,
    since_ns: u64,
    opened: &mut Snapshot,
    after: &Snapshot,
) {
    let next_ns = other::subtracted_next(vcpu);
    let copied = next_ns != 0 && since_ns <= next_ns && next_ns <= after.run_delay_ns;
    let enables = !area::is_of_another(opened.enabling);
    let is_known_copy = state.last_steal_tid == caller.tid && state.update.last_steal_ns == next_ns;
    if !area::is_of_another(after.enabling) {
        if copied {
            state.last_steal_tid = caller.tid;
            state.update.last_steal_ns = next_ns;
        }
    } else if copied || (enables && next_ns != 0 && is_known_copy) {
        opened.run_delay_ns = next_ns;
        if opened.last_steal_ns == next_ns {
            opened.last_steal_ns = 0; // nobody's, until then
        }
    } else {
        opened.last_steal_ns = after.last_steal_ns;
    }
}

/// A stay ended.
#[inline(always)]
pub(crate) fn left(state: &mut VcpuState, stay: &Stay<'_>) {
    if let Some(since_ns) = quiet::since_ns(stay.vcpu) {
        state.last_update_ns = since_ns;
    }
    if stay.enabling_write != EnablingWrite::NONE && !is_of_nothing(stay) {
        enabling_written(state, stay);
    }
    // Whoever enables steal time may set last_steal (Linux 3.1 to 4.3), but nothing is charged by that. A guest goes on
    // to run: then only the update itself can tell.
    let copies = stay.enabling_write == EnablingWrite::HOST || (area::accumulates() && state.updating == 0);
    let enabling = copies && !area::is_enabled(stay.opened.enabling) && area::is_enabled(stay.after.enabling);
    // Where nothing is enabled a kernel may move last_steal as it likes: nobody is charged.
    let charges = area::is_enabled(stay.before.enabling) || area::is_enabled(stay.after.enabling);
    // Whoever writes what enables another source may set last_steal, too, and charges nothing; and what two sources say cannot
    // be compared.
    let of_another = area::is_of_another(stay.after.enabling);
    let sets = (of_another && stay.enabling_write == EnablingWrite::HOST)
        || of_another != area::is_of_another(stay.before.enabling);
    if updated(stay.before, stay.after) && !enabling && !sets && charges {
        consumed(state, stay);
    }
    let counter = if stay.counts { *stay.after } else { state.open };
    state.open = with_counter(stay.after, &counter);
    state.open_time_ns = stay.until_ns;
    if stay.counts {
        state.counter_time_ns = stay.until_ns;
    }
    state.enabling_write = EnablingWrite::NONE;
    state.updating = 0;
    quiet::settle(stay.vcpu, stay.caller, state);
}

/// Was another source's set where nothing enables it? Then nobody is charged by it yet.
#[inline(always)]
fn is_of_nothing(stay: &Stay<'_>) -> bool {
    stay.ioctl == other::IOCTL
        && !area::is_of_another(stay.after.enabling)
        && !area::is_of_another(stay.opened.enabling)
}

#[inline(always)]
fn enabling_written(state: &mut VcpuState, stay: &Stay<'_>) {
    let before = stay.opened;
    emit(stay.told(EventKind::EnablingWrite), stay.vcpu, 0, state, before, stay.after);
    // A guest's write shares its stay with KVM's own updates, which change last_steal too.
    let by_host = stay.enabling_write == EnablingWrite::HOST;
    if by_host && area::is_enabled(stay.after.enabling) && stay.after.last_steal_ns != before.last_steal_ns {
        state.last_steal_tid = stay.caller.tid;
    }
    if !area::is_enabled(before.enabling) {
        state.enabled_anew = 1;
        state.last_update_ns = stay.since_ns;
    }
    // A CPU that is plugged in again counts on where it stopped: off, then on in the same place.
    if area::is_enabled(stay.after.enabling) && stay.after.enabling != state.steal_last_enabling {
        state.steal_last_known = 0;
    }
}

/// Did KVM consume a delta? An area that just came into view proves nothing: KVM may not have got to it yet.
#[inline(always)]
fn updated(before: &Snapshot, after: &Snapshot) -> bool {
    if before.last_steal_ns != after.last_steal_ns {
        return true;
    }
    if after.readable == 0 {
        return false;
    }
    if before.readable == 0 {
        after.last_steal_ns == after.run_delay_ns
    } else {
        before.version != after.version
    }
}

#[inline(always)]
fn consumed(state: &mut VcpuState, stay: &Stay<'_>) {
    let Stay { before, after, .. } = stay;
    let enabling = if area::is_enabled(after.enabling) { after.enabling } else { before.enabling };
    let after = &area::with_area(after, stay.vcpu, enabling); // a guest may have disabled it since
    state.updates += 1;
    if are_threads_chosen() && state.open.last_steal_ns != before.last_steal_ns {
        state.last_steal_tid = 0; // a thread that is not watched updated it since
    }
    let last_known = state.steal_last_known;
    if !stay.counts || advanced(state, before) {
        state.steal_last_known = 0;
    }
    let underflows = StealDelta::between(before.last_steal_ns, before.run_delay_ns).is_underflow();
    if !only_edges() || underflows || is_edge(state, stay) {
        emit(stay.told(EventKind::Update), stay.vcpu, 0, state, before, after);
    }
    state.last_update_ns = stay.since_ns;
    if stay.counts {
        counted(state, after, enabling);
    } else {
        state.steal_last_known = last_known;
    }
    state.steal_read |= after.readable;
    state.last_steal_tid = stay.caller.tid;
    state.enabled_anew = 0;
    if stay.caller.tid == state.runner {
        state.handed_over = 0;
    }
    state.unsettled = u32::from(underflows && after.readable == 0);
}

/// Did KVM itself update the area since, unseen? It did so within another thread's ioctl (tracepoint backend); whoever
/// else writes there brings an older version back, or leaves it alone.
#[inline(always)]
fn advanced(state: &VcpuState, before: &Snapshot) -> bool {
    before.readable != 0 && before.version.wrapping_sub(state.steal_last_version).cast_signed() > 0
}

/// KVM left the guest's counter like this, in the area of this value.
#[inline(always)]
pub(crate) fn counted(state: &mut VcpuState, after: &Snapshot, enabling: u64) {
    state.steal_last_ns = after.steal_ns;
    state.steal_last_enabling = enabling;
    state.steal_last_version = after.version;
    state.steal_last_known = if area::is_of_another(enabling) { 0 } else { after.readable }; // KVM counts on by the clock
}

/// Can this update change a judgement, although its delta is not negative? Not if it charges what its thread waited.
#[inline(always)]
fn is_edge(state: &VcpuState, stay: &Stay<'_>) -> bool {
    let Stay { before, after, .. } = stay;
    let rewound =
        state.steal_last_known != 0 && before.readable != 0 && state.steal_last_ns != before.steal_ns;
    let backwards = StealDelta::between(before.steal_ns, after.steal_ns).is_underflow();
    state.last_steal_tid != stay.caller.tid
        || state.enabled_anew != 0
        || state.handed_over != 0
        || state.unsettled != 0
        || (state.steal_read == 0 && after.readable != 0)
        || rewound
        || backwards
}
