//! What /proc tells of a VM's process. A process that ends meanwhile is one that is not there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

use stealtrace_common::source::{Area, Source, here};

/// The memory of one process after the other: whoever reads several areas of one opens it once.
#[derive(Default)]
pub(super) struct Memory(Option<(u32, File)>);

impl Memory {
    /// The guest's area, from the memory of the VM's process; by its runner, since a process whose first thread ended has
    /// none by that one's number.
    pub(super) fn read_area(
        &mut self,
        pid: u32,
        runner: Option<u32>,
        address: u64,
        source: Source,
    ) -> io::Result<Area> {
        let mut bytes = [0; here::BYTES];
        let mut read = |id: u32| self.of(id)?.read_exact_at(&mut bytes, address);
        read(pid).or_else(|error| runner.map_or(Err(error), read))?;
        Ok(source.read(&bytes))
    }

    fn of(&mut self, id: u32) -> io::Result<&File> {
        let opened = match self.0.take() {
            Some((known, file)) if known == id => file,
            _ => File::open(format!("/proc/{id}/mem"))?,
        };
        Ok(&self.0.insert((id, opened)).1)
    }
}

/// Why the memory of a VM's process may not be read; None if there is another reason why it cannot.
pub(super) fn refusal(pid: u32, error: &io::Error) -> Option<String> {
    (error.kind() == io::ErrorKind::PermissionDenied).then(|| {
        format!(
            "the memory of process {pid} may not be read ({error}): another user's needs CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH; run as root"
        )
    })
}

/// What the scheduler says that a thread waited: libvirt's `vcpu.N.delay`.
pub(super) fn run_delay_ns(tid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What the VM is called on its command line.
pub(super) fn name(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    name_in(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

/// QEMU's `-name NAME,…` or `-name …,guest=NAME,…`, Firecracker's `--id NAME` or `--id=NAME`.
fn name_in(words: &[&str]) -> Option<String> {
    let after = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
    if let Some(value) = after("-name").or_else(|| after("--name")) {
        let mut parts = value.split(',');
        let named = parts.clone().find_map(|part| part.strip_prefix("guest="));
        return named.or_else(|| parts.next().filter(|first| !first.contains('='))).map(str::to_owned);
    }
    let joined = || words.iter().find_map(|word| word.strip_prefix("--id="));
    after("--id").copied().or_else(joined).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::name_in;

    #[test]
    fn names_are_found_on_command_lines() {
        assert_eq!(name_in(&["qemu", "-name", "guest=web1,debug-threads=on"]).as_deref(), Some("web1"));
        assert_eq!(name_in(&["qemu", "-name", "web1"]).as_deref(), Some("web1"));
        assert_eq!(name_in(&["qemu", "-name", "debug-threads=on,guest=web1"]).as_deref(), Some("web1"));
        assert_eq!(name_in(&["firecracker", "--id", "fc-7"]).as_deref(), Some("fc-7"));
        assert_eq!(name_in(&["firecracker", "--id=fc-7"]).as_deref(), Some("fc-7"));
        for nameless in [&["qemu", "-name"][..], &["qemu", "-name", "debug-threads=on"], &["vmm"]] {
            assert_eq!(name_in(nameless), None);
        }
    }
}
