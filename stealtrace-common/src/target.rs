//! What to watch: handed to the kernel once, before the probes are attached.

/// The kernel side's orders.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// 1: only processes in TARGETS.
    pub processes: u32,
    /// Only this thread; 0 for all.
    pub tid: u32,
    /// Only the vCPU of this id, plus 1; 0 for all.
    pub vcpu_id_plus_1: u32,
    /// A [`Volume`].
    pub volume: u32,
    /// 1: report the return of every ioctl too (tracepoint backend).
    pub returns: u32,
    /// 1: ioctls of which there is nothing to tell may be passed over unseen.
    pub pass_over: u32,
    /// Only threads of this name, zero-padded, as two words; all zero for all.
    pub comm: [u64; 2],
    /// In whose numbers threads and processes are told.
    pub namespace: PidNamespace,
}

/// A thread's name as the kernel keeps it, without what a kernel before 5.17 left behind its end.
#[must_use]
#[inline(always)]
pub const fn until_zero([first, second]: [u64; 2]) -> [u64; 2] {
    let end = before_zero(first);
    [first & end, if end == u64::MAX { second & before_zero(second) } else { 0 }]
}

/// The bits of the bytes before the first that is zero, and perhaps some of that one's own; all if none is.
#[inline(always)]
const fn before_zero(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
    (zeros & zeros.wrapping_neg()).wrapping_sub(1)
}

/// stealtrace's own PID namespace. All zero for the initial one, in which nothing is to be translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidNamespace {
    /// `struct pid_namespace *`; 0 if it is still to be found.
    pub address: u64,
    /// How deep it lies.
    pub level: u32,
    /// Its inode, as /proc/self/ns/pid tells it.
    pub inode: u32,
}

impl PidNamespace {
    /// The initial one.
    pub const INITIAL: Self = Self { address: 0, level: 0, inode: 0 };
}

/// Bit of a thread's or process's number that says: seen from stealtrace's PID namespace it has none, this is the one
/// in the initial namespace. No real number has it (`PID_MAX_LIMIT` is 2^22).
pub const OUTSIDE: u32 = 1 << 31;

/// What `guard` may write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardOrders {
    /// 1: write; 0: only say what would be written.
    pub write: u32,
    /// 1: also put back what an over-charge added.
    pub over_charge: u32,
    /// 1: set a counter that was poisoned before to the age of the VM's process, once per vCPU.
    pub heal: u32,
    /// No padding is left to chance.
    pub reserved: u32,
}

/// How much is reported.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Every load, ioctl and update.
    All = 0,
    /// Only what can change a judgement.
    Edges = 1,
}

const _: () = assert!(size_of::<Target>() == 56);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::until_zero;

    proptest! {
        #[test]
        fn a_name_ends_at_its_first_zero(bytes in proptest::array::uniform16(prop_oneof![Just(0_u8), Just(0x80), any::<u8>()])) {
            let words = |bytes: [u8; 16]| {
                let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[from + i]));
                [half(0), half(8)]
            };
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(16);
            let name = std::array::from_fn(|i| if i < end { bytes[i] } else { 0 });
            prop_assert_eq!(until_zero(words(bytes)), words(name));
        }
    }
}
