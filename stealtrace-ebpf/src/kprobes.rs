//! KVM's functions by kprobe: arguments are in registers, and what they point to is read with a check.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};

use crate::{
    functions::{self, Arguments},
    read::Structure,
};

impl Arguments for ProbeContext {
    #[inline(always)]
    fn number(&self, n: usize) -> u64 {
        self.arg(n).unwrap_or_default()
    }

    #[inline(always)]
    fn plain(&self, n: usize) -> u64 {
        self.number(n)
    }

    #[inline(always)]
    fn structure(&self, n: usize) -> impl Structure {
        self.number(n)
    }
}

macro_rules! by_kprobe {
    ($($function:ident)+) => {
        $(#[kprobe]
        pub(crate) fn $function(ctx: ProbeContext) -> u32 {
            functions::$function(&ctx);
            0
        })+
    };
}

by_kprobe! { vcpu_ioctl vcpu_load steal_update vcpu_put vcpu_create vcpu_destroy }
