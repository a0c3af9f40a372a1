//! `stealtrace export`: stays on, and tells monitoring which vCPUs' steal time is wrong. Findings go to the host's log.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use caps::Capability as Cap;
use clap::Args;
use tokio::sync::mpsc;

use super::{Run, Shared, options::parse_pause};
use crate::{
    backend::BackendKind,
    exit::Exit,
    kernel::{KernelFacts, kvm_is_a_module, kvm_loading, perf_takes_sys_admin, reading_maps_takes_bpf},
    live::vcpus::{Vcpus, vm_name},
    model::{Look, Scrape},
    os::{
        clock::{clock_ns, now_ns},
        interrupt::{Interrupt, ignore_hang_ups},
        memory::give_back_large,
        privileges,
        talk::{remark, say},
    },
    publish::{
        http::{self, Ask, Server},
        journal::Log,
        own,
        service::Service,
        textfile::Textfile,
    },
    report::metrics::{self, Exposition, Page, Series},
};

/// At least so often we see whether kvm was unloaded.
const TURN: Duration = Duration::from_secs(1);
/// At least so often we look at what lives.
const LOOK: Duration = Duration::from_secs(60);

/// Stay on: metrics for Prometheus, findings to the journal
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Export {
    /// Where to serve /metrics; a socket from the service manager comes first
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9842", conflicts_with = "textfile")]
    listen: SocketAddr,
    /// Write DIR/stealtrace.prom for node_exporter instead; no network at all
    #[arg(long, value_name = "DIR")]
    textfile: Option<PathBuf>,
    /// Time between two writings of that file
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_pause, requires = "textfile")]
    interval: Duration,
    /// Which vCPUs have series of their own
    #[arg(long, value_enum, default_value_t = Series::All)]
    series: Series,
    /// Series of vCPUs at most; what is left out is counted
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    max_series: usize,
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
}

const HELP: &str = help!(
    "  stealtrace export                                    metrics at http://127.0.0.1:9842/metrics
  stealtrace export --listen '[::]:9842'               for a Prometheus on another host
  stealtrace export --textfile /var/lib/prometheus/node-exporter",
    "  0  ended by a signal, or every process that was named has ended
  2  cannot run here, the port is taken, or bad usage"
);

impl Run for Export {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let start_ns = clock_ns(libc::CLOCK_REALTIME)?;
        ignore_hang_ups();
        give_back_large();
        let interrupt = Interrupt::block()?;
        let outlet = self.outlet()?;
        let mut log = Log::open(&shared.out, start_ns.saturating_sub(now_ns()?))?;
        let facts = KernelFacts::gather(&[]);
        let loading = kvm_loading();
        let tell = Box::new(move |finding: &_| {
            log.finding(finding, vm_name(finding));
            Ok(())
        });
        let vcpus = Vcpus::watch(interrupt, &facts, &self.pids, tell)?;
        give_up_privileges(vcpus.live.backend.kind(), &facts.release)?;
        let mut exporter = Exporter {
            vcpus,
            loading,
            start_ns,
            service: Service::new(),
            looked: Instant::now(),
            lost: 0,
            is_unread: false,
        };
        exporter.look().context("look with fewer capabilities")?;
        match outlet {
            Outlet::Http(server) => exporter.serve(server)?,
            Outlet::Textfile(file) => exporter.write(&file, &self)?,
        }
        Ok(Exit::Clean)
    }
}

/// Where metrics go.
enum Outlet {
    Http(Server),
    Textfile(Textfile),
}

impl Export {
    fn outlet(&self) -> Result<Outlet> {
        if let Some(folder) = &self.textfile {
            return Ok(Outlet::Textfile(Textfile::new(folder)?));
        }
        let listener = http::listen(self.listen)?;
        Ok(Outlet::Http(Server { listener, series: self.series, most: self.max_series }))
    }
}

/// What looking at vCPUs takes, and what attaching again in this way would.
fn give_up_privileges(kind: BackendKind, release: &str) -> Result<()> {
    let mut looking = vec![Cap::CAP_SYS_PTRACE, Cap::CAP_DAC_READ_SEARCH];
    if reading_maps_takes_bpf(release) {
        looking.push(Cap::CAP_BPF);
    }
    const ATTACHING: [Cap; 3] = [Cap::CAP_BPF, Cap::CAP_PERFMON, Cap::CAP_SYSLOG];
    let mut later = if kvm_is_a_module() { ATTACHING.to_vec() } else { Vec::new() };
    if kvm_is_a_module() && kind != BackendKind::Tracepoint && perf_takes_sys_admin() {
        later.push(Cap::CAP_SYS_ADMIN);
    }
    let kept = privileges::drop_all_but(&looking, &later)?;
    let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
    remark(&format!("attached ({kind} backend); of the capabilities kept {}", kept.join(", ")));
    Ok(())
}

struct Exporter {
    vcpus: Vcpus,
    /// Which loading of kvm the probes are attached to; None while it is not loaded.
    loading: Option<(u64, u64)>,
    start_ns: u64,
    service: Service,
    looked: Instant,
    /// Events that were lost when that was told last.
    lost: u64,
    /// Was there a guest whose memory may not be read, at the last look?
    is_unread: bool,
}

impl Exporter {
    fn serve(mut self, server: Server) -> Result<()> {
        let at = server.listener.local_addr().context("listen")?;
        let mut asked = server.begin()?;
        remark(&format!("metrics at http://{at}/metrics; Ctrl-C ends it"));
        self.service.ready(&format!("watching; metrics at http://{at}/metrics"));
        loop {
            let (ask, over) = self.wait_for(&mut asked)?;
            if over || self.nobody_is_left() {
                break;
            }
            ensure!(!asked.is_closed(), "nobody serves HTTP any more");
            let asks = ask.into_iter().chain(std::iter::from_fn(|| asked.try_recv().ok()));
            self.answer(asks.collect())?;
            self.keep_attached()?;
            self.look_now_and_then()?;
        }
        self.service.stopping();
        Ok(())
    }

    /// Until somebody asks, or it is time for the next turn; true if a signal ends it.
    fn wait_for(&mut self, asked: &mut mpsc::Receiver<Ask>) -> Result<(Option<Ask>, bool)> {
        let pause = self.service.live(TURN);
        let mut ask = None;
        let over = self.vcpus.rest_or(pause, async { ask = asked.recv().await })?;
        Ok((ask, over))
    }

    fn write(mut self, file: &Textfile, export: &Export) -> Result<()> {
        remark("metrics go to the file; Ctrl-C ends it");
        self.service.ready("watching; metrics go to a file");
        let (mut next, mut is_written) = (Instant::now(), true);
        loop {
            if next <= Instant::now() {
                next = Instant::now() + export.interval;
                let page = Page {
                    scrape: Arc::new(self.scrape()?),
                    series: export.series,
                    most: export.max_series,
                    is_textfile: true,
                };
                let text = metrics::write(page, Exposition::Prometheus)?;
                let written = file.write(&text);
                match &written {
                    Err(error) if is_written => {
                        say(&format!("the textfile is not written: {error}; it is tried again"));
                    }
                    Ok(()) if !is_written => remark("the textfile is written again"),
                    _ => {}
                }
                is_written = written.is_ok();
            }
            let pause = self.service.live(TURN.min(export.interval));
            if self.vcpus.rest(pause)? || self.nobody_is_left() {
                break;
            }
            self.keep_attached()?;
            self.look_now_and_then()?;
        }
        self.service.stopping();
        Ok(())
    }

    /// All who ask for the same get the same.
    fn answer(&mut self, asks: Vec<Ask>) -> Result<()> {
        let mut scrape = None;
        for ask in asks {
            match ask {
                Ask::Health(tell) => drop(tell.send(self.health())),
                Ask::Scrape(tell) => {
                    let scrape = match &scrape {
                        Some(known) => Arc::clone(known),
                        None => Arc::clone(scrape.insert(Arc::new(self.scrape()?))),
                    };
                    drop(tell.send(scrape));
                }
            }
        }
        Ok(())
    }

    /// Have all processes that were named ended?
    fn nobody_is_left(&self) -> bool {
        let over = self.vcpus.all_ended();
        if over {
            remark("every process that was named has ended");
        }
        over
    }

    fn health(&self) -> Result<(), String> {
        self.loading.map(drop).ok_or_else(|| "kvm is not loaded".to_owned())
    }

    /// A look, and what keeps it from seeing everything, said once.
    fn look(&mut self) -> Result<Look> {
        self.looked = Instant::now();
        let look = self.vcpus.look()?;
        match &look.unread {
            Some(reason) if !self.is_unread => say(reason),
            _ => {}
        }
        self.is_unread = look.unread.is_some();
        if look.lost > self.lost {
            say(&format!("{} events were lost so far", look.lost));
            self.lost = look.lost;
        }
        Ok(look)
    }

    fn scrape(&mut self) -> Result<Scrape> {
        Ok(Scrape {
            is_attached: self.loading.is_some(),
            backend: self.vcpus.live.backend.kind().to_string(),
            look: self.look()?,
            findings: self.vcpus.findings().clone(),
            lost: self.vcpus.live.backend.lost()?,
            own: own::usage(self.start_ns)?,
        })
    }

    /// What ended is forgotten, whoever asks or not.
    fn look_now_and_then(&mut self) -> Result<()> {
        if self.looked.elapsed() >= LOOK {
            self.look()?;
        }
        Ok(())
    }

    /// Probes go with the module that they are in.
    fn keep_attached(&mut self) -> Result<()> {
        let loading = kvm_loading();
        if loading == self.loading {
            return Ok(());
        }
        if self.loading.take().is_some() {
            remark("kvm was unloaded; waiting for it to be loaded again");
            self.service.status("kvm is not loaded");
        }
        if loading.is_some() {
            privileges::raise()?;
            let facts = KernelFacts::gather(&[]);
            self.vcpus.attach_again(&facts).context("attach to the kvm that was loaded")?;
            self.loading = loading;
            self.service.status("watching");
            remark("kvm was loaded again");
            give_up_privileges(self.vcpus.live.backend.kind(), &facts.release)?;
            self.lost = 0;
        }
        Ok(())
    }
}
