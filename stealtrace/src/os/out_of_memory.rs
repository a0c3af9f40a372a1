//! What happens when memory runs out: one line and exit code 2, instead of an abort with a backtrace.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{self, Write as _},
};

/// The system's allocator; what it refuses ends the process.
pub struct SaysSo;

// SAFETY: every call is handed to the system's allocator as it is, and what that returns is returned.
unsafe impl GlobalAlloc for SaysSo {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very function.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[inline]
fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        say_so(size);
    }
    memory
}

/// Without allocating, and without the locks of standard error.
#[cold]
fn say_so(size: usize) -> ! {
    let mut line = [0; 160];
    let mut rest = io::Cursor::new(&mut line[..]);
    let _fits = writeln!(
        rest,
        "stealtrace: out of memory: {size} more bytes were refused; see `ulimit -v` and the cgroup's memory.max"
    );
    let length = rest.position() as usize;
    // SAFETY: a valid buffer of that length; the process ends here, whatever its threads do.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::_exit(2)
    }
}
