//! What a kernel image says of itself: the header of a bzImage (`Documentation/arch/x86/boot.rst`).

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

const MAGIC: (u64, &[u8; 4]) = (0x202, b"HdrS");
const KERNEL_VERSION: u64 = 0x20e;
const SECTOR: u64 = 0x200;

/// `6.12.118+deb13-rt-amd64 (who@built.it) #1 SMP PREEMPT_RT Debian ...`
fn banner(image: &Path) -> Option<String> {
    let file = File::open(image).ok()?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, MAGIC.0).ok().filter(|()| magic == *MAGIC.1)?;
    let mut offset = [0; 2];
    file.read_exact_at(&mut offset, KERNEL_VERSION).ok()?;
    let offset = u16::from_le_bytes(offset);
    if offset == 0 {
        return None; // it has none
    }
    let mut text = [0; 256];
    file.read_exact_at(&mut text, SECTOR + u64::from(offset)).ok()?;
    let text = text.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// `uname -r`
pub(super) fn release(image: &Path) -> Option<String> {
    let is_plain = |release: &&str| release.chars().all(|c| c.is_ascii_alphanumeric() || "._+~-".contains(c));
    banner(image)?.split(' ').next().filter(is_plain).map(str::to_owned)
}

/// Is it preemptible everywhere? Its kvm wants a constant clock.
pub(super) fn is_realtime(image: &Path) -> bool {
    banner(image).is_some_and(|banner| banner.contains("PREEMPT_RT"))
}
