//! export as a service: the manager's socket and messages, and the journal.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command},
    sync::mpsc::{self, Receiver},
    thread,
};

use stealtrace_tests::stealtrace;

use super::{
    Vm,
    export::{Export, hand_over},
    scratch,
};

/// In a mount namespace of its own, with our sockets in the places of the journal's and the service manager's.
#[test]
fn a_service_manager_hears_of_it_and_the_journal_gets_fields() {
    let folder = scratch("service");
    fs::create_dir(&folder).expect("a folder");
    let [journal, notify] = ["journal", "notify"].map(|name| messages(&folder.join(name)));
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("bound").to_string();
    let errors = File::create(folder.join("stderr")).expect("a file");
    let mut service = Vm(as_service(&folder, &port, &errors));
    assert!(heard(&notify, "READY=1").contains("STATUS=watching"));
    assert!(heard(&notify, "WATCHDOG=1").contains("WATCHDOG"));
    hand_over();
    let export = Export::at(address);
    assert!(export.get("/healthz").starts_with("attached"), "on the socket that was handed over");
    let entry = heard(&journal, "steal-underflow");
    for part in
        ["SYSLOG_IDENTIFIER", "STEALTRACE_RULE", "STEALTRACE_CALLER", "vcpu0-new", "STEALTRACE_DELTA_NS"]
    {
        assert!(entry.contains(part), "{part}: {entry}");
    }
    // SAFETY: a process that we started and that has not been waited for.
    unsafe { libc::kill(service.id().cast_signed(), libc::SIGTERM) };
    heard(&notify, "STOPPING=1");
    assert_eq!(service.0.wait().expect("it ends").code(), Some(0));
    fs::remove_dir_all(folder).expect("removed");
}

fn as_service(folder: &Path, port: &TcpListener, errors: &File) -> Child {
    const SCRIPT: &str =
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket &&
        mount --bind \"$0/journal\" /run/systemd/journal/socket && LISTEN_PID=$$ exec \"$1\" export";
    let stream = errors.metadata().expect("a file");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT]).arg(folder).arg(stealtrace().get_program());
    command
        .env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()))
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .env("WATCHDOG_USEC", "300000")
        .env("LISTEN_FDS", "1")
        .stderr(errors.try_clone().expect("a descriptor"));
    let fd = port.as_raw_fd();
    // SAFETY: only a system call between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    command.spawn().expect("unshare starts")
}

/// What comes to a socket here, read as it comes.
fn messages(path: &Path) -> Receiver<String> {
    let socket = UnixDatagram::bind(path).expect("a socket");
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length) = socket.recv(&mut bytes) {
            if sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).is_err() {
                return;
            }
        }
    });
    messages
}

/// The first message that says this.
fn heard(messages: &Receiver<String>, what: &str) -> String {
    messages.iter().find(|message| message.contains(what)).expect("messages go on")
}
