//! The kernels of the lab. To add one: a row.

use anyhow::Result;

use super::{modules, package::KernelFiles, processor::Processor, series::Series};

/// One kernel of the lab.
pub(crate) struct Kernel {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) about: &'static str,
    /// What `stealtrace verify` must find it to be; None if it must find nothing good in it.
    pub(crate) class: Option<&'static str>,
    /// Where it comes from.
    pub(crate) series: Series,
    /// A change to its kvm modules.
    pub(crate) patch: Option<&'static str>,
    /// What it runs on; None: what runs it.
    pub(crate) processor: Option<Processor>,
}

const AMD64: Series = Series { number: "", flavour: "amd64", with_source: true, suites: &[] };
const V5_10: Series = Series { number: "5.10", suites: &["bullseye", "bullseye-security"], ..AMD64 };
const V6_1: Series = Series { number: "6.1", suites: DEBIAN_12, ..AMD64 };
const V6_12: Series = Series { number: "6.12", suites: DEBIAN_12, ..AMD64 };
const V6_12_DEBIAN_13: Series = Series { number: "6.12", suites: DEBIAN_13, ..AMD64 };
const V6_12_RT: Series =
    Series { number: "6.12", flavour: "rt-amd64", with_source: false, suites: DEBIAN_13 };
const V6_18: Series = Series { number: "6.18", with_source: false, suites: &["trixie-backports"], ..AMD64 };
const ARM64: Series = Series { number: "", flavour: "arm64", with_source: false, suites: &[] };
const ARM64_V6_1: Series = Series { number: "6.1", suites: DEBIAN_12, ..ARM64 };
const ARM64_V6_12: Series = Series { number: "6.12", suites: DEBIAN_12, ..ARM64 };
const ARM64_NEWEST: Series = Series { suites: &["trixie-backports", "sid"], ..ARM64 };
const NEWEST: Series = Series { suites: &["trixie-backports", "sid"], ..AMD64 };

const DEBIAN_12: &[&str] = &["bookworm", "bookworm-updates", "bookworm-security"];
const DEBIAN_13: &[&str] = &["trixie", "trixie-updates", "trixie-security"];

/// Linux 3.1 to 4.3's steal-time logic put back into a present-day kvm.
const UNFIXED: &str = include_str!("patches/unfixed.patch");

/// A kvm whose hand-off is sound.
const CLAMPED: &str = include_str!("patches/clamped.patch");

/// The same, and what Linux 7.3 does for guests of Xen.
const CLAMPED_6_12: &str =
    concat!(include_str!("patches/clamped.patch"), include_str!("patches/xen_clamped.patch"));

/// A kvm that does everything wrong.
const BROKEN: &str = include_str!("patches/broken.patch");

/// A kvm that counts the host's sleep as steal.
const SUSPEND: &str = include_str!("patches/suspend.patch");

/// The patches for Linux itself.
const UPSTREAM: &str = concat!(
    include_str!("patches/upstream/0001-KVM-x86-Start-steal-time-over-when-another-task-runs.patch"),
    include_str!("patches/upstream/0002-KVM-x86-Do-not-charge-for-time-before-steal-time-was.patch"),
);

/// The same for a Linux before 7.3.
const UPSTREAM_6_12: &str = concat!(
    include_str!("patches/upstream/0001-KVM-x86-Start-steal-time-over-when-another-task-runs.patch"),
    include_str!("patches/upstream/0002-KVM-x86-Do-not-charge-for-time-before-steal-time-was.patch"),
    include_str!("patches/xen_clamped.patch"),
);

/// Every kernel.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "stock-5.10",
        about: "Debian 11's kernel",
        class: Some("fixed"),
        series: V5_10,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "unfixed-5.10",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: V5_10,
        patch: Some(UNFIXED),
        processor: None,
    },
    Kernel {
        name: "clamped-5.10",
        about: "the same image, kvm with a hand-off made sound",
        class: Some("sound"),
        series: V5_10,
        patch: Some(CLAMPED),
        processor: None,
    },
    Kernel {
        name: "stock-6.1",
        about: "Debian 12's kernel",
        class: Some("fixed"),
        series: V6_1,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "unfixed-6.1",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: V6_1,
        patch: Some(UNFIXED),
        processor: None,
    },
    Kernel {
        name: "stock-6.12",
        about: "Debian 12's newer kernel",
        class: Some("fixed"),
        series: V6_12,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "unfixed-6.12",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: V6_12,
        patch: Some(UNFIXED),
        processor: None,
    },
    Kernel {
        name: "clamped-6.12",
        about: "the same image, kvm with a hand-off made sound",
        class: Some("sound"),
        series: V6_12,
        patch: Some(CLAMPED_6_12),
        processor: None,
    },
    Kernel {
        name: "broken-6.12",
        about: "the same image, kvm with every property of verify broken",
        class: None,
        series: V6_12,
        patch: Some(BROKEN),
        processor: None,
    },
    Kernel {
        name: "upstream-6.12",
        about: "Debian 13's kernel, kvm with the patches for Linux itself",
        class: Some("sound"),
        series: V6_12_DEBIAN_13,
        patch: Some(UPSTREAM_6_12),
        processor: None,
    },
    Kernel {
        name: "suspend-6.12",
        about: "the same image, kvm that counts the host's sleep as steal",
        class: Some("fixed"),
        series: V6_12_DEBIAN_13,
        patch: Some(SUSPEND),
        processor: None,
    },
    Kernel {
        name: "rt-6.12",
        about: "Debian 13's realtime kernel",
        class: Some("fixed"),
        series: V6_12_RT,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "stock-6.18",
        about: "a newer kernel for Debian 13",
        class: Some("fixed"),
        series: V6_18,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "stock-newest",
        about: "the newest kernel for Debian 13, or unstable's",
        class: Some("fixed"),
        series: NEWEST,
        patch: None,
        processor: None,
    },
    Kernel {
        name: "unfixed-newest",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: NEWEST,
        patch: Some(UNFIXED),
        processor: None,
    },
    Kernel {
        name: "clamped-newest",
        about: "the same image, kvm with a hand-off made sound",
        class: Some("sound"),
        series: NEWEST,
        patch: Some(CLAMPED),
        processor: None,
    },
    Kernel {
        name: "upstream-newest",
        about: "the same image, kvm with the patches for Linux itself",
        class: Some("sound"),
        series: NEWEST,
        patch: Some(UPSTREAM),
        processor: None,
    },
    Kernel {
        name: "arm64-6.1",
        about: "Debian 12's kernel for ARM, all of it at EL2",
        class: Some("fixed"),
        series: ARM64_V6_1,
        patch: None,
        processor: Some(Processor::NeoverseN1),
    },
    Kernel {
        name: "arm64-6.12",
        about: "Debian 12's newer kernel for ARM, its kvm not at EL2",
        class: Some("fixed"),
        series: ARM64_V6_12,
        patch: None,
        processor: Some(Processor::CortexA72),
    },
    Kernel {
        name: "arm64-newest",
        about: "the newest kernel for ARM, or unstable's",
        class: Some("fixed"),
        series: ARM64_NEWEST,
        patch: None,
        processor: Some(Processor::NeoverseN1),
    },
];

/// The changed kernels of a series: name and patch.
fn variants(series: Series) -> Vec<modules::Variant> {
    let of_series = KERNELS.iter().filter(|kernel| kernel.series == series);
    of_series.filter_map(|kernel| Some((kernel.name, kernel.patch?))).collect()
}

impl Kernel {
    /// Is it one that every run of the tests plays, and `lab verify` where nothing else is asked for?
    pub(crate) fn is_everyday(&self) -> bool {
        self.class.is_some() && self.series.suites == DEBIAN_12 && self.processor.is_none()
    }

    /// Does every run of the tests boot it, as Debian has it?
    pub(crate) fn is_of_every_run(&self) -> bool {
        self.patch.is_none() && [V5_10, V6_1, V6_12, NEWEST, ARM64_V6_12].contains(&self.series)
    }

    /// Its image and modules, fetched and built as needed.
    pub(crate) fn files(&self) -> Result<KernelFiles> {
        let version = self.series.newest()?;
        let stock = self.series.fetch(&version)?;
        let stock = KernelFiles { processor: self.processor.unwrap_or(stock.processor), ..stock };
        match self.patch {
            None => Ok(stock),
            Some(_) => modules::rebuilt(self.series, &version, stock, self.name, &variants(self.series)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KERNELS;

    #[test]
    fn the_labs_page_lists_every_kernel() {
        const PAGE: &str = include_str!("../../../stealtrace/docs/LAB.md");
        for kernel in KERNELS {
            assert!(PAGE.contains(&format!("\n│ {} ", kernel.name)), "{}", kernel.name);
        }
    }
}
