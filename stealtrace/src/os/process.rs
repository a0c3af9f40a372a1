//! Processes and threads: is one there that somebody named, and what it takes to follow our own children.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Does this process or thread run? One that waits to be reaped does not; one whose first thread alone ended does.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(&pid.to_string()).is_some_and(|(state, _)| !has_ended(state) || runs_on(pid))
}

/// Is there anything by this number, ended or not? Numbers that are none of ours are taken for it.
pub(crate) fn is_there(tid: u32) -> bool {
    tid > MOST_PIDS || Path::new(&format!("/proc/{tid}")).exists()
}

/// `PID_MAX_LIMIT`
const MOST_PIDS: u32 = 1 << 22;

const fn has_ended(state: char) -> bool {
    matches!(state, 'Z' | 'X')
}

/// Has another thread of a process whose first ended not?
fn runs_on(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = threads.filter_map(|thread| thread.file_name().into_string().ok());
    names.any(|tid| stat(&format!("{pid}/task/{tid}")).is_some_and(|(state, _)| !has_ended(state)))
}

/// State and parent of a process.
fn stat(of: &str) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Name of a thread or process.
pub(crate) fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

/// Every one of these must be a process that runs, and the thread one of theirs if any are named.
pub(crate) fn require_alive(pids: &[u32], tid: Option<u32>) -> Result<()> {
    for pid in pids {
        require_process(*pid)?;
    }
    let Some(tid) = tid else { return Ok(()) };
    let process =
        process_of(tid).with_context(|| format!("no thread {tid}; `ps -eLo pid,tid,comm` lists all"))?;
    ensure!(
        pids.is_empty() || pids.contains(&process),
        "thread {tid} is one of process {process} ({}), which --pid leaves out",
        comm(process)
    );
    Ok(())
}

fn require_process(pid: u32) -> Result<()> {
    match process_of(pid) {
        Some(process) if process == pid => Ok(()),
        Some(process) => {
            bail!("{pid} is a thread of process {process} ({}); name that one", comm(process))
        }
        None => bail!("no process {pid}; `pgrep -l qemu` lists candidates"),
    }
}

/// The process that a running thread belongs to; a process is its own first thread.
fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok().filter(|_| is_alive(tid))?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Have all of them ended, if there are any?
pub(crate) fn all_ended(pids: &[u32]) -> bool {
    !pids.is_empty() && !pids.iter().any(|pid| is_alive(*pid))
}

/// Our own children.
pub(crate) fn children() -> BTreeSet<u32> {
    if !has_children() {
        return BTreeSet::new();
    }
    let this = std::process::id();
    let is_ours = |pid: &u32| stat(&pid.to_string()).is_some_and(|(_, parent)| parent == this);
    all().filter(is_ours).collect()
}

/// Asking the kernel is cheaper than looking at every process.
fn has_children() -> bool {
    let only_look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: what is found is not asked for.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, std::ptr::null_mut(), only_look) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECHILD)
}

/// Every process there is.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whoever started us may ignore SIGCHLD: then the kernel would keep no child's end for us.
pub(crate) fn hear_of_children() {
    // SAFETY: a valid signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Whoever loses its parent below us becomes our child, so that we know when the last one has ended.
pub(crate) fn adopt_orphans() -> Result<()> {
    // SAFETY: plain system call.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        bail!("cannot follow the command's children: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// The reading and the writing end.
pub(crate) fn pipe() -> Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: a valid pointer to two ints.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        bail!("cannot make a pipe: {}", io::Error::last_os_error());
    }
    // SAFETY: pipe2 just made both and nobody else owns them.
    let [reader, writer] = fds.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::{comm, require_alive};

    /// Linux's `PID_MAX_LIMIT` is 2^22.
    const NOBODYS: u32 = (1 << 22) + 1;

    fn problem(pids: &[u32], tid: Option<u32>) -> String {
        require_alive(pids, tid).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_can_match_nothing_is_said() {
        // SAFETY: plain system call.
        let tid = unsafe { libc::gettid() }.cast_unsigned(); // tests run on threads of their own
        let pid = process::id();
        assert_eq!(problem(&[pid], Some(tid)), "");
        assert_eq!(problem(&[], Some(tid)), "");
        assert!(
            problem(&[tid], None).contains(&format!("{tid} is a thread of process {pid} ({})", comm(pid)))
        );
        assert!(problem(&[NOBODYS], None).contains("no process"));
        assert!(problem(&[], Some(NOBODYS)).contains("no thread"));
        assert!(problem(&[1], Some(tid)).contains(&format!("is one of process {pid}")));
    }
}
