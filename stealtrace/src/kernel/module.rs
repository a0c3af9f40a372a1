//! kvm where it is a module: it can be unloaded, and loaded again as another.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

const FOLDER: &str = "/sys/module/kvm";
const STATE: &str = "/sys/module/kvm/initstate";

/// Tells one loading of kvm and its vendor's part from the next; None while they are not loaded whole. The same for ever
/// where kvm is built in.
#[must_use]
pub fn kvm_loading() -> Option<(u64, u64)> {
    let number = |folder: &Path| fs::metadata(folder).ok().map(|folder| folder.ino());
    if !kvm_is_a_module() {
        return number(Path::new(FOLDER)).map(|kvm| (kvm, 0));
    }
    let is_whole = fs::read_to_string(STATE).is_ok_and(|state| state.trim() == "live");
    let vendor = vendor_folder().filter(|_| is_whole)?;
    Some((number(Path::new(FOLDER))?, number(&vendor)?))
}

/// Of `kvm_intel`, `kvm_amd`, ..., if one is there.
#[must_use]
pub fn vendor_folder() -> Option<PathBuf> {
    let modules = fs::read_dir("/sys/module").ok()?;
    let mut modules = modules.filter_map(|entry| Some(entry.ok()?.path()));
    modules.find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"kvm_")))
}

/// Before Linux 5.19, whoever only reads maps needs CAP_BPF too, as distributions set it up.
#[must_use]
pub fn reading_maps_takes_bpf(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    version < (Some(5), Some(19))
}

/// Can it be unloaded?
#[must_use]
pub fn kvm_is_a_module() -> bool {
    Path::new(STATE).exists()
}

#[cfg(test)]
mod tests {
    use super::reading_maps_takes_bpf;

    #[test]
    fn older_kernels_are_known_by_their_numbers() {
        for older in ["5.8.0", "5.10.0-30-amd64", "5.15.0-91-generic", "5.18.19"] {
            assert!(reading_maps_takes_bpf(older), "{older}");
        }
        for newer in ["5.19.0", "6.1.0-56-amd64", "6.18.44", "10.0"] {
            assert!(!reading_maps_takes_bpf(newer), "{newer}");
        }
    }
}
