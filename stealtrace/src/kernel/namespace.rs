//! Whose process numbers are ours: stealtrace's own PID namespace, and whether /proc is of the same.

use std::{fs, path::Path, process};

use anyhow::{Context as _, Result, bail, ensure};
use stealtrace_common::target::PidNamespace;

/// `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`): the initial namespace's inode since Linux 3.8.
const INITIAL_INODE: u32 = 0xefff_fffc;

/// stealtrace's own PID namespace, as far as /proc tells: the initial one, or the inode of another.
///
/// # Errors
/// When /proc is not mounted, or shows the processes of another PID namespace than ours.
pub(super) fn pid_namespace() -> Result<PidNamespace> {
    let shown = fs::read_link("/proc/self").context("no /proc here; run `mount -t proc proc /proc`")?;
    ensure!(
        shown == Path::new(&process::id().to_string()),
        "/proc shows the processes of another PID namespace than stealtrace's own; \
         run `mount -t proc proc /proc` in this one (`unshare --mount-proc` does)"
    );
    let link = fs::read_link("/proc/self/ns/pid").context("read /proc/self/ns/pid")?;
    match inode(&link.to_string_lossy()) {
        Some(INITIAL_INODE) => Ok(PidNamespace::INITIAL),
        Some(inode) => Ok(PidNamespace { inode, ..PidNamespace::INITIAL }),
        None => bail!("/proc/self/ns/pid is {}, not pid:[NUMBER]", link.display()),
    }
}

/// `pid:[4026531836]`
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{INITIAL_INODE, inode};

    #[test]
    fn the_inode_is_between_the_brackets() {
        assert_eq!(inode("pid:[4026531836]"), Some(INITIAL_INODE));
        assert_eq!(inode("pid:[]"), None);
        assert_eq!(inode("mnt:[4026531836]"), None);
    }
}
