//! The processors that the lab emulates, each with what its machine is. To add one: a variant, and its words.

use std::path::Path;

use super::image;
use crate::arch::Arch;

/// ARM's machine, which lets its kernel be a hypervisor.
const VIRT: &str = "virt,virtualization=on,gic-version=3";

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    /// An AMD with SVM.
    Epyc,
    /// The same, with a clock that Linux takes for constant, which realtime kernels want of a processor with KVM and which
    /// the emulation does not offer: Linux believes VMware, and QEMU answers at VMware's port.
    EpycWithClock,
    /// An ARM on which KVM runs at EL2 itself (VHE).
    NeoverseN1,
    /// An older one, on which only KVM's entry and exit do.
    CortexA72,
}

impl Processor {
    /// The first that this kernel runs on.
    pub(super) fn of(kernel: &Path) -> Self {
        match image::arch(kernel) {
            Arch::X86_64 if image::is_realtime(kernel) => Self::EpycWithClock,
            Arch::X86_64 => Self::Epyc,
            Arch::Aarch64 => Self::NeoverseN1,
        }
    }

    /// Its architecture.
    pub(crate) const fn arch(self) -> Arch {
        match self {
            Self::Epyc | Self::EpycWithClock => Arch::X86_64,
            Self::NeoverseN1 | Self::CortexA72 => Arch::Aarch64,
        }
    }

    /// QEMU's options for it and its machine.
    pub(super) const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Epyc => &["-machine", "q35", "-cpu", "EPYC"],
            Self::EpycWithClock => &[
                "-machine",
                "q35,vmport=on",
                "-cpu",
                "EPYC,-hypervisor",
                "-smbios",
                "type=1,serial=VMware-0",
            ],
            Self::NeoverseN1 => &["-machine", VIRT, "-cpu", "neoverse-n1"],
            Self::CortexA72 => &["-machine", VIRT, "-cpu", "cortex-a72"],
        }
    }

    /// Where its ports lead: `port0` is what the kernel writes, 1 to 3 what programs do. A machine that has but one has a
    /// card for the rest, whose first port is nobody's.
    pub(super) const fn ports(self) -> &'static [&'static str] {
        match self.arch() {
            Arch::X86_64 => &[
                "-serial",
                "chardev:port0",
                "-serial",
                "chardev:port1",
                "-serial",
                "chardev:port2",
                "-serial",
                "chardev:port3",
            ],
            Arch::Aarch64 => &[
                "-serial",
                "chardev:port0",
                "-chardev",
                "null,id=nobody",
                "-device",
                "pci-serial-4x,chardev1=nobody,chardev2=port1,chardev3=port2,chardev4=port3",
            ],
        }
    }

    /// Where its kernel writes.
    pub(super) const fn console(self) -> &'static str {
        match self.arch() {
            Arch::X86_64 => "ttyS0",
            Arch::Aarch64 => "ttyAMA0",
        }
    }
}
