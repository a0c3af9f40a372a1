//! Giving up what is no longer needed, for good or until it is needed again. Each thread has its own.

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// Of a thread that needs none. One that is refused that keeps them: it has none to lose, or may not change them.
pub(crate) fn drop_all() {
    if let Err(error) = drop_all_but(&[], &[]) {
        log::debug!("{error:#}");
    }
}

/// Keep these of the capabilities that we have, and those of `later` where [`raise`] finds them; the ones kept.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn drop_all_but(now: &[Capability], later: &[Capability]) -> Result<Vec<Capability>> {
    let held = caps::read(None, CapSet::Permitted).context("read our capabilities")?;
    let of = |wanted: &[Capability]| -> CapsHashSet {
        wanted.iter().filter(|one| held.contains(one)).copied().collect()
    };
    let (effective, later) = (of(now), of(later));
    let permitted: CapsHashSet = effective.union(&later).copied().collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).context("give up inherited capabilities")?;
    }
    caps::set(None, CapSet::Effective, &effective).context("give up capabilities")?;
    caps::set(None, CapSet::Permitted, &permitted).context("give up capabilities")?;
    let mut kept: Vec<_> = permitted.into_iter().collect();
    kept.sort_by_key(|one| one.index());
    Ok(kept)
}

/// Use those that were kept for later.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn raise() -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("read our capabilities")?;
    caps::set(None, CapSet::Effective, &permitted).context("use our capabilities")
}
