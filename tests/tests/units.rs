//! The units that are shipped, as systemd's own tools judge them.

use std::{fs, path::Path, process::Command};

use stealtrace_tests::{
    Run,
    monitoring::{Folder, dist, peer},
    run, stealtrace,
};

const SERVICE: &str = "stealtrace-export.service";

/// Debian's systemd-analyze, with its library beside it.
fn analyze(arguments: &[&str], files: &[&Path]) -> Run {
    let program = peer("systemd-analyze");
    let usr = program.ancestors().nth(2).expect("usr/bin");
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", usr.join("lib/x86_64-linux-gnu/systemd"));
    run(command.args(arguments).args(files))
}

#[test]
fn the_service_is_closed_up_as_far_as_it_was() {
    const EXPOSURE: f64 = 2.8; // of 10; 2.6 if it could not read other users' VMs
    let judged = analyze(&["security", "--offline=true", "--no-pager"], &[&dist(SERVICE)]);
    let line =
        judged.stdout.lines().find(|line| line.contains("Overall exposure level")).expect("a judgement");
    let mut words = line.split(' ').filter_map(|word| word.parse::<f64>().ok());
    let exposure = words.next_back().expect("a number");
    assert!(exposure <= EXPOSURE, "{line}");
}

#[test]
fn systemd_understands_the_units() {
    let folder = Folder::new("units");
    let units = folder.make("units");
    for name in [SERVICE, "stealtrace-export.socket"] {
        let text = fs::read_to_string(dist(name)).expect("there");
        let here = stealtrace().get_program().to_string_lossy().into_owned();
        fs::write(units.join(name), text.replace("/usr/bin/stealtrace", &here)).expect("written");
    }
    let files = [units.join(SERVICE), units.join("stealtrace-export.socket")];
    let verified = analyze(&["verify", "--man=no"], &[&files[0], &files[1]]);
    assert_eq!((verified.code, &*verified.stderr), (0, ""), "{}", verified.stdout);
}

#[test]
fn the_service_starts_what_there_is() {
    let text = fs::read_to_string(dist(SERVICE)).expect("there");
    let command =
        text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/stealtrace ")).expect("a command");
    let help = run(stealtrace().args(command.split(' ')).arg("--help"));
    assert_eq!(help.code, 0, "{}", help.stderr);
}
