use stealtrace_common::kvm::KVM_SET_MSRS;

use super::line::{split, time};
use crate::{
    detect::{cross_thread_ioctl, foreign_steal_restore, runner_hand_off},
    evidence::{Kind, detect, testing::read},
    model::{Severity, VcpuSummary},
};

const LOG: &str = include_str!("../../../../tests/evidence/strace.txt");

#[test]
fn the_bug_report_is_ten_cross_thread_ioctls_on_each_vcpu() {
    let kept = read(Kind::Strace, LOG);
    let summary = kept.engine.summary();
    assert_eq!(summary.vcpus.len(), 2);
    for (vcpu, creator) in summary.vcpus.iter().zip([1861, 1862]) {
        assert_eq!(vcpu.creator.as_ref().map(|thread| thread.tid), Some(creator));
        let by_main: u64 =
            vcpu.ioctls.iter().filter(|(thread, _)| thread.tid == 1859).map(|(_, count)| count).sum();
        assert_eq!(by_main, 10);
    }
    assert_eq!(summary.findings[&(cross_thread_ioctl::RULE.id, Severity::Notice)], 20);
    assert_eq!(summary.findings[&(foreign_steal_restore::RULE.id, Severity::Notice)], 4);
    let possible: Vec<_> =
        kept.findings.iter().filter(|f| f.rule == foreign_steal_restore::RULE.id).collect();
    assert!(possible.iter().all(|f| f.ioctl == KVM_SET_MSRS && f.what.contains("does not show which MSRs")));
    assert_eq!(kept.not_understood, 4, "the reporter's remarks");
}

#[test]
fn pids_times_paths_and_halves_are_read() {
    let log = "\
10    12:00:00.000001 ioctl(9<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0) = 11<anon_inode:kvm-vcpu:0>
10    12:00:00.000002 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_RUN, 0 <unfinished ...>
12    12:00:00.000003 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_GET_REGS, {rax=0, rbx=1}) = 0
10    12:00:00.000004 <... ioctl resumed>) = -1 EINTR (Interrupted system call)
";
    let kept = read(Kind::Strace, log);
    assert_eq!(kept.not_understood, 0);
    assert_eq!(kept.findings.len(), 1);
    assert_eq!((kept.findings[0].rule, kept.findings[0].caller.tid), (cross_thread_ioctl::RULE.id, 12));
    assert_eq!(kept.engine.summary().vcpus[0].runner.as_ref().map(|thread| thread.tid), Some(10));
}

#[test]
fn a_descriptor_of_something_else_is_no_vcpu() {
    let kept = read(Kind::Strace, "[pid 5] ioctl(3</dev/kvm>, KVM_GET_MSRS, 0x7f) = 1\n");
    assert_eq!(kept.engine.summary().vcpus.len(), 0);
}

#[test]
fn a_closed_descriptor_is_another_vcpu_when_it_comes_again() {
    let log = "\
[pid 1] ioctl(9, KVM_CREATE_VCPU, 0) = 11
[pid 1] close(11) = 0
[pid 2] ioctl(9, KVM_CREATE_VCPU, 0) = 11
[pid 2] ioctl(11, KVM_SET_REGS, 0x1) = 0
";
    let kept = read(Kind::Strace, log);
    assert!(kept.findings.is_empty());
    assert_eq!(kept.engine.summary().vcpus.len(), 2);
}

fn seen(log: &str) -> Vec<(u32, Option<u32>, u64)> {
    let vcpus = read(Kind::Strace, log).engine.summary().vcpus;
    let runner = |vcpu: &VcpuSummary| vcpu.runner.as_ref().map(|thread| thread.tid);
    vcpus.iter().map(|vcpu| (vcpu.name.id, runner(vcpu), vcpu.ioctls.values().sum())).collect()
}

#[test]
fn requests_by_number_are_the_same_as_by_name() {
    let named = "\
10 ioctl(9, KVM_CREATE_VCPU, 0) = 11
10 ioctl(11, KVM_RUN, 0) = 0
12 ioctl(11, KVM_GET_REGS, {rax=0, rbx=1}) = 0
";
    let raw = named
        .replace("KVM_CREATE_VCPU", "0xae41")
        .replace("KVM_RUN", "0xae80")
        .replace("KVM_GET_REGS", "0x8090ae81");
    let verbose = named.replace("KVM_RUN", "0xae80 /* KVM_RUN */");
    let encoded = named.replace("KVM_RUN", "_IOC(_IOC_NONE, 0xae, 0x80, 0)");
    for log in [named, &raw, &verbose, &encoded] {
        assert_eq!(seen(log), [(0, Some(10), 2)], "{log}");
        let found = read(Kind::Strace, log).findings;
        assert_eq!(found.iter().map(|f| f.caller.tid).collect::<Vec<_>>(), [12], "{log}");
    }
}

#[test]
fn a_call_that_does_not_end_was_entered() {
    for end in ["<unfinished ...>", "<detached ...>", "<unfinished ...>) = ?"] {
        let log = format!(
            "\
10 ioctl(9, KVM_CREATE_VCPU, 0) = 11
10 ioctl(11, KVM_RUN, 0) = 0
12 ioctl(11, KVM_RUN, 0 {end}
"
        );
        assert_eq!(seen(&log), [(0, Some(12), 2)], "{log}");
        assert_eq!(read(Kind::Strace, &log).findings[0].rule, runner_hand_off::RULE.id, "{log}");
    }
}

#[test]
fn a_creation_waits_for_its_result() {
    let log = "10 ioctl(9, KVM_CREATE_VCPU, 3 <unfinished ...>\n11 getpid() = 1\n";
    assert_eq!(seen(&format!("{log}10 <... ioctl resumed>) = 11<anon_inode:kvm-vcpu:3>\n")), [(3, None, 0)]);
    assert_eq!(seen(&format!("{log}10 <... ioctl resumed>) = -1 EEXIST (File exists)\n")), []);
    assert_eq!(read(Kind::Strace, log).missed.len(), 1);
}

#[test]
fn only_what_vcpus_alone_take_tells_an_unnamed_descriptor_is_one() {
    let log = "\
openat(AT_FDCWD, \"/dev/kvm\", O_RDWR|O_CLOEXEC) = 3
ioctl(3, KVM_GET_MSRS, 0x7f) = 1
ioctl(3, KVM_GET_SUPPORTED_HV_CPUID, 0x7f) = 0
ioctl(3, KVM_CREATE_VM, 0) = 4
ioctl(4, KVM_SET_TSC_KHZ, 0x7f) = 0
ioctl(4, KVM_ENABLE_CAP, 0x7f) = 0
ioctl(4, KVM_SET_XSAVE or KVM_SIGNAL_MSI, 0x7f) = 0
ioctl(5, KVM_SET_DEVICE_ATTR, 0x7f) = 0
ioctl(6, KVM_GET_REGS, 0x7f) = -1 ENOTTY (Inappropriate ioctl for device)
ioctl(7, KVM_RUN, 0) = 0
ioctl(7, KVM_GET_MSRS, 0x7f) = 1
";
    assert_eq!(seen(log), [(7, Some(0), 2)]);
}

#[test]
fn names_of_descriptors_say_more_than_what_was_seen_of_them() {
    let log = "\
10 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0
10 ioctl(11<anon_inode:kvm-vcpu:1>, KVM_RUN, 0) = 0
10 ioctl(11<anon_inode:kvm-vm>, KVM_GET_MSRS, 0) = 0
10 ioctl(12<anon_inode:kvm-vcpu>, KVM_GET_MSRS, 0) = 0
";
    assert_eq!(seen(log), [(0, Some(10), 1), (1, Some(10), 1), (12, None, 1)]);
}

#[test]
fn what_strace_says_besides_is_known_and_what_is_cut_is_missed() {
    let known = "\
12 VCPU:0> {request_interrupt_window=0, exit_reason=2 /* KVM_EXIT_IO */, if_flag=0}
 VCPU< {request_interrupt_window=0}
 VCPU+ {exit_reason=2}
strace: Process 12 attached
12 +++ exited with 0 +++
 > /lib/libc.so.6(ioctl+0x3b) [0x1]
";
    let kept = read(Kind::Strace, known);
    assert_eq!((kept.not_understood, kept.missed.len()), (0, 0));
    for cut in ["12 ioctl(11, KVM_R", "12 ioctl(11, 0xae80, 0)", "ioctl(x, KVM_RUN, 0) = 0", "ioctl("] {
        assert_eq!(read(Kind::Strace, cut).missed.len(), 1, "{cut}");
    }
    let new = "1 ioctl(3<anon_inode:kvm-vcpu:0>, KVM_OF_TOMORROW, 0) = 0\n";
    assert_eq!(read(Kind::Strace, new).missed.len(), 1);
}

#[test]
fn vcpus_beyond_the_bound_are_missed() {
    let more = super::MOST + 10;
    let log: String = (0..more).map(|fd| format!("1 ioctl({fd}, KVM_RUN, 0) = 0\n")).collect();
    let kept = read(Kind::Strace, &log);
    assert_eq!((kept.engine.summary().events, kept.missed.len()), (super::MOST as u64, 10));
    let closed: String =
        (0..more).map(|fd| format!("1 ioctl({fd}, KVM_RUN, 0) = 0\n1 close({fd}) = 0\n")).collect();
    assert!(read(Kind::Strace, &closed).missed.is_empty());
}

#[test]
fn every_kind_of_time_is_read() {
    assert_eq!(time("12:34:56"), Some(45_296_000_000_000));
    assert_eq!(time("00:00:01.5"), Some(1_500_000_000));
    assert_eq!(time("1431642967.123456"), Some(1_431_642_967_123_456_000));
    assert_eq!(time("42"), None);
    assert_eq!(time("ioctl(3,"), None);
    assert_eq!(split("1431642967.123456 ioctl(3, KVM_RUN, 0) = 0").call, "ioctl(3, KVM_RUN, 0) = 0");
}

#[test]
fn it_is_recognised() {
    assert_eq!(detect(LOG), Some(Kind::Strace));
}
