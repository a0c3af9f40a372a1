//! Others' monitoring, as children on ports and in folders of their own: Prometheus, Alertmanager, node_exporter.

mod http;
mod receiver;

use std::{
    env,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

pub use self::{http::get, receiver::Receiver};
use crate::{run, xtask};

/// Where a program of others is; fetched if need be.
///
/// # Panics
/// When it cannot be had.
#[must_use]
pub fn peer(name: &str) -> PathBuf {
    let found = run(xtask().args(["peer", name]));
    assert_eq!(found.code, 0, "{}", found.stderr);
    PathBuf::from(found.stdout.trim())
}

/// A file that is shipped.
#[must_use]
pub fn dist(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../stealtrace/dist").join(file)
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("stealtrace-{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// One below it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// One of them, until dropped.
pub struct Peer {
    child: Child,
    address: String,
}

impl Peer {
    /// On a port of its own, as `--web.listen-address` says.
    ///
    /// # Panics
    /// When it ends instead of listening.
    #[must_use]
    pub fn listening(mut command: Command) -> Self {
        let port = free_port();
        let log = env::temp_dir().join(format!("stealtrace-peer-{}-{port}", std::process::id()));
        let errors = File::create(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let address = format!("127.0.0.1:{port}");
        command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        while TcpStream::connect(&address).is_err() {
            let ended = child.try_wait().ok().flatten();
            assert!(ended.is_none(), "{command:?} ended: {}", fs::read_to_string(&log).unwrap_or_default());
            thread::sleep(Duration::from_millis(20));
        }
        let _shown_no_more = fs::remove_file(log);
        Self { child, address }
    }

    /// Alertmanager, which calls this one at once.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn alertmanager(folder: &Folder, receiver: &Receiver) -> Self {
        let data = folder.make("alertmanager");
        let file = data.join("config.yaml");
        let route = "route: {receiver: us, group_wait: 0s}";
        let webhook = format!("webhook_configs: [{{url: '{}'}}]", receiver.url());
        write(&file, &format!("{route}\nreceivers: [{{name: us, {webhook}}}]\n"));
        let mut command = with_its_templates(&peer("alertmanager"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.path={}", data.display())).arg("--cluster.listen-address=");
        Self::listening(command)
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Prometheus, and what it knows.
pub struct Prometheus(Peer);

impl Prometheus {
    /// It scrapes these jobs each second; with rules, and an Alertmanager to call.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn new(folder: &Folder, jobs: &[(&str, &[&str])], alerts: Option<(&Path, &str)>) -> Self {
        let data = folder.make("prometheus");
        let file = data.join("config.yaml");
        write(&file, &config(jobs, alerts));
        let mut command = Command::new(peer("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", data.join("tsdb").display()));
        let prometheus = Self(Peer::listening(command));
        while !get(prometheus.0.address(), "/-/ready").contains("is Ready") {
            thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    /// What it answers: labels and value of each series.
    ///
    /// # Panics
    /// When it refuses the query.
    #[must_use]
    pub fn query(&self, query: &str) -> Vec<Value> {
        let answer = get(self.0.address(), &format!("/api/v1/query?query={}", encoded(query)));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The same, as soon as there is an answer.
    ///
    /// # Panics
    /// When it refuses the query.
    #[must_use]
    pub fn wait_for(&self, query: &str) -> Vec<Value> {
        loop {
            let found = self.query(query);
            if !found.is_empty() {
                return found;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn config(jobs: &[(&str, &[&str])], alerts: Option<(&Path, &str)>) -> String {
    let mut text = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n".to_owned();
    if let Some((rules, alertmanager)) = alerts {
        text += &format!("rule_files: ['{}']\n", rules.display());
        text += &format!(
            "alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n"
        );
    }
    text += "scrape_configs:\n";
    for (job, targets) in jobs {
        text += &format!("  - {{job_name: {job}, static_configs: [{{targets: {targets:?}}}]}}\n");
    }
    text
}

/// For a URL.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Alertmanager wants its templates below /usr/share, where they are not installed: it runs where they are.
fn with_its_templates(alertmanager: &Path) -> Command {
    const SCRIPT: &str = "mount -t tmpfs none /usr/share && mkdir /usr/share/prometheus &&
        ln -s \"$0/share/prometheus/alertmanager\" /usr/share/prometheus/ && exec \"$@\"";
    let usr = alertmanager.ancestors().nth(2).unwrap_or(alertmanager);
    let mut command = Command::new("unshare");
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", SCRIPT]).arg(usr).arg(alertmanager);
    command
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.unwrap_or_else(|error| panic!("a free port: {error}")).port()
}
