//! The kernels of the lab. To add one: a row.

use anyhow::Result;

use super::{modules, package};

/// One kernel of the lab.
pub(crate) struct Kernel {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) about: &'static str,
    /// What `stealtrace verify` must find it to be; None if it must find nothing good in it.
    pub(crate) class: Option<&'static str>,
    /// Debian's kernel series.
    pub(crate) series: &'static str,
    /// A change to its kvm modules.
    pub(crate) patch: Option<&'static str>,
}

/// Linux 3.1 to 4.3's steal-time logic put back into a present-day kvm.
const UNFIXED: &str = include_str!("patches/unfixed.patch");

/// A kvm whose hand-off is sound.
const CLAMPED: &str = include_str!("patches/clamped.patch");

/// A kvm that does everything wrong.
const BROKEN: &str = include_str!("patches/broken.patch");

/// Every kernel.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "stock-6.1",
        about: "Debian 12's kernel",
        class: Some("fixed"),
        series: "6.1",
        patch: None,
    },
    Kernel {
        name: "unfixed-6.1",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: "6.1",
        patch: Some(UNFIXED),
    },
    Kernel {
        name: "stock-6.12",
        about: "Debian 12's newer kernel",
        class: Some("fixed"),
        series: "6.12",
        patch: None,
    },
    Kernel {
        name: "unfixed-6.12",
        about: "the same image, kvm with the bug of 2015 put back",
        class: Some("affected"),
        series: "6.12",
        patch: Some(UNFIXED),
    },
    Kernel {
        name: "clamped-6.12",
        about: "the same image, kvm with a hand-off made sound",
        class: Some("sound"),
        series: "6.12",
        patch: Some(CLAMPED),
    },
    Kernel {
        name: "broken-6.12",
        about: "the same image, kvm with every property of verify broken",
        class: None,
        series: "6.12",
        patch: Some(BROKEN),
    },
];

/// The changed kernels of a series: name and patch.
fn variants(series: &str) -> Vec<modules::Variant> {
    let of_series = KERNELS.iter().filter(|kernel| kernel.series == series);
    of_series.filter_map(|kernel| Some((kernel.name, kernel.patch?))).collect()
}

impl Kernel {
    /// Its image and modules, fetched and built as needed.
    pub(crate) fn files(&self) -> Result<package::KernelFiles> {
        let version = package::newest(self.series)?;
        let stock = package::fetch(&version)?;
        match self.patch {
            None => Ok(stock),
            Some(_) => modules::rebuilt(&version, stock, self.name, &variants(self.series)),
        }
    }
}
