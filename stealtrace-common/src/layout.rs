//! Layout: where the running kernel keeps the fields the probes read.
//! Resolved from BTF in user space and handed to the kernel once; never guessed.

/// Byte offset of a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets inside kernel structures; names are `<structure>_<member path>`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `task_struct.sched_info.run_delay` (u64, ns)
    pub task_run_delay: u32,
    /// `task_struct.comm` (16 bytes)
    pub task_comm: u32,
    /// `task_struct.thread_pid` (pointer to `struct pid`)
    pub task_thread_pid: u32,
    /// `task_struct.files` (pointer)
    pub task_files: u32,
    /// `files_struct.fdt` (pointer)
    pub files_fdt: u32,
    /// `fdtable.max_fds` (u32), 8 bytes before `fdtable.fd` (pointer to array of `file *`)
    pub fdtable_max_fds: u32,
    /// `file.f_op` (pointer)
    pub file_f_op: u32,
    /// `file.private_data` (pointer)
    pub file_private_data: u32,
    /// `file_operations.unlocked_ioctl` (pointer)
    pub fops_unlocked_ioctl: u32,
    /// `kvm_vcpu.kvm` (pointer)
    pub vcpu_kvm: u32,
    /// `kvm_vcpu.vcpu_id` (i32)
    pub vcpu_id: u32,
    /// `kvm_vcpu.mutex.owner` (word: task pointer and 3 flag bits)
    pub vcpu_mutex_owner: u32,
    /// What enables the source, and `last_steal` (u64, ns), in `kvm_vcpu`: one of the two (u64), followed by the other; see
    /// [`crate::source`]
    pub vcpu_steal: u32,
    /// Guest address of the area in `kvm_vcpu` (u64), followed by its host address; [`ABSENT`] before 5.16 and its
    /// backports, and where the source keeps none
    pub vcpu_cached_area: u32,
    /// `msr_data.index` (u32)
    pub msr_index: u32,
    /// `msr_data.host_initiated` (bool)
    pub msr_host_initiated: u32,
    /// A delta that waits for guest entry, in `kvm_vcpu` (u64, ns); [`ABSENT`] except on Linux 3.1 to 4.5
    pub vcpu_accumulated: u32,
    /// `kvm_vcpu.pid` (pointer), who issued KVM_RUN last
    pub vcpu_pid: u32,
    /// `pid.tasks` (array of `struct hlist_head`): the thread with this number, first
    pub pid_tasks: u32,
    /// `task_struct.pid_links` (array of `struct hlist_node`), into which that points
    pub task_pid_links: u32,
    /// `pid.level` (u32): how deep its PID namespace lies, 0 for the initial one
    pub pid_level: u32,
    /// `pid.numbers` (array of `struct upid`: `nr` (i32), then at 8 `ns` (pointer)), one for each level from 0 on
    pub pid_numbers: u32,
    /// `pid_namespace.ns.inum` (u32); [`ABSENT`] where stealtrace is in the initial PID namespace
    pub pid_namespace_inode: u32,
    /// `task_struct.group_leader` (pointer)
    pub task_group_leader: u32,
    /// `task_struct.start_time` (u64, ns of CLOCK_MONOTONIC)
    pub task_start_time: u32,
    /// `task_struct.mm` (pointer)
    pub task_mm: u32,
    /// `task_struct.signal` (pointer)
    pub task_signal: u32,
    /// `signal_struct.live` (i32): threads of the process that have not ended
    pub signal_live: u32,
    /// `kvm.mm` (pointer): whose ioctls KVM obeys
    pub kvm_mm: u32,
    /// `kvm.memslots` (array of pointers); [`ABSENT`] before 5.17, and where the source does without
    pub kvm_memslots: u32,
    /// `kvm_memslots.gfn_tree.rb_node` (pointer into a slot)
    pub memslots_tree: u32,
    /// `kvm_memslots.node_idx` (i32): which of its slots' nodes are of this tree
    pub memslots_node: u32,
    /// `kvm_memory_slot.gfn_node` (array of `struct rb_node`)
    pub slot_nodes: u32,
    /// `kvm_memory_slot.base_gfn` (u64), followed by `npages` (u64)
    pub slot_base: u32,
    /// `kvm_memory_slot.userspace_addr` (u64)
    pub slot_address: u32,
    /// Bits of an address within a page.
    pub page_bits: u32,
    /// `kvm_vcpu.preempted` (bool): was its thread scheduled out against its will?
    pub vcpu_preempted: u32,
    /// `kvm_vcpu.arch.xen.last_steal` (u64, ns), followed by the time of entry into the runstate (u64, ns) and its four times
    /// (u64, ns); [`ABSENT`], like the four that follow, where the kernel knows no guests of Xen, or keeps it in another way
    pub vcpu_xen_times: u32,
    /// `kvm_vcpu.arch.xen.current_runstate` (i32)
    pub vcpu_xen_state: u32,
    /// `kvm_vcpu.arch.xen.runstate_cache.active` (bool)
    pub vcpu_xen_active: u32,
    /// `kvm_vcpu.arch.xen.runstate_cache.gpa` (u64), followed by the host address of its page, or of itself
    pub vcpu_xen_area: u32,
    /// `kvm.arch.xen.long_mode` (bool)
    pub kvm_xen_long_mode: u32,
    /// 1 if the kernel says of which type `current` is (Linux 5.11), so that its fields need no checked read.
    pub current_is_typed: u32,
    /// Address of `kvm_vcpu_ioctl`, by which the tracepoint backend knows a vCPU's descriptor; 0 if unknown.
    pub kvm_vcpu_ioctl: u64,
}

impl Layout {
    /// A layout in which every field is absent: what the kernel object holds before it is told.
    pub const UNKNOWN: Self = Self {
        task_run_delay: ABSENT,
        task_comm: ABSENT,
        task_thread_pid: ABSENT,
        task_files: ABSENT,
        files_fdt: ABSENT,
        fdtable_max_fds: ABSENT,
        file_f_op: ABSENT,
        file_private_data: ABSENT,
        fops_unlocked_ioctl: ABSENT,
        vcpu_kvm: ABSENT,
        vcpu_id: ABSENT,
        vcpu_mutex_owner: ABSENT,
        vcpu_steal: ABSENT,
        vcpu_cached_area: ABSENT,
        msr_index: ABSENT,
        msr_host_initiated: ABSENT,
        vcpu_accumulated: ABSENT,
        vcpu_pid: ABSENT,
        pid_tasks: ABSENT,
        task_pid_links: ABSENT,
        pid_level: ABSENT,
        pid_numbers: ABSENT,
        pid_namespace_inode: ABSENT,
        task_group_leader: ABSENT,
        task_start_time: ABSENT,
        task_mm: ABSENT,
        task_signal: ABSENT,
        signal_live: ABSENT,
        kvm_mm: ABSENT,
        kvm_memslots: ABSENT,
        memslots_tree: ABSENT,
        memslots_node: ABSENT,
        slot_nodes: ABSENT,
        slot_base: ABSENT,
        slot_address: ABSENT,
        page_bits: 0,
        vcpu_preempted: ABSENT,
        vcpu_xen_times: ABSENT,
        vcpu_xen_state: ABSENT,
        vcpu_xen_active: ABSENT,
        vcpu_xen_area: ABSENT,
        kvm_xen_long_mode: ABSENT,
        current_is_typed: 0,
        kvm_vcpu_ioctl: 0,
    };
}

const _: () = assert!(size_of::<Layout>() == 43 * 4 + 8 + 4);
