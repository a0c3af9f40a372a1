//! Every map and global of the kernel object, and its licence.

use core::mem::MaybeUninit;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use stealtrace_common::{
    layout::Layout,
    probe::{Counter, Probe},
    target::{GuardOrders, PidNamespace, Target, Volume},
    vcpu::{QuietVcpu, ThreadState, VcpuState},
};

/// Events to user space. User space sets the size before loading.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// vCPUs alive, by `struct kvm_vcpu *`.
#[map]
pub(crate) static VCPUS: HashMap<u64, VcpuState> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// vCPUs of which there is nothing to tell at the moment, by slot. A section of its own, and so a map: what is found in it
/// is found by arithmetic alone.
#[unsafe(link_section = ".bss.quiet")]
#[unsafe(no_mangle)]
pub(crate) static mut QUIET: MaybeUninit<[QuietVcpu; QuietVcpu::SLOTS as usize]> = MaybeUninit::zeroed();

/// vCPUs created since we look.
#[unsafe(no_mangle)]
pub(crate) static mut CREATIONS: u32 = 0;

/// `kvm_vcpu_fops`, once a vCPU's file was seen; 0 until then.
#[unsafe(no_mangle)]
pub(crate) static mut VCPU_FILE_OPERATIONS: u64 = 0;

/// Threads that were seen inside a vCPU ioctl, by slot.
#[map]
pub(crate) static THREADS: Array<ThreadState> = Array::with_max_entries(ThreadState::SLOTS, 0);

/// Processes to watch, by tgid in stealtrace's PID namespace; used if [`Target::processes`] is set.
#[map]
pub(crate) static TARGETS: HashMap<u32, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// stealtrace's own PID namespace, once it is found.
#[map]
pub(crate) static NAMESPACE: Array<PidNamespace> = Array::with_max_entries(1, 0);

/// What each probe did, by [`Probe`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Probe::COUNT, 0);

/// `include/uapi/linux/bpf.h`: allocate entries when needed, not all at load.
pub(crate) const BPF_F_NO_PREALLOC: u32 = 1;

/// Where this kernel keeps the fields we read. Set by user space before loading.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = Layout::UNKNOWN;

/// What to watch. Set by user space before loading.
#[unsafe(no_mangle)]
pub(crate) static TARGET: Target = Target {
    processes: 0,
    tid: 0,
    vcpu_id_plus_1: 0,
    volume: Volume::All as u32,
    returns: 0,
    pass_over: 0,
    comm: [0; 2],
    namespace: PidNamespace::INITIAL,
};

/// What `guard` may write. Set by user space before loading.
#[unsafe(no_mangle)]
pub(crate) static GUARD: GuardOrders = GuardOrders { write: 0, over_charge: 0, heal: 0, reserved: 0 };

/// Bare programs may call GPL-only helpers: the object is dual licensed.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A field of LAYOUT or TARGET, by itself: the verifier takes it for the constant that it is.
macro_rules! given {
    ($global:ident.$($field:ident).+) => {{
        let field = &raw const $crate::maps::$global.$($field).+;
        // SAFETY: a field of a valid static; volatile because user space rewrote it after compilation.
        unsafe { core::ptr::read_volatile(field) }
    }};
}
pub(crate) use given;

/// Write fields in place: the stack has no room for a second record. Each by itself: neighbours that are zero would
/// become a call of memset, which the verifier follows byte by byte.
macro_rules! put {
    ($record:expr, $($field:ident: $value:expr),+ $(,)?) => {
        // SAFETY: a valid record in a map, or ring memory that is reserved and not yet submitted.
        unsafe { $((&raw mut (*$record).$field).write_volatile($value);)+ }
    };
}
pub(crate) use put;

/// A field of a record, read where it is asked for. What was read before would have to be saved over calls, and is to the
/// verifier what it was compared with.
macro_rules! reread {
    ($record:ident.$field:ident) => {{
        // SAFETY: a field of a valid record.
        unsafe { (&raw const (*$record).$field).read_volatile() }
    }};
}
pub(crate) use reread;

/// Is only reported what can change a judgement?
#[inline(always)]
pub(crate) fn only_edges() -> bool {
    given!(TARGET.volume) == Volume::Edges as u32
}
