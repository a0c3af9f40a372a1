//! Sources: the ways in which a host tells a guest its steal time. Each is one file: what enables it, the area in the
//! guest's memory, the kernel's fields it lives in, and its words for people. What finds, judges and shows speaks of source,
//! area and enabling.
//!
//! To add a source: write its file, with the same names as in the others; add its line. On the kernel side, `area.rs` finds
//! its area, and a file like `x86_msr.rs` sees it enabled; the test VMM enables it in `vmm/arch`.

pub mod x86_msr;

/// Members of `struct kvm_vcpu`, all u64.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// What enables it.
    pub enabling: &'static str,
    /// The run_delay that the next delta is taken from; it follows `enabling`.
    pub last_steal: &'static str,
    /// Guest address of the area for which a host address was looked up, where the kernel keeps that.
    pub cached_guest_address: &'static str,
    /// That host address; it follows.
    pub cached_host_address: &'static str,
    /// A delta that waits for guest entry, on kernels that keep one.
    pub accumulated: &'static str,
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

            /// Does this value enable it?
            #[must_use]
            pub const fn is_enabled(self, enabling: u64) -> bool {
                match self {
                    $(Self::$name => $file::is_enabled(enabling),)+
                }
            }

            /// Where this value says that the area lies in the guest's memory.
            #[must_use]
            pub const fn area(self, enabling: u64) -> u64 {
                match self {
                    $(Self::$name => $file::area(enabling),)+
                }
            }

            /// Where the kernel keeps it.
            #[must_use]
            pub const fn fields(self) -> Fields {
                match self {
                    $(Self::$name => $file::FIELDS,)+
                }
            }
        }
    };
}

sources! {
    X86Msr = 0, x86_msr;
}

impl Source {
    /// Of guests of a host like this one.
    pub const HERE: Self = Self::X86Msr;
}

impl Default for Source {
    fn default() -> Self {
        Self::HERE
    }
}
