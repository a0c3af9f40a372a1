//! What cannot be done here is said in one line. These steps come last: they take kvm away, and end in a lockdown that
//! lasts until the next boot.

use super::{Class, Step};
use serde_json::Value;
use stealtrace_tests::json_lines;

pub(crate) static STEPS: &[&Step] = &[
    &DOCTOR,
    &NO_COMMAND,
    &NO_BTF,
    &NO_FUNCTION,
    &INLINED,
    &NO_KVM,
    &NO_KVM_VERIFY,
    &NO_KVM_DOCTOR,
    &LOCKED_DOWN,
    &CONFIDENTIAL,
];

static DOCTOR: Step = Step::every("doctor", "stealtrace doctor --format json");

#[test]
fn doctor_tells_the_eras_and_the_update_probe_apart() {
    for (kernel, step) in DOCTOR.runs() {
        let (looks_like, update) = match kernel.class {
            Class::Affected => ("3.1 to 4.5", "usable at accumulate_steal_time"),
            Class::Fixed => ("4.6 or later", "usable at record_steal_time"),
        };
        assert_eq!(step.code, 0, "{}", step.stdout);
        let object = &json_lines(&step.stdout)[0];
        assert_eq!(object["backend"], "fentry backend");
        assert!(step.stdout.contains(looks_like), "{}", step.stdout);
        assert!(step.stdout.contains(update), "{}", step.stdout);
        let guard = object["checks"].as_array().and_then(|all| all.iter().find(|one| one["item"] == "guard"));
        assert_eq!(guard.map(|guard| &guard["found"]), Some(&Value::from("can run")), "{}", step.stdout);
    }
}

static NO_COMMAND: Step = Step::once("no command", "stealtrace trace -- /no/such/command");

static NO_BTF: Step = Step::once(
    "no type information",
    "\
mount -t tmpfs none /sys/kernel/btf
stealtrace trace
code=$?
umount /sys/kernel/btf
exit $code",
);

/// As on a kernel that inlined kvm_arch_vcpu_put.
static NO_FUNCTION: Step = Step::once(
    "no function",
    "\
grep -v kvm_arch_vcpu_put /proc/kallsyms > /tmp/kallsyms
mount -o bind /tmp/kallsyms /proc/kallsyms
stealtrace trace --backend kprobe
code=$?
umount /proc/kallsyms
exit $code",
);

/// As on a kernel that inlined record_steal_time.
static INLINED: Step = Step::once(
    "guard, inlined",
    "\
grep -v record_steal_time /proc/kallsyms > /tmp/kallsyms
mount -o bind /tmp/kallsyms /proc/kallsyms
stealtrace guard --yes
code=$?
umount /proc/kallsyms
exit $code",
);

static NO_KVM: Step = Step::once("no kvm", "rmmod kvm_amd kvm; stealtrace trace");

static NO_KVM_VERIFY: Step = Step::once("no kvm, verify", "stealtrace verify");

static NO_KVM_DOCTOR: Step = Step::once("doctor without kvm", "stealtrace doctor");

/// The last steps: lockdown lasts until the next boot.
static LOCKED_DOWN: Step = Step::once(
    "guard, locked down",
    "\
insmod /modules/kvm.ko
insmod /modules/kvm-amd.ko
echo integrity > /sys/kernel/security/lockdown
stealtrace guard --yes",
);

static CONFIDENTIAL: Step = Step::once(
    "confidential",
    "\
echo confidentiality > /sys/kernel/security/lockdown
stealtrace trace",
);

#[test]
fn what_cannot_be_traced_says_why_in_one_line() {
    for (step, says) in [
        (&NO_COMMAND, "cannot run /no/such/command"),
        (&NO_BTF, "CONFIG_DEBUG_INFO_BTF"),
        (&NO_FUNCTION, "no function kvm_arch_vcpu_put in this kernel"),
        (&INLINED, "no function record_steal_time"),
        (&NO_KVM, "modprobe kvm_amd"),
        (&NO_KVM_VERIFY, "/dev/kvm"),
        (&LOCKED_DOWN, "integrity"),
        (&CONFIDENTIAL, "lockdown"),
    ] {
        let (name, step) = (step.name, step.alone());
        assert_eq!(step.code, 2, "{name}: {}", step.stderr);
        assert!(step.stderr.contains(says), "{name}: {}", step.stderr);
        assert_eq!(
            step.stderr.lines().filter(|line| line.contains("stealtrace:")).count(),
            1,
            "{}",
            step.stderr
        );
    }
    assert_eq!(NO_KVM_DOCTOR.alone().code, 2);
}
