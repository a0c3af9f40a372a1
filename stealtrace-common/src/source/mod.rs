//! Sources: the ways in which a host tells a guest its steal time. Each is one file: what enables it, the area in the
//! guest's memory, the kernel's fields it lives in, and its words for people. What finds, judges and shows speaks of source,
//! area and enabling.
//!
//! A host has its own, [`here`]; on x86 a VM may be one for guests of Xen instead, which its vCPUs' enabling values tell:
//! [`Source::of`].
//!
//! To add a source: write its file, with the same names as in the others; add its line. On the kernel side, a file like
//! `x86_msr.rs` finds its area and sees it enabled; the test VMM enables it in `vmm/arch`.

pub mod arm64_pvtime;
pub mod x86_msr;
pub mod xen_runstate;

/// The source of guests of a host like this one.
#[cfg(any(target_arch = "aarch64", bpf_target_arch = "aarch64"))]
pub use arm64_pvtime as here;
/// The source of guests of a host like this one.
#[cfg(any(target_arch = "x86_64", bpf_target_arch = "x86_64"))]
pub use x86_msr as here;

/// Members of `struct kvm_vcpu`, all u64.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// What enables it, and the run_delay that the next delta is taken from; one follows the other.
    pub steal: [&'static str; 2],
    /// Guest address of the area for which a host address was looked up, and that; where a kernel may keep them.
    pub cached_area: Option<[&'static str; 2]>,
    /// A delta that waits for guest entry, where a kernel may keep one.
    pub accumulated: Option<&'static str>,
}

/// A guest's area, as KVM and the guest see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Nanoseconds that the vCPU was ready but did not run.
    pub steal_ns: u64,
    /// Odd while KVM writes; 0 where there is none.
    pub version: u32,
    /// 0.
    pub flags: u32,
    /// Is the vCPU scheduled out? 0 where that is not told.
    pub preempted: u8,
}

macro_rules! sources {
    ($($name:ident = $number:literal, $file:ident;)+) => {
        /// How a guest is told its steal time.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Source {
            $(#[doc = concat!("See [`", stringify!($file), "`].")]
            $name = $number,)+
        }

        impl Source {
            /// The source with this number, if there is one.
            #[must_use]
            pub const fn from_u16(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// What enables it, for people.
            #[must_use]
            pub const fn enabling(self) -> &'static str {
                match self {
                    $(Self::$name => $file::ENABLING,)+
                }
            }

            /// The same where its values stand beside it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $file::WORD,)+
                }
            }

            /// What a VMM restores, for people.
            #[must_use]
            pub const fn restored(self) -> &'static str {
                match self {
                    $(Self::$name => $file::RESTORED,)+
                }
            }

            /// The short name by which programs know it.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $file::KEY,)+
                }
            }

            /// Does this value enable it?
            #[must_use]
            pub const fn is_enabled(self, enabling: u64) -> bool {
                match self {
                    $(Self::$name => $file::is_enabled(enabling),)+
                }
            }

            /// Does this value ask for the host's sleep to be counted, too?
            #[must_use]
            pub const fn counts_sleep(self, enabling: u64) -> bool {
                match self {
                    $(Self::$name => $file::counts_sleep(enabling),)+
                }
            }

            /// Where this value says that the area lies in the guest's memory.
            #[must_use]
            pub const fn area(self, enabling: u64) -> u64 {
                match self {
                    $(Self::$name => $file::area(enabling),)+
                }
            }

            /// By so much an update raises the area's version.
            #[must_use]
            pub const fn versions(self) -> u32 {
                match self {
                    $(Self::$name => $file::VERSIONS,)+
                }
            }
        }
    };
}

sources! {
    X86Msr = 0, x86_msr;
    Arm64Pvtime = 1, arm64_pvtime;
    XenRunstate = 2, xen_runstate;
}

impl Source {
    /// Of guests of a host like this one.
    pub const HERE: Self = here::SOURCE;

    /// That of a vCPU on a host like this one, by its enabling value.
    #[must_use]
    pub const fn of(enabling: u64) -> Self {
        match Self::HERE {
            Self::X86Msr if xen_runstate::is_enabled(enabling) => Self::XenRunstate,
            own => own,
        }
    }

    /// An enabling value as a VMM or a guest gave it.
    #[must_use]
    pub const fn given(self, enabling: u64) -> u64 {
        if matches!(self, Self::XenRunstate) { xen_runstate::area(enabling) } else { enabling }
    }

    /// The area in these bytes of a guest's memory.
    #[must_use]
    pub fn read(self, bytes: &[u8; here::BYTES]) -> Area {
        if self == Self::XenRunstate { xen_runstate::read(bytes) } else { here::read(bytes) }
    }
}

/// Does this value enable the source that it is of?
#[must_use]
pub const fn is_enabled(enabling: u64) -> bool {
    Source::of(enabling).is_enabled(enabling)
}

impl Default for Source {
    fn default() -> Self {
        Self::HERE
    }
}
