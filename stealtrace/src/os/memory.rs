//! For what stays on: memory that is freed goes back to the system.

/// Give back at once what is large. The C library would otherwise keep the largest piece that was ever freed, as a page of
/// metrics is, for the next time.
pub(crate) fn give_back_large() {
    const LARGE: libc::c_int = 128 << 10; // where the C library begins
    // SAFETY: two numbers; it returns whether it knew the first.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}
