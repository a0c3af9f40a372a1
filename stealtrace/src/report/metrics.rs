//! What monitoring reads: OpenMetrics, or Prometheus's text format. Names and labels follow those of node_exporter and of
//! libvirt's exporters, so that series join.

use std::{collections::HashSet, fmt, sync::Arc};

use crate::{
    detect::RULES,
    model::{Scrape, Severity, VcpuLook},
};
use clap::ValueEnum;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::Registry,
};

/// Which vCPUs have series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Every one.
    All,
    /// Those with a finding of severity error, and those whose counter is wrong or cannot be read.
    Unhealthy,
    /// None.
    None,
}

/// How to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format, 0.0.4.
    Prometheus,
}

impl Exposition {
    /// As HTTP names it.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A scrape, and how much of it is wanted.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) scrape: Arc<Scrape>,
    pub(crate) series: Series,
    /// Series of vCPUs at most.
    pub(crate) most: usize,
    /// node_exporter reads it, and has metrics of its own process.
    pub(crate) is_textfile: bool,
}

/// The text.
///
/// # Errors
/// None that is known of; the formats' library can say so.
pub(crate) fn write(page: Page, exposition: Exposition) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let mut out = String::new();
    registry.register_collector(Box::new(page));
    match exposition {
        Exposition::OpenMetrics => text::encode(&mut out, &registry)?,
        Exposition::Prometheus => prometheus_text::encode(&mut out, &registry)?,
    }
    Ok(out)
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// One metric, sample by sample.
struct Metric<'a>(MetricEncoder<'a>);

impl Metric<'_> {
    fn sample<const N: usize>(&mut self, labels: [(&str, &str); N], value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    fn count<const N: usize>(&mut self, labels: [(&str, &str); N], value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }
}

/// Every judgement a vCPU can have.
const STATES: [&str; 6] = ["disabled", "unknown", "cannot tell", "sound", "off", "poisoned"];

/// Series that each vCPU has.
pub(crate) const SERIES_OF_A_VCPU: usize = 4 + STATES.len();

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        self.of_build(&mut metrics)?;
        self.of_vcpus(&mut metrics)?;
        self.of_findings(&mut metrics)?;
        self.of_losses(&mut metrics)?;
        if self.is_textfile { Ok(()) } else { self.of_process(&mut metrics) }
    }
}

/// One metric after the other.
struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Metric<'s>, fmt::Error> {
        Ok(Metric(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    /// The formats add `_total` to its name.
    fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Metric<'s>, fmt::Error> {
        Ok(Metric(self.0.encode_descriptor(name, help, None, MetricType::Counter)?))
    }
}

/// A vCPU with series of its own.
struct Shown<'a> {
    domain: &'a str,
    id: String,
    vcpu: &'a VcpuLook,
}

impl Shown<'_> {
    fn labels(&self) -> [(&str, &str); 2] {
        [("domain", self.domain), ("vcpu", &self.id)]
    }
}

impl Page {
    fn of_build(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        metrics
            .gauge("stealtrace_build_info", "Which stealtrace this is")?
            .sample([("version", env!("CARGO_PKG_VERSION")), ("revision", revision())], 1.0)?;
        metrics
            .gauge("stealtrace_backend_info", "How KVM is seen")?
            .sample([("backend", &*self.scrape.backend)], 1.0)?;
        metrics
            .gauge("stealtrace_attached", "1 while the probes are attached; 0 while kvm is not loaded")?
            .sample([], f64::from(u8::from(self.scrape.is_attached)))
    }

    fn of_vcpus(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let domains = self.scrape.look.domains();
        let shown = self.shown(&domains);
        let mut each = |(name, help): (&str, &str), value: fn(&VcpuLook) -> Option<f64>| {
            let mut metric = metrics.gauge(name, help)?;
            shown.iter().try_for_each(|one| {
                value(one.vcpu).map_or(Ok(()), |value| metric.sample(one.labels(), value))
            })
        };
        each(GUEST_STEAL, |vcpu| Some(seconds(vcpu.area?.steal_ns)))?;
        each(RUN_DELAY, |vcpu| vcpu.run_delay_ns.map(seconds))?;
        if self.scrape.look.no_iterator.is_none() {
            each(DISCREPANCY, |vcpu| Some(signed_seconds(vcpu.account.difference_ns())))?;
            let mut charged = metrics.counter(CHARGED.0, CHARGED.1)?;
            shown
                .iter()
                .try_for_each(|one| charged.count(one.labels(), seconds(one.vcpu.account.charged_ns)))?;
        }
        let mut state =
            metrics.gauge("stealtrace_vcpu_state", "1 for what is known of the guest's counter")?;
        for Shown { domain, id, vcpu } in &shown {
            for word in STATES {
                let holds = f64::from(u8::from(vcpu.judgement.word() == word));
                state.sample([("domain", *domain), ("vcpu", id), ("state", word)], holds)?;
            }
        }
        Self::of_domains(&shown, metrics)?;
        let left_out = self.scrape.look.vcpus.len() - shown.len();
        metrics
            .gauge("stealtrace_series_dropped", "Series of vCPUs that --series and --max-series leave out")?
            .sample([], (left_out * SERIES_OF_A_VCPU) as f64)
    }

    /// Those that are wanted; the unhealthy ones first, where there are too many.
    fn shown<'a>(&'a self, domains: &'a [String]) -> Vec<Shown<'a>> {
        let is_wanted = |vcpu: &VcpuLook| match self.series {
            Series::All => true,
            Series::Unhealthy => vcpu.is_unhealthy(),
            Series::None => false,
        };
        let mut known = HashSet::new(); // the same labels twice, and Prometheus takes nothing
        let vcpus = domains
            .iter()
            .zip(&self.scrape.look.vcpus)
            .filter(|(domain, vcpu)| is_wanted(vcpu) && known.insert((domain.as_str(), vcpu.id)));
        let mut shown: Vec<_> =
            vcpus.map(|(domain, vcpu)| Shown { domain, id: vcpu.id.to_string(), vcpu }).collect();
        let most = self.most / SERIES_OF_A_VCPU;
        if shown.len() > most {
            shown.sort_by_key(|one| !one.vcpu.is_unhealthy());
            shown.truncate(most);
        }
        shown
    }

    fn of_domains(shown: &[Shown<'_>], metrics: &mut Metrics<'_>) -> fmt::Result {
        let mut info = metrics.gauge("stealtrace_domain_info", "Which process a VM is")?;
        let mut times = Vec::new();
        let mut known = HashSet::new();
        for Shown { domain, vcpu, .. } in shown {
            if known.insert(*domain) {
                let pid = vcpu.pid.to_string();
                info.sample([("domain", *domain), ("pid", &*pid), ("vmm", &*vcpu.comm)], 1.0)?;
                times.extend(vcpu.throttled.map(|throttled| (*domain, throttled)));
            }
        }
        let mut throttled = metrics.counter(THROTTLED.0, THROTTLED.1)?;
        times
            .iter()
            .try_for_each(|(domain, by)| throttled.count([("domain", *domain)], seconds(by.time_ns)))?;
        let mut periods = metrics.counter(THROTTLED_PERIODS.0, THROTTLED_PERIODS.1)?;
        times.iter().try_for_each(|(domain, by)| periods.count([("domain", *domain)], by.times as f64))
    }

    /// Every rule from the start, so that what begins to rise is seen to rise.
    fn of_findings(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let mut findings = metrics.counter("stealtrace_findings", "Findings, repetitions included")?;
        for rule in RULES {
            for severity in [Severity::Notice, Severity::Warning, Severity::Error] {
                let count = self.scrape.findings.get(&(rule.id, severity)).copied().unwrap_or(0);
                let severity = severity.to_string();
                findings.count([("rule", rule.id.as_str()), ("severity", &severity)], count as f64)?;
            }
        }
        Ok(())
    }

    fn of_losses(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let Scrape { lost: by_probe, look, .. } = &*self.scrape;
        let mut lost = metrics.counter("stealtrace_events_lost", "Events that were lost")?;
        for (probe, count) in by_probe {
            lost.count([("probe", *probe)], *count as f64)?;
        }
        metrics.gauge("stealtrace_vcpus", "vCPUs that are seen")?.sample([], look.vcpus.len() as f64)?;
        metrics
            .gauge("stealtrace_vcpus_unseen", "vCPUs that have a descriptor, and of which nothing was seen")?
            .sample([], look.unseen.len() as f64)
    }

    fn of_process(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let own = self.scrape.own;
        metrics
            .counter("process_cpu_seconds", "CPU time that stealtrace used")?
            .count([], seconds(own.cpu_ns))?;
        metrics
            .gauge("process_resident_memory_bytes", "Memory that stealtrace uses")?
            .sample([], own.resident_bytes as f64)?;
        metrics
            .gauge("process_start_time_seconds", "When stealtrace was started, since 1970")?
            .sample([], seconds(own.start_ns))
    }
}

/// The commit.
fn revision() -> &'static str {
    env!("STEALTRACE_COMMIT").split(' ').next().unwrap_or_default()
}

/// A metric's name and what it is.
type About = (&'static str, &'static str);

const GUEST_STEAL: About = (
    "stealtrace_vcpu_guest_steal_seconds",
    "Steal time that the guest is told; after an underflow it is nearly 2^64 ns",
);
const RUN_DELAY: About = (
    "stealtrace_vcpu_run_delay_seconds",
    "What the thread that runs the vCPU waited for a CPU, in all its life",
);
const DISCREPANCY: About = (
    "stealtrace_vcpu_steal_discrepancy_seconds",
    "What KVM added to the guest's steal time since the vCPU was first seen, less what its runners waited since",
);
const CHARGED: About = (
    "stealtrace_vcpu_charged_steal_seconds",
    "Steal time that KVM added and the vCPU's runner had waited, since the vCPU was first seen",
);
const THROTTLED: About = (
    "stealtrace_domain_throttled_seconds",
    "Time that the VM's threads waited because their quota was used up: steal that no neighbour took",
);
const THROTTLED_PERIODS: About =
    ("stealtrace_domain_throttled_periods", "Periods in which the VM's quota of CPU time was used up");

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn signed_seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}
