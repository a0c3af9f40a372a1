//! bpf(2), for what aya does not do: programs on the functions of a module, and kprobes without perf.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy)]
enum Command {
    MapLookupElem = 1,
    ProgLoad = 5,
    ObjGetInfoByFd = 15,
    RawTracepointOpen = 17,
    BtfGetFdById = 19,
    BtfGetNextId = 23,
    LinkCreate = 28,
}

/// When a program on a function runs, and by what: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// `BPF_TRACE_FENTRY`
    Entry = 24,
    /// `BPF_TRACE_FEXIT`
    Exit = 25,
    /// `BPF_TRACE_KPROBE_MULTI`: of many functions, though here of one, and told which when it is attached.
    Kprobe = 42,
}

impl On {
    /// `BPF_PROG_TYPE_KPROBE`, or `BPF_PROG_TYPE_TRACING`.
    const fn program_type(self) -> u32 {
        match self {
            Self::Kprobe => 2,
            Self::Entry | Self::Exit => 26,
        }
    }
}

/// A function by the number of its type.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function<'a> {
    /// Types that this is of; None for the kernel's own.
    pub(crate) module: Option<BorrowedFd<'a>>,
    pub(crate) id: u32,
}

/// `union bpf_attr` of BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    core_relo_cnt: u32,
}

/// Of BPF_MAP_LOOKUP_ELEM.
#[repr(C)]
#[derive(Default)]
struct MapElem {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Of BPF_RAW_TRACEPOINT_OPEN.
#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

/// Of BPF_LINK_CREATE, for kprobes.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    kprobe_flags: u32,
    cnt: u32,
    syms: u64,
    addrs: u64,
    cookies: u64,
}

/// Of BPF_BTF_GET_NEXT_ID and BPF_BTF_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct Id {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Of BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
#[derive(Default)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_btf_info`, with a name since Linux 5.11.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// Read a large element of an array. The values must be as many as it has.
pub(crate) fn look_up<T>(map: BorrowedFd<'_>, key: u32, values: &mut [T]) -> io::Result<()> {
    let mut attributes = MapElem {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: &raw const key as u64,
        value: values.as_mut_ptr() as u64,
        ..MapElem::default()
    };
    bpf(Command::MapLookupElem, &mut attributes).map(drop)
}

/// Load a program on a function. The verifier's log goes to `log`, if it is not empty.
pub(crate) fn load<Instruction>(
    instructions: &[Instruction],
    on: On,
    function: Function<'_>,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    const { assert!(size_of::<Instruction>() == 8) };
    const LICENSE: &CStr = c"Dual MIT/GPL";
    let mut attributes = ProgLoad {
        prog_type: on.program_type(),
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        prog_name: *b"stealtrace\0\0\0\0\0\0",
        expected_attach_type: on as u32,
        attach_btf_id: function.id,
        attach_btf_obj_fd: function.module.map_or(0, |module| module.as_raw_fd().cast_unsigned()),
        ..ProgLoad::default()
    };
    descriptor(Command::ProgLoad, &mut attributes)
}

/// Let it run, as long as the descriptor is open.
pub(crate) fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let prog_fd = program.as_raw_fd().cast_unsigned();
    descriptor(Command::RawTracepointOpen, &mut RawTracepointOpen { prog_fd, ..RawTracepointOpen::default() })
}

/// The same for a kprobe, at the function's address. It takes no perf event (Linux 5.18, `CONFIG_FPROBE`).
pub(crate) fn attach_kprobe(program: BorrowedFd<'_>, address: u64, on_return: bool) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: On::Kprobe as u32,
        kprobe_flags: u32::from(on_return), // BPF_F_KPROBE_MULTI_RETURN
        cnt: 1,
        addrs: &raw const address as u64,
        ..LinkCreate::default()
    };
    descriptor(Command::LinkCreate, &mut attributes)
}

/// The types of a module.
pub(crate) fn types_of(module: &str) -> io::Result<OwnedFd> {
    let mut at = Id::default();
    loop {
        bpf(Command::BtfGetNextId, &mut at)?;
        at.id = at.next_id;
        let mut id = Id { id: at.id, ..Id::default() };
        match descriptor(Command::BtfGetFdById, &mut id) {
            Ok(types) if is_of(&types, module)? => return Ok(types),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone by now
            Err(error) => return Err(error),
        }
    }
}

/// How often a program was not run, since on that CPU it was running already: a thread was preempted in it.
pub(crate) fn misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    const RECURSION_MISSES: usize = 208 / 8; // in struct bpf_prog_info, since Linux 5.12
    let mut info = [0_u64; RECURSION_MISSES + 1];
    ask(program, &mut info)?;
    Ok(info[RECURSION_MISSES])
}

fn is_of(types: &OwnedFd, module: &str) -> io::Result<bool> {
    let mut name = [0; 64];
    let mut info = BtfInfo { name: name.as_mut_ptr() as u64, name_len: 64, ..BtfInfo::default() };
    ask(types.as_fd(), &mut info)?;
    Ok(info.kernel_btf != 0
        && CStr::from_bytes_until_nul(&name).is_ok_and(|name| name.to_bytes() == module.as_bytes()))
}

/// What the kernel says of something.
fn ask<T>(of: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attributes = Info {
        bpf_fd: of.as_raw_fd().cast_unsigned(),
        info_len: size_of::<T>() as u32,
        info: &raw mut *info as u64,
    };
    bpf(Command::ObjGetInfoByFd, &mut attributes).map(drop)
}

fn descriptor<T>(command: Command, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel just made it and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: attributes of the size that is said; what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i32, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
