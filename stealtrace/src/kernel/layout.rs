//! Where this kernel keeps the fields the probes read: Layout, from BTF, by member path, sizes checked.
//! A required field that is missing is an error that names it; an optional one is ABSENT.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use btf_rs::{Backend, Btf, BtfType, Member, Type};
use stealtrace_common::{
    layout::{ABSENT, Layout},
    probe::functions,
    source::{
        Source,
        here::FIELDS,
        xen_runstate::{self, TIMES},
    },
    target::PidNamespace,
};

use super::{Era, Fentry, Symbols, kvm_is_a_module, symbols::TYPED_CURRENT};

/// BTF of the kernel image.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// BTF of kvm where it is a module.
pub const KVM_BTF: &str = "/sys/kernel/btf/kvm";

/// `struct msr_data`, the same since Linux 3.8: only kvm uses it, so that a kernel's types may lack it where kvm has none of
/// its own (before 5.11).
const MSR_DATA: MsrData = MsrData { host_initiated: 0, index: 4 };

struct MsrData {
    host_initiated: u32,
    index: u32,
}

/// Why a guest's counter is not read, where it is not.
pub const NO_AREA: &str = match Source::HERE {
    Source::X86Msr | Source::XenRunstate => {
        "this kernel does not keep the host address of a guest's steal area (Linux 5.16 and later do, and later versions \
         of 5.15 and 5.10)"
    }
    Source::Arm64Pvtime => "this kernel keeps a VM's memory in another way (Linux 5.17 and later are known)",
};

/// What the types of the running kernel say. The types themselves take megabytes, and are let go of.
pub struct KernelTypes {
    /// Which steal-time code they are of.
    pub era: Era,
    /// Do they come with the kvm that runs? Where that is a module without types, the kernel's may be another kvm's.
    pub are_of_kvm: bool,
    /// Is it known where the guest's area lies in the host's memory?
    pub shows_steal_area: bool,
    /// And where the runstate of a guest of Xen does?
    pub shows_xen: bool,
    /// kvm's functions by fentry, or why not.
    pub fentry: Result<Fentry, String>,
    /// But for the address of a function.
    layout: Result<Layout>,
}

impl KernelTypes {
    /// Read /sys/kernel/btf, for a stealtrace in this PID namespace; these functions may be probed beside our own.
    ///
    /// # Errors
    /// When the kernel carries no type information, or it cannot be parsed.
    pub fn read(namespace: PidNamespace, functions: &[String]) -> Result<Self> {
        let types = Types::read()?;
        Ok(Self {
            era: types.era(),
            are_of_kvm: Path::new(KVM_BTF).exists() || !kvm_is_a_module(),
            shows_steal_area: types.finds_area(),
            shows_xen: types.of_xen().is_ok(),
            fentry: types.fentry(functions),
            layout: types.layout(namespace),
        })
    }

    /// The layout of everything the probes read.
    ///
    /// # Errors
    /// Names the first required field this kernel lacks or keeps in another size.
    pub fn layout(&self, symbols: &Symbols) -> Result<Layout> {
        let layout = self.layout.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        let kvm_vcpu_ioctl = symbols.address("kvm_vcpu_ioctl").unwrap_or(0);
        Ok(Layout { kvm_vcpu_ioctl, current_is_typed: symbols.has(TYPED_CURRENT).into(), ..*layout })
    }
}

/// Type information of the running kernel and, where kvm is a module, of kvm.
struct Types {
    btf: Btf,
    /// Structures found so far: looking for a name passes over every type of the kernel.
    structures: RefCell<HashMap<String, Option<Type>>>,
}

impl Types {
    fn read() -> Result<Self> {
        let vmlinux = mapped(VMLINUX_BTF).with_context(|| {
            format!("read {VMLINUX_BTF} (needs a kernel built with CONFIG_DEBUG_INFO_BTF)")
        })?;
        let btf = if Path::new(KVM_BTF).exists() {
            Btf::from_split_file(KVM_BTF, &vmlinux).with_context(|| format!("read {KVM_BTF}"))?
        } else {
            vmlinux
        };
        Ok(Self { btf, structures: RefCell::default() })
    }

    fn layout(&self, namespace: PidNamespace) -> Result<Layout> {
        let [first, second] = FIELDS.steal;
        let steal = self.required("kvm_vcpu", first, 8)?;
        let max_fds = self.required("fdtable", "max_fds", 4)?;
        self.require_at("fdtable", "fd", max_fds + 8)?;
        self.require_at("kvm_vcpu", second, steal + 8)?;
        let slots = self.slots()?;
        let xen = self.of_xen().unwrap_or(Layout::UNKNOWN); // an own source's host goes without
        Ok(Layout {
            task_run_delay: self.required("task_struct", "sched_info.run_delay", 8)?,
            task_comm: self.offset("task_struct", "comm")?,
            task_thread_pid: self.required("task_struct", "thread_pid", 8)?,
            task_files: self.required("task_struct", "files", 8)?,
            files_fdt: self.required("files_struct", "fdt", 8)?,
            fdtable_max_fds: max_fds,
            file_f_op: self.required("file", "f_op", 8)?,
            file_private_data: self.required("file", "private_data", 8)?,
            fops_unlocked_ioctl: self.required("file_operations", "unlocked_ioctl", 8)?,
            vcpu_kvm: self.required("kvm_vcpu", "kvm", 8)?,
            vcpu_id: self.required("kvm_vcpu", "vcpu_id", 4)?,
            vcpu_mutex_owner: self.mutex_owner()?,
            vcpu_steal: steal,
            vcpu_cached_area: self.cached_area()?,
            msr_index: self.optional("msr_data", "index", 4)?.unwrap_or(MSR_DATA.index),
            msr_host_initiated: self
                .optional("msr_data", "host_initiated", 1)?
                .unwrap_or(MSR_DATA.host_initiated),
            vcpu_accumulated: self.accumulated()?,
            vcpu_pid: self.required("kvm_vcpu", "pid", 8)?,
            pid_tasks: self.offset("pid", "tasks")?,
            task_pid_links: self.offset("task_struct", "pid_links")?,
            pid_level: self.required("pid", "level", 4)?,
            pid_numbers: self.offset("pid", "numbers")?,
            pid_namespace_inode: self.namespace_inode(namespace)?,
            task_group_leader: self.required("task_struct", "group_leader", 8)?,
            task_start_time: self.required("task_struct", "start_time", 8)?,
            task_mm: self.required("task_struct", "mm", 8)?,
            task_signal: self.required("task_struct", "signal", 8)?,
            signal_live: self.required("signal_struct", "live", 4)?,
            kvm_mm: self.required("kvm", "mm", 8)?,
            vcpu_preempted: self.required("kvm_vcpu", "preempted", 1)?,
            vcpu_xen_times: xen.vcpu_xen_times,
            vcpu_xen_state: xen.vcpu_xen_state,
            vcpu_xen_active: xen.vcpu_xen_active,
            vcpu_xen_area: xen.vcpu_xen_area,
            kvm_xen_long_mode: xen.kvm_xen_long_mode,
            current_is_typed: 0,
            kvm_vcpu_ioctl: 0,
            ..slots
        })
    }

    /// Where a VM's memory slots are; absent before Linux 5.17, and where the guest's area is found without.
    fn slots(&self) -> Result<Layout> {
        if FIELDS.cached_area.is_some() {
            return Ok(Layout::UNKNOWN);
        }
        let Some(memslots_tree) = self.optional("kvm_memslots", "gfn_tree.rb_node", 8)? else {
            return Ok(Layout::UNKNOWN);
        };
        let slot_base = self.required("kvm_memory_slot", "base_gfn", 8)?;
        self.require_at("kvm_memory_slot", "npages", slot_base + 8)?;
        Ok(Layout {
            kvm_memslots: self.offset("kvm", "memslots")?,
            memslots_tree,
            memslots_node: self.required("kvm_memslots", "node_idx", 4)?,
            slot_nodes: self.offset("kvm_memory_slot", "gfn_node")?,
            slot_base,
            slot_address: self.required("kvm_memory_slot", "userspace_addr", 8)?,
            page_bits: page_bytes().trailing_zeros(),
            ..Layout::UNKNOWN
        })
    }

    /// Where the runstate of a guest of Xen is; absent before Linux 5.18, and where KVM knows no such guests.
    fn of_xen(&self) -> Result<Layout> {
        let [last_steal, entry, times] = TIMES;
        let [gpa, hva] = xen_runstate::CACHED_AREA;
        let first = self.required("kvm_vcpu", last_steal, 8)?;
        self.require_at("kvm_vcpu", entry, first + 8)?;
        ensure!(self.offset("kvm_vcpu", times)? == first + 16, "runstates are kept in another way");
        let area = self.required("kvm_vcpu", gpa, 8)?;
        self.require_at("kvm_vcpu", hva, area + 8)?;
        Ok(Layout {
            vcpu_xen_times: first,
            vcpu_xen_state: self.required("kvm_vcpu", xen_runstate::STATE, 4)?,
            vcpu_xen_active: self.required("kvm_vcpu", xen_runstate::ACTIVE, 1)?,
            vcpu_xen_area: area,
            kvm_xen_long_mode: self.required("kvm", xen_runstate::LONG_MODE, 1)?,
            ..Layout::UNKNOWN
        })
    }

    /// Can the guest's area be found?
    fn finds_area(&self) -> bool {
        let found = |at: Result<u32>| at.is_ok_and(|at| at != ABSENT);
        found(self.cached_area()) || found(self.slots().map(|slots| slots.kvm_memslots))
    }

    fn accumulated(&self) -> Result<u32> {
        let Some(field) = FIELDS.accumulated else { return Ok(ABSENT) };
        Ok(self.optional("kvm_vcpu", field, 8)?.unwrap_or(ABSENT))
    }

    /// kvm's functions: our own, and these.
    fn fentry(&self, more: &[String]) -> Result<Fentry, String> {
        let mut functions: Vec<&str> = functions().collect();
        functions.extend(more.iter().map(String::as_str));
        let of_kvm = self.btf.split().unwrap_or_else(|| self.btf.base());
        Fentry::find(self.btf.split().is_some(), &functions, |name| {
            let ids = of_kvm.resolve_ids_by_name(name).ok()?;
            ids.into_iter().find(|id| matches!(of_kvm.resolve_type_by_id(*id), Ok(Type::Func(_))))
        })
    }

    /// Of `vcpu->mutex`; realtime kernels have another kind inside.
    fn mutex_owner(&self) -> Result<u32> {
        let realtime = self.optional("kvm_vcpu", "mutex.rtmutex.owner", 8)?;
        realtime.map_or_else(|| self.required("kvm_vcpu", "mutex.owner", 8), Ok)
    }

    /// The offset of a member whose size does not matter.
    fn offset(&self, structure: &str, path: &str) -> Result<u32> {
        let found = self.find(structure, path)?;
        let (offset, _) = found.with_context(|| format!("this kernel has no field {structure}.{path}"))?;
        Ok(offset)
    }

    /// Where the host address of the guest's area is cached, if it is where the probes look for it.
    fn cached_area(&self) -> Result<u32> {
        let Some([gpa, hva]) = FIELDS.cached_area else { return Ok(ABSENT) };
        let gpa = self.optional("kvm_vcpu", gpa, 8)?;
        let hva = self.optional("kvm_vcpu", hva, 8)?;
        Ok(match (gpa, hva) {
            (Some(gpa), Some(hva)) if hva == gpa + 8 => gpa,
            _ => ABSENT,
        })
    }

    /// Where a PID namespace keeps its inode. Looking for it takes time, and is for those who must find their own.
    fn namespace_inode(&self, namespace: PidNamespace) -> Result<u32> {
        if namespace == PidNamespace::INITIAL {
            return Ok(ABSENT);
        }
        self.require_at("upid", "ns", 8)?;
        self.required("pid_namespace", "ns.inum", 4)
    }

    /// The probes read some neighbours at once.
    fn require_at(&self, structure: &str, path: &str, offset: u32) -> Result<()> {
        let found = self.required(structure, path, 8)?;
        ensure!(found == offset, "{structure}.{path} is at {found} on this kernel, not at {offset}");
        Ok(())
    }

    fn era(&self) -> Era {
        let fields = FIELDS;
        let has = |path| matches!(self.find("kvm_vcpu", path), Ok(Some(_)));
        if fields.accumulated.is_some_and(has) {
            Era::Accumulating
        } else if fields.steal.into_iter().all(has) {
            Era::Recording
        } else {
            Era::Unknown
        }
    }

    fn required(&self, structure: &str, path: &str, size: usize) -> Result<u32> {
        self.optional(structure, path, size)?.with_context(|| {
            format!("this kernel has no field {structure}.{path}; stealtrace cannot read it")
        })
    }

    fn optional(&self, structure: &str, path: &str, size: usize) -> Result<Option<u32>> {
        let Some((offset, member)) = self.find(structure, path)? else {
            return Ok(None);
        };
        let found = self.size(&member)?;
        if found != size {
            bail!("{structure}.{path} has {found} bytes on this kernel, not {size}");
        }
        Ok(Some(offset))
    }

    /// Byte offset and type of a member.
    fn find(&self, structure: &str, path: &str) -> Result<Option<(u32, Type)>> {
        let Some(mut current) = self.structure(structure) else {
            return Ok(None);
        };
        let mut bits = 0;
        for name in path.split('.') {
            let Some((member_bits, member)) = self.member(&current, name)? else {
                return Ok(None);
            };
            bits += member_bits;
            current = self.resolve(&member)?;
        }
        Ok(Some((bits / 8, current)))
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let find = || {
            let types = self.btf.resolve_types_by_name(name).ok()?;
            types.into_iter().find(|candidate| matches!(candidate, Type::Struct(_)))
        };
        self.structures.borrow_mut().entry(name.to_owned()).or_insert_with(find).clone()
    }

    /// A member by name, also inside anonymous members; its offset in bits.
    fn member(&self, of: &Type, name: &str) -> Result<Option<(u32, Member)>> {
        let (Type::Struct(fields) | Type::Union(fields)) = of else {
            return Ok(None);
        };
        for member in &fields.members {
            let member_name = self.btf.resolve_name(member)?;
            if member_name == name {
                return Ok(Some((member.bit_offset(), member.clone())));
            }
            if member_name.is_empty()
                && let Some((bits, found)) = self.member(&self.resolve(member)?, name)?
            {
                return Ok(Some((member.bit_offset() + bits, found)));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, of: &dyn BtfType) -> Result<Type> {
        let mut found = self.btf.resolve_chained_type(of)?;
        loop {
            found = match &found {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner)?,
                Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                    self.btf.resolve_chained_type(inner)?
                }
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner)?,
                _ => return Ok(found),
            };
        }
    }

    fn size(&self, of: &Type) -> Result<usize> {
        Ok(match of {
            Type::Int(int) => int.size(),
            Type::Ptr(_) => size_of::<u64>(),
            Type::Struct(fields) | Type::Union(fields) => fields.size(),
            other => bail!("a field of kind {} has no size we know", other.name()),
        })
    }
}

/// Bytes of a page of this kernel's.
fn page_bytes() -> libc::c_long {
    // SAFETY: a call with a constant, which every system knows.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }
}

/// Type information that is looked at where it lies: parsing all of it takes ten times the time and the memory. Files
/// in /sys can be mapped since Linux 6.16 only, so it is mapped from a copy in memory that has no name and no end but
/// ours.
fn mapped(file: &str) -> Result<Btf> {
    if let Ok(btf) = Btf::from_file_with_backend(file, Backend::Mmap) {
        return Ok(btf);
    }
    let mut original = File::open(file)?;
    // SAFETY: a call with a constant name; the descriptor it returns is ours alone.
    let fd = unsafe { libc::memfd_create(c"stealtrace-btf".as_ptr(), libc::MFD_CLOEXEC) };
    ensure!(fd >= 0, "no memory for a copy: {}", io::Error::last_os_error());
    // SAFETY: as above.
    let mut copy = unsafe { File::from_raw_fd(fd) };
    io::copy(&mut original, &mut copy)?;
    let name = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(Btf::from_file_with_backend(name, Backend::Mmap)?)
}
