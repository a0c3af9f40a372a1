//! Processors that stealtrace runs on, and what rustc, Debian and dynamic linkers call them. To add one: a variant, and its
//! words.

use clap::ValueEnum;

/// A processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// AMD's and Intel's
    #[default]
    #[value(name = "x86_64")]
    X86_64,
    /// ARM's, 64 bits
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// Of this machine: all that is built runs here.
    pub(crate) const HERE: Self = Self::X86_64;

    /// As the kernel says it, and rpm.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian says it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As rustc says it.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Where programs look for the dynamic linker.
    pub(crate) const fn linkers_folder(self) -> &'static str {
        match self {
            Self::X86_64 => "lib64",
            Self::Aarch64 => "lib",
        }
    }

    /// As GNU's tools say it.
    pub(crate) const fn gnu(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }
}
