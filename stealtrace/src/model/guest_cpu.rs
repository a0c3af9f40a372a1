//! A CPU as the guest itself sees it.

/// One line of its /proc/stat, and what enables its steal time.
pub(crate) struct GuestCpu {
    pub(crate) id: u32,
    pub(crate) steal_ticks: u64,
    /// Or why it cannot be read.
    pub(crate) enabling: Result<u64, String>,
}
