//! watch, as somebody at a terminal sees it: tmux is the terminal.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use stealtrace_tests::{run, stealtrace};

use super::Vm;

/// watch in a terminal.
struct Terminal(String);

impl Terminal {
    fn begin(arguments: &str) -> Self {
        let terminal = Self(format!("stealtrace-{}-{:?}", std::process::id(), thread::current().id()));
        let command = format!("{} watch --interval 200ms {arguments}", stealtrace().get_program().display());
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let Self(name) = self;
        let done = run(Command::new("tmux").args(["-f", "/dev/null", "-L", name]).args(arguments));
        done.stdout
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// What is on it, as soon as it is so.
    fn wait_for(&self, is_so: impl Fn(&[&str]) -> bool) -> String {
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if is_so(&screen.lines().collect::<Vec<_>>()) {
                return screen;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A VM of this name.
fn named(name: &str, load: &[&str]) -> Vm {
    let mut command = stealtrace();
    command.arg0(format!("--id={name}")).args(["load", "run", "--duration", "10m"]).args(load);
    Vm(command.stdout(Stdio::null()).spawn().expect("stealtrace starts"))
}

const HEADER: [&str; 10] =
    ["VM", "vCPU", "STATE", "STEAL%", "WAIT%", "OFF", "BY", "RUNNER", "LAST", "FINDING"];

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn what_is_most_wrong_comes_first_and_can_be_opened() {
    let (good, bad) = (named("good", &["--idle", "2"]), named("bad", &["--poison"]));
    let terminal = Terminal::begin(&format!("--pid {} --pid {}", good.id(), bad.id()));
    let screen = terminal.wait_for(|lines| {
        lines.len() > 4
            && lines[1].starts_with("bad ")
            && lines[1].contains("poisoned")
            && lines[1..5].iter().filter(|line| line.starts_with("good/")).count() == 3
            && lines[1..5].iter().any(|line| line.contains(" sound "))
    });
    assert_eq!(words(screen.lines().next().expect("a header")), HEADER, "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(screen.trim_end().ends_with("q:quit"), "{screen}");

    terminal.press(&["Enter"]);
    let open = terminal.wait_for(|lines| lines.iter().any(|line| line.contains("error steal-poisoned")));
    for part in ["vCPU 0", "below zero", "run by vcpu0", "do: ", "since it was first seen"] {
        assert!(open.contains(part), "{part}: {open}");
    }
    terminal.press(&["Escape"]);
    terminal.wait_for(|lines| words(lines[0]) == HEADER);

    terminal.press(&["/", &good.id().to_string(), "Enter"]);
    terminal.wait_for(|lines| !lines.iter().any(|line| line.contains("poisoned")));
    terminal.press(&["v"]);
    terminal.wait_for(|lines| lines.iter().any(|line| line.contains(" all 2 ")));
    terminal.press(&["p"]);
    terminal.wait_for(|lines| lines.iter().any(|line| line.starts_with("frozen ")));

    terminal.tmux(&["resize-window", "-x", "140", "-y", "30"]);
    terminal.wait_for(|lines| lines[0].chars().count() > 100 && lines[0].contains("LAST FINDING"));
    terminal.press(&["q"]);
    while terminal.tmux(&["list-sessions"]).contains("windows") {}
}

#[test]
fn the_same_table_is_printed_where_there_is_no_terminal() {
    let vm = named("bad", &["--poison"]);
    let pid = vm.id().to_string();
    let table = loop {
        let once = run(stealtrace().args(["watch", "--once", "--interval", "100ms", "--pid", &pid]));
        assert_eq!(once.code, 0, "{}", once.stderr);
        if once.stdout.contains("poisoned") {
            break once.stdout; // the VM begins while it is looked at
        }
    };
    let [header, line] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    assert_eq!(words(header), HEADER);
    assert!(line.starts_with("bad ") && line.chars().count() <= 80, "{line}");
    let live = run(stealtrace().arg("watch"));
    assert_eq!(live.code, 2);
    assert!(live.stderr.contains("needs a terminal"), "{}", live.stderr);
}
