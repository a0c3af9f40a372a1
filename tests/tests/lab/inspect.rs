//! What inspect sees of vCPUs that run, that do nothing, and whose counter was poisoned before.

use stealtrace_tests::json_lines;

use super::{Class, Kernel, Step};

pub(crate) static STEPS: &[&Step] = &[&INSPECTED, &WITHOUT_ADDRESSES, &THROTTLED, &POISONED];

/// One vCPU that runs and two that do nothing.
const VCPUS: &str = "\
stealtrace load run --idle 2 --duration 10m > /dev/null &
vm=$!
until [ $(ls -l /proc/$vm/fd | grep -c kvm-vcpu) = 3 ]; do sleep 0.1; done
sleep 1
stealtrace inspect --wait 100ms --format json
code=$?
kill $vm
wait
exit $code";

static INSPECTED: Step = Step::every("inspected", VCPUS);

#[test]
fn inspect_finds_vcpus_that_do_nothing() {
    for step in INSPECTED.on_every() {
        assert_eq!(step.code, 0, "{}{}", step.stdout, step.stderr);
        let look = &json_lines(&step.stdout)[0];
        let vcpus = look["vcpus"].as_array().expect("a list");
        assert_eq!(vcpus.len(), 3, "{look}");
        assert_eq!(look["not_seen"].as_array().map(Vec::len), Some(0), "{look}");
        for vcpu in vcpus {
            assert_eq!(vcpu["msr_enabled"], true, "{look}");
            assert!(vcpu["runner_tid"].is_u64() && vcpu["steal_ns"].is_u64(), "{look}");
        }
    }
    for step in Class::Fixed.kernels().map(|kernel| INSPECTED.on_kernel(kernel)) {
        let look = &json_lines(&step.stdout)[0];
        let vcpus = look["vcpus"].as_array().expect("a list");
        let mut judgements: Vec<_> = vcpus.iter().map(|vcpu| &vcpu["judgement"]).collect();
        judgements.sort_by_key(|judgement| judgement.as_str());
        assert_eq!(judgements, ["cannot tell", "cannot tell", "sound"], "two do nothing: {look}");
    }
}

/// Then a vCPU's descriptor is not told from others, and vCPUs show by what they do.
const NO_ADDRESSES: &str = "\
restricted=$(cat /proc/sys/kernel/kptr_restrict)
echo 2 > /proc/sys/kernel/kptr_restrict
trap 'echo $restricted > /proc/sys/kernel/kptr_restrict' EXIT
stealtrace inspect";

static WITHOUT_ADDRESSES: Step =
    Step::made("inspected without addresses", |_: &Kernel| VCPUS.replace("stealtrace inspect", NO_ADDRESSES));

#[test]
fn inspect_says_which_vcpus_it_has_not_seen_yet() {
    for step in WITHOUT_ADDRESSES.on_every() {
        assert_eq!(step.code, 3, "{}{}", step.stdout, step.stderr);
        let look = &json_lines(&step.stdout)[0];
        assert!(look["no_iterator"].as_str().is_some_and(|why| why.contains("kptr_restrict")), "{look}");
        assert_eq!(look["not_seen"].as_array().map(Vec::len), Some(1), "{look}"); // two VMs of one process
        let [running] = &look["vcpus"].as_array().expect("a list")[..] else { panic!("{look}") };
        assert_eq!(running["runner"], "vcpu0", "{look}");
        assert!(running["steal_ns"].is_u64() && running["judgement"] != "poisoned", "{look}");
    }
}

/// A VM with a twentieth of a CPU, and one beside it without a limit.
static THROTTLED: Step = Step::once(
    "throttled",
    "\
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpu > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/tenant /sys/fs/cgroup/tenant/vm
echo '5000 100000' > /sys/fs/cgroup/tenant/cpu.max
sh -c 'echo $$ > /sys/fs/cgroup/tenant/vm/cgroup.procs; exec stealtrace load run --duration 10m' > /dev/null &
limited=$!
stealtrace load run --duration 10m > /dev/null &
free=$!
for vm in $limited $free; do until ls -l /proc/$vm/fd | grep -q kvm-vcpu; do sleep 0.1; done; done
until grep -q 'nr_throttled [1-9]' /sys/fs/cgroup/tenant/cpu.stat; do sleep 0.1; done
echo $limited $free
stealtrace inspect --wait 100ms --format json
stealtrace inspect --wait 100ms >&2
kill $limited $free
wait
rmdir /sys/fs/cgroup/tenant/vm /sys/fs/cgroup/tenant
umount /sys/fs/cgroup",
);

#[test]
fn a_quota_of_a_group_above_the_vms_own_is_told_beside_its_steal_time() {
    let step = THROTTLED.alone();
    let (pids, looks) = step.stdout.split_once('\n').expect("two processes and a look");
    let [limited, free] =
        pids.split(' ').map(|pid| pid.parse().expect("a process")).collect::<Vec<u64>>()[..]
    else {
        panic!("{pids}")
    };
    let look = &json_lines(looks)[0];
    let throttled = |pid: u64| {
        let vcpus = look["vcpus"].as_array().expect("a list");
        let vcpu = vcpus.iter().find(|vcpu| vcpu["vm_pid"] == pid).expect("its vCPU");
        (vcpu["throttled_times"].as_u64(), vcpu["throttled_ns"].as_u64())
    };
    let (times, time_ns) = throttled(limited);
    assert!(times.is_some_and(|times| times > 0) && time_ns.is_some_and(|ns| ns > 0), "{look}");
    assert!(throttled(free).0.unwrap_or(0) == 0, "{look}");
    assert_eq!(step.stderr.matches("quota").count(), 1, "{}", step.stderr);
}

/// A counter that was poisoned before: seen, and re-based on request.
static POISONED: Step = Step::every(
    "poisoned",
    "\
stealtrace load run --poison --duration 10m > /dev/null &
vm=$!
until ls -l /proc/$vm/fd | grep -q kvm-vcpu; do sleep 0.1; done
sleep 1
stealtrace inspect --wait 100ms --format json
echo before $?
stealtrace guard --yes --heal --format json > /tmp/healed 2> /tmp/started &
guard=$!
until grep -qs written /tmp/healed; do sleep 0.1; done
kill -INT $guard
wait $guard
echo guard $?
cat /tmp/healed
stealtrace inspect --wait 100ms --format json
echo after $?
kill $vm
wait",
);

#[test]
fn a_poisoned_counter_is_seen_and_healed_on_request() {
    for step in POISONED.on_every() {
        let (before, after) = step.stdout.split_once("before 1\n").expect("inspect exits with 1");
        assert!(before.contains(r#""judgement":"poisoned""#), "{}", step.stdout);
        assert!(after.contains(r#""repaired":1,"left":0,"lost":0"#), "{}{}", step.stdout, step.stderr);
        assert!(after.contains("guard 0\n") && after.contains("after 0\n"), "{}{}", step.stdout, step.stderr);
        assert!(!after.contains("poisoned"), "{}", step.stdout);
    }
}
