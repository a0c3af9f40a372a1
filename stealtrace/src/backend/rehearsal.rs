//! Where kvm is a module without types of its own, those of the kernel may be another kvm's. What they say is tried out on
//! a VM of ours, whose every number is known, and refused where it is not so.

use std::{ops::RangeInclusive, process, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED},
    layout::{ABSENT, Layout},
    ring::{Entry, Sighting},
    target::Volume,
};

use super::{BackendKind, EbpfBackend, Plan, Processes};
use crate::{
    kernel::{Era, KernelFacts},
    vmm::{Vcpu, Vm, accrue_run_delay, run_delay_ns},
};

/// Unlike any other number in a vCPU.
const VCPU_ID: u32 = 45;
/// What our thread waited: so that it is not nothing that is compared.
const WAITED: Duration = Duration::from_millis(1);
const RING_BYTES: u32 = 1 << 18;

/// This layout of the kernel's types, or what of it is otherwise in the kvm that runs, as it proved to be.
pub(super) fn confirmed(layout: Layout, ways: &[BackendKind], facts: &KernelFacts) -> Result<Layout> {
    let accumulates = (facts.era() == Era::Accumulating).then(|| accumulating(layout));
    let mut wrong = None;
    for layout in accumulates.into_iter().chain([layout]) {
        let tried = rehearse(layout, ways, facts)
            .context("kvm carries no types, and the kernel's cannot be tried out on a VM of ours")?;
        match tried {
            Ok(()) => return Ok(layout),
            Err(error) => wrong = Some(error),
        }
    }
    let wrong = wrong.map(|error| format!(": {error:#}")).unwrap_or_default();
    bail!("kvm carries no types, and it is not the one that the kernel's describe{wrong}")
}

/// A delta waits behind last_steal, and all that follows moves: a kvm of before Linux 4.6 in a later kernel, as the lab has
/// it.
fn accumulating(layout: Layout) -> Layout {
    Layout {
        vcpu_accumulated: layout.vcpu_steal + 16,
        vcpu_cached_area: layout.vcpu_cached_area.saturating_add(8),
        ..layout
    }
}

/// Restore and run a vCPU; is what is seen what was done?
fn rehearse(layout: Layout, ways: &[BackendKind], facts: &KernelFacts) -> Result<Result<()>> {
    let plan = Plan::of(Processes::These(vec![process::id()]), Volume::All, RING_BYTES);
    let mut backend = EbpfBackend::attach_by(layout, ways, &plan, facts)?;
    let mut vcpu = Vm::new()?.create_vcpu(VCPU_ID.into())?;
    accrue_run_delay(WAITED)?;
    vcpu.restore()?;
    let least = run_delay_ns()?;
    vcpu.run()?;
    let most = run_delay_ns()?;
    backend.look_at_files()?;
    let unknown = layout.vcpu_cached_area == ABSENT && layout.kvm_memslots == ABSENT;
    let area = if unknown { 0 } else { vcpu.host_address_of_area() };
    let done = Done { enabling: vcpu.enabling()?, area, last_steal_ns: least..=most };
    Ok(done.agrees(&Seen::by(&mut backend, &vcpu)))
}

/// What was done.
struct Done {
    enabling: u64,
    /// Where the guest's area lies in this process; 0 where that does not show.
    area: u64,
    /// Between these.
    last_steal_ns: RangeInclusive<u64>,
}

impl Done {
    fn agrees(&self, seen: &Seen) -> Result<()> {
        let Self { enabling, area, last_steal_ns } = self;
        let Seen { sighting, restored } = seen;
        let sighting = sighting.context("its vCPU was not found")?;
        ensure!(sighting.vcpu_id == VCPU_ID, "vCPU {VCPU_ID} is seen as {}", sighting.vcpu_id);
        ensure!(sighting.owned != 0, "a VM of ours is seen as another's");
        ensure!(sighting.enabling == *enabling, "{enabling:#x} is seen as {:#x}", sighting.enabling);
        let seen_ns = sighting.last_steal_ns;
        ensure!(last_steal_ns.contains(&seen_ns), "a last_steal of {last_steal_ns:?} is seen as {seen_ns}");
        ensure!(sighting.area == *area, "the guest's area at {area:#x} is seen at {:#x}", sighting.area);
        ensure!(*restored == Some(*enabling), "a restored {enabling:#x} is seen as {restored:x?}");
        Ok(())
    }
}

/// What the backend told of it.
#[derive(Default)]
struct Seen {
    sighting: Option<Sighting>,
    /// What the VMM wrote.
    restored: Option<u64>,
}

impl Seen {
    fn by(backend: &mut EbpfBackend, vcpu: &Vcpu) -> Self {
        let mut seen = Self::default();
        let is_ours = |sighting: &Sighting| {
            sighting.holder_tgid == process::id() && sighting.fd == vcpu.descriptor().cast_unsigned()
        };
        backend.drain(usize::MAX, |entry| {
            match entry {
                Entry::Sighting(sighting) if is_ours(sighting) => seen.sighting = Some(*sighting),
                Entry::Event(event) if is_restore(event) => seen.restored = Some(event.enabling_after),
                _ => {}
            }
            true
        });
        seen
    }
}

fn is_restore(event: &Event) -> bool {
    event.kind == EventKind::EnablingWrite && event.has(HOST_INITIATED) && event.vcpu_id == VCPU_ID
}

#[cfg(test)]
mod tests {
    use stealtrace_common::ring::Sighting;

    use super::{Done, Seen, VCPU_ID};

    #[test]
    fn types_by_which_anything_is_seen_otherwise_are_refused() {
        let done = Done { enabling: 0x2b41, area: 0x7f00_0000_2b40, last_steal_ns: 1_000_000..=1_200_000 };
        let right = Sighting {
            vcpu_id: VCPU_ID,
            owned: 1,
            enabling: 0x2b41,
            area: 0x7f00_0000_2b40,
            last_steal_ns: 1_100_000,
            ..Sighting::default()
        };
        let agrees = |sighting, restored| done.agrees(&Seen { sighting: Some(sighting), restored }).is_ok();
        assert!(agrees(right, Some(0x2b41)));
        for wrong in [
            Sighting { vcpu_id: 0, ..right },
            Sighting { owned: 0, ..right },
            Sighting { enabling: 0, ..right },
            Sighting { area: 0, ..right },
            Sighting { last_steal_ns: 0, ..right },
        ] {
            assert!(!agrees(wrong, Some(0x2b41)), "{wrong:?}");
        }
        assert!(!agrees(right, None) && !agrees(right, Some(1)));
        assert!(done.agrees(&Seen::default()).is_err());
    }
}
