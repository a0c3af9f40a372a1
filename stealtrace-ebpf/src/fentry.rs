//! The same functions by fentry, for half the price: the kernel knows the arguments' types, and what they point to is
//! read without a check. Where each goes is decided by user space.

use aya_ebpf::{
    EbpfContext, cty::c_void, helpers::generated::bpf_get_func_arg, macros::fentry, programs::FEntryContext,
};

use crate::{
    functions::{self, Arguments},
    read::{Structure, Typed},
};

impl Arguments for FEntryContext {
    /// As the helper tells it (Linux 5.17): an address that is read from the context itself is no number to the verifier.
    #[inline(always)]
    fn number(&self, n: usize) -> u64 {
        let mut number = 0;
        // SAFETY: the context is that of a function's entry; the helper fills the number, or leaves it.
        unsafe { bpf_get_func_arg(self.as_ptr(), n as u32, &raw mut number) };
        number
    }

    #[inline(always)]
    fn plain(&self, n: usize) -> u64 {
        // SAFETY: arguments follow each other there, and the verifier knows how many there are.
        unsafe { self.as_ptr().cast::<u64>().add(n).read_volatile() }
    }

    #[inline(always)]
    fn structure(&self, n: usize) -> impl Structure {
        // SAFETY: as above.
        Typed::new(unsafe { self.as_ptr().cast::<*const c_void>().add(n).read_volatile() })
    }
}

macro_rules! by_fentry {
    ($($function:ident as $program:ident)+) => {
        $(#[fentry]
        pub(crate) fn $program(ctx: FEntryContext) -> i32 {
            functions::$function(&ctx);
            0
        })+
    };
}

by_fentry! {
    vcpu_ioctl as vcpu_ioctl_fentry
    vcpu_ioctl_checked as vcpu_ioctl_fentry_checked
    vcpu_load as vcpu_load_fentry
    steal_update as steal_update_fentry
    vcpu_put as vcpu_put_fentry
    vcpu_create as vcpu_create_fentry
    vcpu_destroy as vcpu_destroy_fentry
}
