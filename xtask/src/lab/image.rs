//! What a kernel image says of itself: the header of a bzImage (`Documentation/arch/x86/boot.rst`), or that of an arm64
//! Image (`Documentation/arch/arm64/booting.rst`), which has no version in it, but is not compressed.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::arch::Arch;

const BZIMAGE: (u64, &[u8; 4]) = (0x202, b"HdrS");
const KERNEL_VERSION: u64 = 0x20e;
const SECTOR: u64 = 0x200;
const ARM64: (u64, &[u8; 4]) = (56, b"ARM\x64");
/// Where the banner begins in a kernel that is not compressed.
const BANNER: &[u8] = b"Linux version ";

/// The processor it is for.
pub(super) fn arch(image: &Path) -> Arch {
    let is_arm = File::open(image).is_ok_and(|file| has(&file, ARM64));
    if is_arm { Arch::Aarch64 } else { Arch::X86_64 }
}

/// Can the lab boot it? Other kernels for ARM are compressed, or packed for EFI.
pub(super) fn is_known(image: &Path) -> bool {
    File::open(image).is_ok_and(|file| has(&file, ARM64) || has(&file, BZIMAGE))
}

fn has(file: &File, (at, magic): (u64, &[u8; 4])) -> bool {
    let mut found = [0; 4];
    file.read_exact_at(&mut found, at).is_ok() && found == *magic
}

/// `6.12.118+deb13-rt-amd64 (who@built.it) #1 SMP PREEMPT_RT Debian ...`
fn banner(image: &Path) -> Option<String> {
    let text = if arch(image) == Arch::Aarch64 { arm64_banner(image)? } else { bzimage_banner(image)? };
    let text = text.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn bzimage_banner(image: &Path) -> Option<Vec<u8>> {
    let file = File::open(image).ok().filter(|file| has(file, BZIMAGE))?;
    let mut offset = [0; 2];
    file.read_exact_at(&mut offset, KERNEL_VERSION).ok()?;
    let offset = u16::from_le_bytes(offset);
    if offset == 0 {
        return None; // it has none
    }
    let mut text = vec![0; BANNER_BYTES];
    file.read_exact_at(&mut text, SECTOR + u64::from(offset)).ok()?;
    Some(text)
}

/// As much as is looked at.
const BANNER_BYTES: usize = 256;

fn arm64_banner(image: &Path) -> Option<Vec<u8>> {
    let kernel = fs::read(image).ok()?;
    let at = kernel.windows(BANNER.len()).position(|window| window == BANNER)? + BANNER.len();
    Some(kernel[at..].iter().take(BANNER_BYTES).copied().collect())
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
