//! Programs that aya 0.14 does not attach: the kernel object once more, with the maps that aya made. On fentry, of which
//! aya puts none on a module's functions; on kprobes without perf, which it does not know.

use std::{
    collections::HashSet,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};
use aya::{Ebpf, maps::Map};
use aya_obj::Object;

use super::load::OBJECT;
use crate::kernel::bpf::{self, Function, On};

/// The verifier's log is longer for no program of ours.
const LOG_BYTES: usize = 1 << 24;

/// Programs to be attached.
pub(super) struct Programs {
    object: Object,
    /// Show the verifier's log?
    verbose: bool,
}

/// One that runs until it is dropped. While it does, kvm cannot be unloaded.
pub(super) struct Running {
    pub(super) name: &'static str,
    program: OwnedFd,
    _link: OwnedFd,
}

impl Running {
    /// How often it did not run when it should have.
    pub(super) fn misses(&self) -> Result<u64> {
        bpf::misses(self.program.as_fd()).with_context(|| format!("ask what {} missed", self.name))
    }
}

impl Programs {
    /// Those that go with these maps.
    pub(super) fn with_maps_of(ebpf: &Ebpf, verbose: bool) -> Result<Self> {
        let mut object = Object::parse(OBJECT).context("read the kernel side")?;
        let maps = mem::take(&mut object.maps);
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let made = ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?, maps.get(name)?)));
        object.relocate_maps(made, &sections).context("give the kernel side its maps")?;
        object.relocate_calls(&sections).context("link the kernel side")?;
        Ok(Self { object, verbose })
    }

    /// Let one run at a function's entry or exit; or what the kernel says to that.
    pub(super) fn attach(&self, name: &'static str, on: On, function: Function<'_>) -> Result<Running> {
        let program = self.load(name, on, function)?;
        let link = bpf::attach(program.as_fd()).map_err(why)?;
        Ok(Running { name, program, _link: link })
    }

    /// The same for a kprobe on the function at an address.
    pub(super) fn attach_kprobe(&self, name: &'static str, address: u64, on_return: bool) -> Result<Running> {
        let program = self.load(name, On::Kprobe, Function::default())?;
        let link = bpf::attach_kprobe(program.as_fd(), address, on_return).map_err(why)?;
        Ok(Running { name, program, _link: link })
    }

    /// Load it; where there is one that does the same with more checks, and only that is let in, that one.
    fn load(&self, name: &str, on: On, function: Function<'_>) -> Result<OwnedFd> {
        let checked = format!("{name}_checked");
        self.load_one(name, on, function).or_else(|refused| {
            let known = self.object.programs.contains_key(&checked);
            if known { self.load_one(&checked, on, function) } else { Err(refused) }
        })
    }

    fn load_one(&self, name: &str, on: On, function: Function<'_>) -> Result<OwnedFd> {
        let program = self.object.programs.get(name);
        let program = program.with_context(|| format!("the kernel side has no program {name}"))?;
        let code = &self.object.functions[&program.function_key()].instructions;
        let load = |log: &mut [u8]| bpf::load(code, on, function, log);
        let loaded = load(&mut []).inspect_err(|_| {
            if self.verbose {
                let mut log = vec![0; LOG_BYTES];
                let _the_same = load(&mut log);
                log::debug!("{}", String::from_utf8_lossy(&log).trim_end_matches('\0'));
            }
        });
        loaded.with_context(|| format!("the kernel refused program {name}"))
    }
}

/// What keeps a program that was loaded from running.
fn why(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::ResourceBusy {
        return anyhow::anyhow!("something else, like a live patch, has the function's entry");
    }
    error.into()
}

/// Of the kinds that the kernel side has.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}
