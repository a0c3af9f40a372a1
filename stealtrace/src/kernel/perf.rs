//! May this process use perf events, by which kprobes and tracepoints of single system calls are attached? Found out by
//! trying: distributions have rules of their own.

use std::{
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// Some distributions let nobody else than CAP_SYS_ADMIN have perf events, as long as this is above 2.
#[must_use]
pub fn perf_takes_sys_admin() -> bool {
    paranoid().parse::<i32>().is_ok_and(|paranoid| paranoid > 2)
}

/// Empty if it is not known.
fn paranoid() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    text.trim().to_owned()
}

/// Make a perf event that counts nothing, and drop it: of a CPU, as those are that we use. For the first event of a thread
/// the kernel changes its own code, which takes it 20 ms.
///
/// # Errors
/// Why the kernel refuses.
pub(super) fn try_perf() -> Result<(), String> {
    const SOFTWARE: u64 = 1;
    const SIZE: u64 = 64; // PERF_ATTR_SIZE_VER0
    const DUMMY: u64 = 9;
    const DISABLED_AND_NOT_OF_THE_KERNEL: u64 = 1 | 1 << 5;
    const CLOSE_ON_EXEC: u64 = 8;
    let attributes = [SOFTWARE | SIZE << 32, DUMMY, 0, 0, 0, DISABLED_AND_NOT_OF_THE_KERNEL, 0, 0];
    // SAFETY: attributes of the size that they say; of any thread, on the first CPU, in no group.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, 0, -1, CLOSE_ON_EXEC) };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the kernel just made it and nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
        _ => refusal(&io::Error::last_os_error()),
    }
}

/// Other errors are not a refusal, and show where the events are used.
fn refusal(error: &io::Error) -> Result<(), String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Ok(());
    }
    Err(format!(
        "the kernel refuses perf events, which kprobes need: run with CAP_SYS_ADMIN, or with \
         kernel.perf_event_paranoid at 2 (it is {})",
        paranoid()
    ))
}
