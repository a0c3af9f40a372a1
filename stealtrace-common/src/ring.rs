//! What comes out of the ring: events, and what two commands have the kernel side say beside them. Each has its own
//! size, by which it is known.

use crate::{
    event::{DecodeError, Event},
    steal::StealDelta,
};

/// One entry of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Something happened.
    Event(Event),
    /// A vCPU's descriptor was found.
    Sighting(Sighting),
    /// An update was repaired, or would have been.
    Repair(Repair),
}

/// A vCPU, by a descriptor of it that a process has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// When; ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// `struct kvm_vcpu *`
    pub vcpu: u64,
    /// `struct kvm *`
    pub vm: u64,
    /// What enables the source.
    pub enabling: u64,
    /// `last_steal`
    pub last_steal_ns: u64,
    /// Host address of the guest's area; 0 if not known.
    pub area: u64,
    /// The runner's run_delay; 0 if it is not known.
    pub run_delay_ns: u64,
    /// `kvm_vcpu.vcpu_id`
    pub vcpu_id: u32,
    /// The descriptor.
    pub fd: u32,
    /// The process that has the descriptor.
    pub holder_tgid: u32,
    /// The thread that issued KVM_RUN last; 0 if none did or it is not known.
    pub runner_tid: u32,
    /// 1 if the VM is the holder's; others may have got the descriptor from it.
    pub owned: u32,
    /// No padding is left to chance.
    pub reserved: u32,
}

/// What `guard` did about one update of KVM's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// When; ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// What KVM added to the guest's counter, as it did: wrapping.
    pub added_ns: u64,
    /// The counter as KVM left it.
    pub corrupt_ns: u64,
    /// The counter as it should be.
    pub good_ns: u64,
    /// The area's version as KVM left it; two more once it is repaired.
    pub version: u32,
    /// 1 if it was put back; 0 if it was not, or was not to be.
    pub written: u32,
    /// `kvm_vcpu.vcpu_id`
    pub vcpu_id: u32,
    /// Process of the caller, whose VM it is.
    pub vm_tgid: u32,
    /// Thread of the caller.
    pub caller_tid: u32,
    /// No padding is left to chance.
    pub reserved: u32,
    /// Name of the caller, zero-padded.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Sighting>() == 7 * 8 + 6 * 4);
const _: () = assert!(size_of::<Repair>() == 4 * 8 + 6 * 4 + 16);
const _: () = assert!(size_of::<Event>() > size_of::<Repair>() && size_of::<Event>() > size_of::<Sighting>());
const _: () = assert!(size_of::<Repair>() != size_of::<Sighting>());

impl Repair {
    /// What KVM added.
    #[must_use]
    pub const fn delta(&self) -> StealDelta {
        StealDelta::between(0, self.added_ns)
    }
}

impl Entry {
    /// The entry in these bytes.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const SIGHTING: usize = size_of::<Sighting>();
        const REPAIR: usize = size_of::<Repair>();
        match bytes.len() {
            // SAFETY: the length is right, and a Sighting is plain integers without padding.
            SIGHTING => Ok(Self::Sighting(unsafe { bytes.as_ptr().cast::<Sighting>().read_unaligned() })),
            // SAFETY: the length is right, and a Repair is plain integers without padding.
            REPAIR => Ok(Self::Repair(unsafe { bytes.as_ptr().cast::<Repair>().read_unaligned() })),
            _ => Event::decode(bytes).map(Self::Event),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Entry, Event, Repair, Sighting};

    #[test]
    fn an_entry_is_known_by_its_size() {
        assert!(matches!(Entry::decode(&[0; size_of::<Sighting>()]), Ok(Entry::Sighting(_))));
        assert!(matches!(Entry::decode(&[0; size_of::<Repair>()]), Ok(Entry::Repair(_))));
        assert!(Entry::decode(&[0; size_of::<Event>()]).is_err(), "no kind has the number 0");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _either_way = Entry::decode(&bytes);
        }
    }
}
