//! KVM's own statistics of a vCPU, by name (`Documentation/virt/kvm/api.rst`, KVM_GET_STATS_FD, Linux 5.14).

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd as _},
        unix::fs::FileExt as _,
    },
};

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// More than any kernel has.
const MOST: u32 = 4096;
/// `struct kvm_stats_desc` before its name.
const DESCRIPTOR: usize = 16;

/// One of a vCPU's statistics; None if this kernel does not keep it.
pub(super) fn stat(vcpu: &impl AsRawFd, name: &str) -> Option<u64> {
    // SAFETY: an ioctl without argument on a descriptor that we own.
    let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
    if fd < 0 {
        return None;
    }
    // SAFETY: KVM has just made this descriptor for us.
    find(&unsafe { File::from_raw_fd(fd) }, name)
}

/// `struct kvm_stats_header`: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
fn find(file: &File, name: &str) -> Option<u64> {
    let [_, name_size, count, _, descriptors, data] = words::<6>(file, 0)?;
    let size = DESCRIPTOR + usize::try_from(name_size).ok()?.min(256);
    for i in 0..u64::from(count.min(MOST)) {
        let mut descriptor = vec![0; size];
        file.read_exact_at(&mut descriptor, u64::from(descriptors) + i * size as u64).ok()?;
        if descriptor[DESCRIPTOR..].split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
            let offset = u32::from_ne_bytes(descriptor[8..12].try_into().ok()?);
            let mut value = [0; 8];
            file.read_exact_at(&mut value, u64::from(data) + u64::from(offset)).ok()?;
            return Some(u64::from_ne_bytes(value));
        }
    }
    None
}

fn words<const N: usize>(file: &File, at: u64) -> Option<[u32; N]> {
    let mut words = [0; N];
    for (at, word) in (at..).step_by(4).zip(&mut words) {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).ok()?;
        *word = u32::from_ne_bytes(bytes);
    }
    Some(words)
}
