//! Event: one fact a probe reports. Fixed size, no padding, checked when decoded.
//! Says what happened, never what it means.

use core::mem::offset_of;

use crate::{source::Source, steal::StealDelta};

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventKind {
    /// A vCPU was created by the caller.
    #[default]
    Created = 1,
    /// A vCPU ceased to exist.
    Destroyed = 2,
    /// The caller entered a vCPU ioctl.
    Ioctl = 3,
    /// The vCPU was loaded onto the caller's CPU (`kvm_arch_vcpu_load`).
    Load = 4,
    /// What enables the source was written; `after` is what that left behind.
    EnablingWrite = 5,
    /// KVM consumed a steal delta: `run_delay_ns - last_steal_before_ns`.
    Update = 6,
    /// A kernel function was entered.
    Call = 7,
    /// A kernel function returned.
    Return = 8,
    /// A thread that had issued vCPU ioctls ended.
    ThreadEnded = 12,
}

impl EventKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Created,
            2 => Self::Destroyed,
            3 => Self::Ioctl,
            4 => Self::Load,
            5 => Self::EnablingWrite,
            6 => Self::Update,
            7 => Self::Call,
            8 => Self::Return,
            12 => Self::ThreadEnded,
            _ => return None,
        })
    }

    /// Is it about a thread, and not about a vCPU?
    #[must_use]
    pub const fn is_of_thread(self) -> bool {
        matches!(self, Self::Call | Self::Return | Self::ThreadEnded)
    }
}

/// `flags`: the guest's steal area could be read before.
pub const STEAL_BEFORE_KNOWN: u16 = 1;
/// `flags`: the guest's steal area could be read after.
pub const STEAL_AFTER_KNOWN: u16 = 2;
/// `flags`: what enables the source was written by the VMM, not by the guest.
pub const HOST_INITIATED: u16 = 4;

/// `flags`: [`Event::steal_last_ns`] is known.
pub const STEAL_LAST_KNOWN: u16 = 8;
/// `flags`: the first update since the source was enabled.
pub const FIRST_SINCE_ENABLED: u16 = 16;
/// `flags`: the first update of this vCPU whose guest counter could be read.
pub const FIRST_READ: u16 = 32;

/// `flags`: run_delay, last_steal and what enables the source are not known (the event comes from a log).
pub const NUMBERS_UNKNOWN: u16 = 64;

/// `flags`: this kernel keeps a delta until guest entry, where a later load may have replaced it (Linux 3.1 to 4.5).
pub const ACCUMULATES: u16 = 128;

/// One fact. Times are ns of CLOCK_MONOTONIC; for kinds without a before and after both are the same moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When it was reported.
    pub time_ns: u64,
    /// `struct kvm_vcpu *`
    pub vcpu: u64,
    /// Tells vCPUs at one address apart.
    pub generation: u64,
    /// `struct kvm *`
    pub vm: u64,
    /// The caller's run_delay; of an update, the one KVM subtracted from.
    pub run_delay_ns: u64,
    /// `last_steal` before.
    pub last_steal_before_ns: u64,
    /// `last_steal` after.
    pub last_steal_after_ns: u64,
    /// What enables the source, before.
    pub enabling_before: u64,
    /// The same, after.
    pub enabling_after: u64,
    /// Guest-visible steal before, if [`STEAL_BEFORE_KNOWN`].
    pub steal_before_ns: u64,
    /// Guest-visible steal after, if [`STEAL_AFTER_KNOWN`].
    pub steal_after_ns: u64,
    /// Guest-visible steal as the update before this one left it, if [`STEAL_LAST_KNOWN`].
    pub steal_last_ns: u64,
    /// Since when this update's delta can have grown: the update before, the enabling of the source, or a later moment at
    /// which nothing was left to charge; 0 if not seen.
    pub previous_update_ns: u64,
    /// Address of the function called or returned from; 0 for an ioctl as a whole.
    pub function: u64,
    /// Host address of the guest's area; 0 if not known. Told of ioctls.
    pub area: u64,
    /// Version of the guest's area before.
    pub version_before: u32,
    /// Version of the guest's area after.
    pub version_after: u32,
    /// What happened.
    pub kind: EventKind,
    /// [`STEAL_BEFORE_KNOWN`] and the others.
    pub flags: u16,
    /// How the guest is told.
    pub source: Source,
    /// `kvm_vcpu.vcpu_id`
    pub vcpu_id: u32,
    /// Process of the VM.
    pub vm_tgid: u32,
    /// Process of the caller.
    pub caller_tgid: u32,
    /// Thread of the caller.
    pub caller_tid: u32,
    /// The ioctl the caller is in; 0 if none or not known.
    pub ioctl: u32,
    /// CPU the probe ran on.
    pub cpu: u32,
    /// Thread whose run_delay was in `last_steal` before; 0 if not known.
    pub last_steal_tid: u32,
    /// Updates of this vCPU so far, this one included.
    pub updates: u32,
    /// Name of the caller, zero-padded.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Event>() == 15 * 8 + 12 * 4 + 16);

/// Why bytes from the ring or a file are not an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not the size of an event.
    Size(usize),
    /// No such [`EventKind`].
    Kind(u32),
    /// No such [`Source`].
    Source(u16),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Size(size) => write!(f, "{size} bytes are not an event, which has {}", size_of::<Event>()),
            Self::Kind(kind) => write!(f, "no event kind {kind}"),
            Self::Source(source) => write!(f, "no source {source}"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl Event {
    /// 64-bit words in an event.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// The event in these bytes.
    ///
    /// # Errors
    /// When size, kind or source is not that of an event.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != size_of::<Self>() {
            return Err(DecodeError::Size(bytes.len()));
        }
        // SAFETY: as many bytes as an event has.
        unsafe { Self::read(bytes.as_ptr()) }
    }

    /// # Safety
    /// As many bytes as an event has must be readable there.
    const unsafe fn read(bytes: *const u8) -> Result<Self, DecodeError> {
        // SAFETY: within the event; the bytes of integers.
        let (kind, source) = unsafe {
            (
                bytes.add(offset_of!(Self, kind)).cast::<u32>().read_unaligned(),
                bytes.add(offset_of!(Self, source)).cast::<u16>().read_unaligned(),
            )
        };
        match (EventKind::from_u32(kind), Source::from_u16(source)) {
            // SAFETY: kind and source are, and all else is plain integers without padding: every bit pattern is valid.
            (Some(_), Some(_)) => Ok(unsafe { bytes.cast::<Self>().read_unaligned() }),
            (None, _) => Err(DecodeError::Kind(kind)),
            (_, None) => Err(DecodeError::Source(source)),
        }
    }

    /// The event as 64-bit words, for writing it down.
    #[must_use]
    pub const fn to_words(&self) -> [u64; Self::WORDS] {
        // SAFETY: the same size, and Event has no padding: every byte of it is initialised.
        unsafe { core::mem::transmute(*self) }
    }

    /// The event in these words.
    ///
    /// # Errors
    /// When kind or source is not that of an event.
    pub const fn from_words(words: &[u64; Self::WORDS]) -> Result<Self, DecodeError> {
        const { assert!(size_of::<Self>() == Self::WORDS * 8) };
        // SAFETY: as many bytes as an event has.
        unsafe { Self::read(words.as_ptr().cast()) }
    }

    /// What KVM subtracted, of an update.
    #[must_use]
    pub const fn delta(&self) -> StealDelta {
        StealDelta::between(self.last_steal_before_ns, self.run_delay_ns)
    }

    /// What became of the guest's counter. Means nothing unless both are known.
    #[must_use]
    pub const fn growth(&self) -> StealDelta {
        StealDelta::between(self.steal_before_ns, self.steal_after_ns)
    }

    /// Was the source enabled before?
    #[must_use]
    pub const fn was_enabled(&self) -> bool {
        self.source.is_enabled(self.enabling_before)
    }

    /// Is it after?
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.source.is_enabled(self.enabling_after)
    }

    /// Are all of these flags set?
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DecodeError, Event, EventKind};

    #[test]
    fn bytes_of_another_size_are_refused() {
        assert_eq!(Event::decode(&[0; 3]), Err(DecodeError::Size(3)));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(Event::decode(&[0xff; size_of::<Event>()]), Err(DecodeError::Kind(u32::MAX)));
    }

    proptest! {
        #[test]
        fn words_are_the_event(words: [u64; Event::WORDS]) {
            if let Ok(event) = Event::from_words(&words) {
                prop_assert_eq!(event.to_words(), words);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _either_way = Event::decode(&bytes);
        }
    }

    #[test]
    fn every_kind_has_its_own_number() {
        for kind in 0..16 {
            if let Some(known) = EventKind::from_u32(kind) {
                assert_eq!(known as u32, kind);
            }
        }
    }
}
