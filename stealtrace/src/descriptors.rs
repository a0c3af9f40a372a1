//! Which processes have vCPUs, by their open files in /proc. One that ends meanwhile has none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{os::process, pipeline::Filter};

/// What was found.
pub(crate) struct Descriptors {
    /// Ids of the vCPUs of each process that has any.
    pub(crate) vcpus: BTreeMap<u32, BTreeSet<String>>,
    /// How many processes do not let us look.
    pub(crate) refused: usize,
}

impl Descriptors {
    /// Has this process a vCPU of this id?
    pub(crate) fn has(&self, pid: u32, id: u32) -> bool {
        self.vcpus.get(&pid).is_some_and(|ids| ids.contains(&id.to_string()))
    }
}

/// Look at these processes, or at all.
pub(crate) fn look(pids: &[u32]) -> Descriptors {
    let pids: Vec<u32> = if pids.is_empty() { process::all().collect() } else { pids.to_vec() };
    let mut found = Descriptors { vcpus: BTreeMap::new(), refused: 0 };
    for pid in pids {
        match vcpu_ids(pid) {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => drop(found.vcpus.insert(pid, ids)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.refused += 1,
            Err(_) => {} // it has ended
        }
    }
    found
}

/// `anon_inode:kvm-vcpu:3`
fn vcpu_ids(pid: u32) -> io::Result<BTreeSet<String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(entries.filter_map(|entry| vcpu_id(&fs::read_link(entry.path()).ok()?)).collect())
}

fn vcpu_id(link: &Path) -> Option<String> {
    Some(link.to_str()?.strip_prefix("anon_inode:kvm-vcpu:")?.to_owned())
}

/// Why there is no vCPU, in words.
pub(crate) fn no_vcpu(pids: &[u32], refused: usize) -> String {
    let of_them = match pids {
        [] => "no process here has a vCPU: no VM runs".to_owned(),
        [pid] if !process::is_alive(*pid) => format!("process {pid} has ended"),
        [pid] => format!("process {pid} ({}) has no vCPU", process::comm(*pid)),
        _ => "none of the processes named has a vCPU".to_owned(),
    };
    match refused {
        0 => of_them,
        _ => format!("{of_them}, as far as can be seen; {refused} processes may not be looked at"),
    }
}

/// Why a trace saw nothing, in words.
pub(crate) fn why_nothing_was_seen(filter: &Filter) -> String {
    let found = look(&filter.pids);
    let vcpus: usize = found.vcpus.values().map(BTreeSet::len).sum();
    let narrow = filter.tid.is_some() || filter.vcpu_id.is_some() || filter.comm.is_some();
    match vcpus {
        0 => format!("no vCPU ioctl was seen; {}", no_vcpu(&filter.pids, found.refused)),
        vcpus if narrow => format!(
            "no vCPU ioctl was seen of what --tid, --vcpu and --comm leave of {vcpus} vCPUs; \
             `stealtrace inspect` shows ids and threads"
        ),
        vcpus => format!("no vCPU ioctl was seen, of {vcpus} vCPUs; is the VM paused?"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{no_vcpu, vcpu_id};

    #[test]
    fn only_vcpu_descriptors_count() {
        assert_eq!(vcpu_id(Path::new("anon_inode:kvm-vcpu:3")).as_deref(), Some("3"));
        assert_eq!(vcpu_id(Path::new("anon_inode:kvm-vm")), None);
    }

    #[test]
    fn where_one_may_not_look_it_is_said() {
        assert!(no_vcpu(&[], 0).ends_with("no VM runs"));
        assert!(no_vcpu(&[], 3).contains("3 processes may not be looked at"));
    }
}
