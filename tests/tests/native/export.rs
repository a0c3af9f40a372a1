//! export, on VMs that run here: what monitoring reads, what the log gets, and strangers that ask.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use stealtrace_tests::{Run, found, json_lines, run, stealtrace};

use super::{Vm, scratch, three_vcpus};

/// export, from when it serves to its end.
pub(crate) struct Export {
    child: Option<Child>,
    address: String,
}

impl Export {
    pub(crate) fn begin(arguments: &[&str]) -> Self {
        let mut command = stealtrace();
        command.args(["export", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("stealtrace starts");
        let mut told = BufReader::new(child.stderr.as_mut().expect("piped")).lines();
        let line = told.find_map(|line| line.ok().filter(|line| line.contains("metrics at ")));
        let line = line.expect("it serves");
        let (_, rest) = line.split_once("http://").expect("an address");
        let address = rest.split('/').next().expect("a host").to_owned();
        Self { child: Some(child), address }
    }

    /// One that somebody else started, and ends.
    pub(crate) const fn at(address: String) -> Self {
        Self { child: None, address }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it answers to these bytes.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let _refused_early = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let answer = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
    }

    fn metrics(&self) -> Metrics {
        Metrics(self.get("/metrics"))
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a process that we started and that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.id().cast_signed(), signal) }, 0);
    }

    fn end(mut self) -> Run {
        self.signal(libc::SIGTERM);
        let output = self.child.take().expect("it runs").wait_with_output().expect("it ends");
        Run {
            code: output.status.code().expect("by itself"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Prometheus's text format.
struct Metrics(String);

impl Metrics {
    /// Samples of a metric: labels and value.
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let lines = self.0.lines().filter_map(move |line| line.strip_prefix(name));
        lines.filter(|rest| rest.starts_with([' ', '{'])).map(|rest| {
            let (labels, value) = rest.rsplit_once(' ').expect("a value");
            (labels, value.parse().expect("a number"))
        })
    }

    fn one(&self, name: &str, label: &str) -> f64 {
        let mut samples = self.of(name).filter(|(labels, _)| labels.contains(label));
        let (_, value) = samples.next().unwrap_or_else(|| panic!("{name} with {label} in\n{}", self.0));
        value
    }
}

pub(crate) fn hand_over() {
    let handed = run(stealtrace().args(["verify", "--no-trace", "run-hand-off-down"]));
    assert!(handed.code < 2, "{}", handed.stderr);
}

#[test]
fn a_hand_over_is_counted_and_logged_with_both_threads() {
    let export = Export::begin(&[]);
    let underflows = |metrics: &Metrics| {
        metrics.one("stealtrace_findings_total", r#"{rule="steal-underflow",severity="error"}"#)
    };
    assert!(underflows(&export.metrics()) < 1.0, "every rule is there from the start");
    hand_over();
    let metrics = export.metrics();
    assert!(underflows(&metrics) >= 1.0, "{}", metrics.0);
    let ended = export.end();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let lines = json_lines(&ended.stdout);
    let finding = found(&lines).into_iter().find(|finding| finding["rule"] == "steal-underflow");
    let finding = finding.expect("logged");
    assert_eq!((&finding["caller"], &finding["last_steal_of"]), (&"vcpu0-new".into(), &"vcpu0-old".into()));
    assert!(finding["utc"].is_string() && finding["domain"].is_string(), "{finding}");
}

#[test]
fn a_reader_that_stalls_holds_up_nothing_and_what_it_missed_is_counted() {
    let mut export = Export::begin(&[]);
    let lines = export.child.as_mut().and_then(|child| child.stdout.take()).expect("piped");
    // SAFETY: it only changes how much our own pipe holds.
    let holds = unsafe { libc::fcntl(lines.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(holds, 4096, "a finding or two");
    hand_over();
    hand_over();
    let metrics = export.metrics();
    let found: f64 = metrics.of("stealtrace_findings_total").map(|(_, value)| value).sum();
    assert!(found > 2.5, "tracing goes on: {}", metrics.0);
    let mut lines = BufReader::new(lines).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with('{') && first.ends_with('}'), "{first}");
    hand_over();
    let again = lines.next().expect("a line").expect("text");
    assert!(again.starts_with('{') && again.ends_with('}'), "{again}");
    let ended = export.end();
    assert!(ended.stderr.contains("findings cannot be logged: nobody reads them"), "{}", ended.stderr);
    assert!(ended.stderr.contains("findings are logged again; "), "{}", ended.stderr);
}

#[test]
fn every_vcpu_has_its_account_and_ended_ones_vanish() {
    let vm = three_vcpus();
    let export = Export::begin(&[]);
    let domain = format!("-{}/", vm.id());
    let of_vm = |metrics: &Metrics, name: &str| {
        metrics.of(name).filter(|(labels, _)| labels.contains(&domain)).count()
    };
    let metrics = loop {
        let metrics = export.metrics(); // the VM begins while it is looked at
        let names = ["stealtrace_vcpu_charged_steal_seconds_total", "stealtrace_vcpu_guest_steal_seconds"];
        if names.iter().all(|name| of_vm(&metrics, name) == 3) {
            break metrics;
        }
    };
    for name in ["stealtrace_vcpu_steal_discrepancy_seconds", "stealtrace_vcpu_run_delay_seconds"] {
        assert_eq!(of_vm(&metrics, name), 3, "{name}");
        assert!(metrics.of(name).all(|(_, value)| value.abs() < 1e6), "{name}");
    }
    let states = metrics.of("stealtrace_vcpu_state").filter(|(labels, _)| labels.contains(&domain));
    let states: f64 = states.map(|(_, value)| value).sum();
    assert!((states - 3.0).abs() < 0.5, "each vCPU is in one state");
    assert!(metrics.one("stealtrace_domain_info", &format!("pid=\"{}\"", vm.id())) > 0.5);
    drop(vm);
    let gone = export.metrics();
    assert_eq!(of_vm(&gone, "stealtrace_vcpu_state") + of_vm(&gone, "stealtrace_domain_info"), 0);
}

#[test]
fn it_ends_with_the_last_process_that_was_named() {
    let vm = three_vcpus();
    let mut export = Export::begin(&["--pid", &vm.id().to_string()]);
    drop(vm);
    let mut child = export.child.take().expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_limit_to_series_is_never_silent() {
    let vm = three_vcpus();
    let pid = vm.id().to_string();
    let all = Export::begin(&["--pid", &pid]);
    while all.metrics().one("stealtrace_vcpus", "") < 3.0 {}
    let series = all.metrics().of("stealtrace_vcpu_state").count() / 3;
    for (limit, left) in
        [(["--series", "none"], 0), (["--series", "unhealthy"], 0), (["--max-series", "10"], 1)]
    {
        let metrics = Export::begin(&[&["--pid", &*pid], &limit[..]].concat()).metrics();
        assert_eq!(metrics.of("stealtrace_vcpu_state").count(), left * series, "{limit:?}");
        assert!(metrics.one("stealtrace_series_dropped", "") > 1.0, "{limit:?}");
    }
}

#[test]
fn whoever_asks_for_something_else_is_told() {
    let export = Export::begin(&[]);
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        ("\u{1}\u{2}garbage\r\n\r\n", "400"),
        (&huge, "431"),
    ] {
        let answer = export.ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    let head = export.ask("HEAD /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let open = export.ask(
        "GET /metrics HTTP/1.1\r\nHost: [::1]:1\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n",
    );
    assert!(open.contains("application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
    assert!(export.get("/").contains("href=/metrics") && export.get("/healthz").starts_with("attached"));
}

#[test]
fn connections_that_say_nothing_end_and_more_than_there_is_room_for_are_refused() {
    let export = Export::begin(&[]);
    let connect = |_| TcpStream::connect(&export.address).expect("it listens");
    let silent: Vec<_> = (0..300).map(connect).collect();
    let answers = silent.into_iter().map(|mut stream| {
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        answer
    });
    let refused = answers.filter(|answer| answer.starts_with("HTTP/1.1 503 ")).count();
    assert!(refused > 0, "{refused}");
    assert!(export.metrics().one("stealtrace_attached", "") > 0.5, "it goes on");
}

/// The status of a thread that has had time to do what it does first: one that was made just now has its maker's.
fn status_of_begun(thread: &Path) -> String {
    let status = || fs::read_to_string(thread.join("status")).expect("it runs");
    let is_new = |status: &str| status.contains("\nvoluntary_ctxt_switches:\t0\n");
    for _ in 0..1000 {
        if !is_new(&status()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    status()
}

#[test]
fn what_it_needs_no_longer_is_given_up_and_hang_ups_harm_nothing() {
    let export = Export::begin(&[]);
    export.signal(libc::SIGHUP);
    let looking = (1 << 19) | (1 << 2); // CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH
    let threads = fs::read_dir(format!("/proc/{}/task", export.id())).expect("it runs").flatten();
    for thread in threads.map(|thread| thread.path()) {
        let status = status_of_begun(&thread);
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        let is_first = thread.ends_with(export.id().to_string());
        let effective = value("CapEff").map(|set| u64::from_str_radix(set, 16));
        assert_eq!(effective, Some(Ok(if is_first { looking } else { 0 })), "{status}");
        assert!(is_first || value("CapPrm") == Some("0000000000000000"), "{status}");
    }
    assert!(export.get("/healthz").starts_with("attached"));
    assert_eq!(export.end().code, 0);
}

#[test]
fn a_name_of_a_vm_may_be_anything() {
    let mut command = stealtrace();
    command.arg0(OsStr::from_bytes(b"--id=we\"i\\rd\nna\xffme"));
    command.args(["load", "run", "--duration", "10m"]).stdout(Stdio::null());
    let vm = Vm(command.spawn().expect("stealtrace starts"));
    let export = Export::begin(&["--pid", &vm.id().to_string()]);
    let domain = r#"{domain="we\"i\\rd\nna�me""#;
    while !export.metrics().of("stealtrace_domain_info").any(|(labels, _)| labels.starts_with(domain)) {}
}

#[test]
fn a_textfile_is_whole_and_goes_with_us() {
    let folder = scratch("textfile");
    fs::create_dir(&folder).expect("a folder");
    let mut command = stealtrace();
    command.args(["export", "--interval", "50ms", "--textfile"]).arg(&folder);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("stealtrace starts");
    let file = folder.join("stealtrace.prom");
    let mut seen = 0;
    while seen < 3 {
        assert!(child.try_wait().expect("our child").is_none(), "it goes on");
        if let Ok(text) = fs::read_to_string(&file) {
            assert!(
                text.lines().last().is_some_and(|line| line.starts_with("stealtrace_vcpus_unseen ")),
                "{text}"
            );
            seen += 1;
        }
    }
    // SAFETY: a process that we started and that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 0);
    fs::remove_dir(folder).expect("empty");
}

#[test]
fn where_it_cannot_tell_anybody_it_does_not_begin() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for (arguments, error) in [
        (["--listen", address.as_str()], "listen on 127.0.0.1:"),
        (["--textfile", "/no/such/folder"], "write to /no/such/folder"),
        (["--listen", "nowhere"], "invalid value"),
    ] {
        let ended = run(stealtrace().arg("export").args(arguments));
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(error), "{}", ended.stderr);
    }
}
