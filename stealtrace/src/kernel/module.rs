//! kvm where it is a module: it can be unloaded, and loaded again as another.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

const FOLDER: &str = "/sys/module/kvm";
const STATE: &str = "/sys/module/kvm/initstate";

/// Tells one loading of kvm from the next; None while it is not loaded whole. The same for ever where it is built in.
#[must_use]
pub fn kvm_loading() -> Option<u64> {
    let is_whole = fs::read_to_string(STATE).map_or(true, |state| state.trim() == "live");
    fs::metadata(FOLDER).ok().filter(|_| is_whole).map(|folder| folder.ino())
}

/// Can it be unloaded?
#[must_use]
pub fn kvm_is_a_module() -> bool {
    Path::new(STATE).exists()
}
