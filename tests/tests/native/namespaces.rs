//! PID namespaces, as containers have them: seen from inside and from outside.

use std::{
    fs,
    process::{Command, Stdio},
};

use stealtrace_tests::{findings, json_lines, run, stealtrace, summary};

use super::{a_second_thread, child_of, scratch, three_vcpus};

/// The binary in a PID namespace of its own, as in a container.
fn contained() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(stealtrace().get_program());
    command
}

#[test]
fn in_a_pid_namespace_both_witnesses_agree() {
    let scenarios = ["same-thread", "restore-by-main-thread", "run-hand-off-*"];
    let result = run(contained().args(["verify", "--format", "json"]).args(scenarios));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    let agree: Vec<_> = lines.iter().filter_map(|line| line["witnesses_agree"].as_bool()).collect();
    assert_eq!(agree, [true; 5], "{}", result.stdout);
}

#[test]
fn in_a_pid_namespace_a_commands_threads_have_the_numbers_they_have_there() {
    let quiet = format!(
        "echo $$; {} verify --no-trace run-hand-off-down > /dev/null",
        stealtrace().get_program().display()
    );
    let result = run(contained().args(["trace", "--format", "json", "--", "sh", "-c", &quiet]));
    assert_eq!(result.code, 1, "{}{}", result.stdout, result.stderr);
    let (numbers, trace): (Vec<_>, Vec<_>) =
        result.stdout.lines().partition(|line| line.parse::<u64>().is_ok()); // either may come first
    let shell: u64 = numbers.concat().parse().expect("the shell's");
    let lines = json_lines(&trace.join("\n"));
    let runs = lines.iter().filter(|line| line["type"] == "ioctl");
    let callers: Vec<_> = runs.filter_map(|line| line["caller_tgid"].as_u64()).collect();
    assert!(
        !callers.is_empty() && callers.iter().all(|tgid| (shell..shell + 20).contains(tgid)),
        "{callers:?}"
    );
    assert_eq!(findings(&lines)["steal-underflow"], "error");
}

#[test]
fn in_a_pid_namespace_inspect_and_filters_know_its_numbers() {
    let binary = stealtrace().get_program().display().to_string();
    let file = scratch("look");
    let look_file = file.display();
    let look = format!(
        "{binary} load run --duration 10m > /dev/null & vm=$!
         until ls -l /proc/$vm/fd | grep -q kvm-vcpu; do :; done
         until {binary} inspect --format json --pid $vm > {look_file} && grep -q sound {look_file}; do :; done
         cat {look_file}
         {binary} trace --format json --findings-only --pid $vm --duration 2s
         kill $vm"
    );
    let result = run(Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "sh", "-c", &look]));
    fs::remove_file(file).expect("removed");
    let lines = json_lines(&result.stdout);
    let [vcpu] = lines[0]["vcpus"].as_array().expect("a list").as_slice() else { panic!("{}", lines[0]) };
    assert_eq!((&vcpu["judgement"], &vcpu["vm_comm"]), (&"sound".into(), &"stealtrace".into()));
    assert_eq!(vcpu["runner"], "vcpu0");
    let seen = &summary(&lines)["vcpus"][0];
    assert_eq!(
        (&seen["vm_pid"], &seen["runner_tid"]),
        (&vcpu["vm_pid"], &vcpu["runner_tid"]),
        "{}",
        result.stdout
    );
}

#[test]
fn threads_of_a_pid_namespace_are_seen_from_outside_by_their_outer_numbers() {
    let mut vm = contained();
    let mut vm =
        vm.args(["load", "run", "--duration", "10m"]).stdout(Stdio::null()).spawn().expect("unshare");
    let inner = child_of(vm.id());
    let _runs = a_second_thread(inner);
    let traced = ["trace", "--format", "json", "--findings-only", "--duration", "2s", "--pid"];
    let result = run(stealtrace().args(traced).arg(inner.to_string()));
    // SAFETY: a process that we started and whose parent, unshare, waits for it.
    unsafe { libc::kill(inner.cast_signed(), libc::SIGKILL) };
    vm.wait().expect("it ends");
    let lines = json_lines(&result.stdout);
    assert_eq!(summary(&lines)["vcpus"][0]["vm_pid"], inner, "{}{}", result.stdout, result.stderr);
}

#[test]
fn threads_outside_of_ones_pid_namespace_are_marked() {
    const OUTSIDE: u32 = 1 << 31;
    let vm = three_vcpus();
    let result = run(contained().args(["trace", "--format", "json", "--findings-only", "--duration", "2s"]));
    let pid = vm.id();
    drop(vm);
    let lines = json_lines(&result.stdout);
    let vcpus = summary(&lines)["vcpus"].as_array().expect("a list");
    assert!(vcpus.iter().any(|vcpu| vcpu["vm_pid"] == (OUTSIDE | pid)), "{}", result.stdout);
}

#[test]
fn a_proc_of_another_pid_namespace_is_exit_2() {
    for command in ["trace", "inspect", "doctor"] {
        let binary = stealtrace().get_program().to_owned();
        let result = run(Command::new("unshare").args(["--pid", "--fork"]).arg(&binary).arg(command));
        assert_eq!(result.code, 2, "{command}: {}{}", result.stdout, result.stderr);
        assert!((result.stdout + &result.stderr).contains("mount -t proc"), "{command}");
    }
}

/// A root with nothing but the binary, as in the container image, with what its documentation mounts there.
const IMAGE: &str = r#"
mount -t tmpfs none "$1"
mkdir -p "$1/usr/bin" "$1/proc" "$1/sys" "$1/dev"
cp "$2" "$1/usr/bin/stealtrace"
mount --rbind /proc "$1/proc"
mount --rbind /sys "$1/sys"
touch "$1/dev/kvm"
mount --bind /dev/kvm "$1/dev/kvm"
root=$1
shift 2
exec chroot "$root" /usr/bin/stealtrace "$@"
"#;

#[test]
fn the_binary_alone_in_a_container_traces_and_verifies_the_host() {
    let root = scratch("image");
    fs::create_dir(&root).expect("a folder");
    let contained = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", IMAGE, "image"]).arg(&root);
        run(command.arg(stealtrace().get_program()).args(arguments))
    };
    let vm = three_vcpus();
    let traced = contained(&["trace", "--format", "json", "--findings-only", "--duration", "2s"]);
    let looked = contained(&["inspect", "--format", "json"]);
    let pid = vm.id();
    drop(vm);
    let verified = contained(&["verify", "--format", "json", "run-hand-off-down", "same-thread"]);
    fs::remove_dir(root).expect("an empty folder");
    let lines = json_lines(&traced.stdout);
    let vcpus =
        summary(&lines)["vcpus"].as_array().unwrap_or_else(|| panic!("{}{}", traced.stdout, traced.stderr));
    assert!(vcpus.iter().any(|vcpu| vcpu["vm_pid"] == pid), "{}", traced.stdout);
    assert!(looked.stdout.contains(&format!("\"vm_pid\":{pid},")), "{}{}", looked.stdout, looked.stderr);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}
