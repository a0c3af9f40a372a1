//! Where and how a recording was made, and how it ended: as JSON, so that both can grow.

use serde_json::{Value, json};

use crate::model::{Losses, ProbeLoss, Summary};

/// Where and how a recording was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `uname -r`.
    pub kernel: String,
    /// Backend.
    pub backend: String,
    /// What the steal-time code looked like.
    pub era: String,
    /// Does it hold only what can change a judgement?
    pub edges: bool,
    /// Does it hold calls and returns, for the view of calls?
    pub calls: bool,
    /// CPUs of the host.
    pub cpus: u64,
    /// CLOCK_MONOTONIC at the start of the trace.
    pub start_ns: u64,
    /// What to add to CLOCK_MONOTONIC for UTC (ns since 1970).
    pub utc_offset_ns: u64,
    /// Names of functions by address, for the view of calls.
    pub functions: Vec<(u64, String)>,
}

/// How a recording ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// What the live trace missed.
    pub losses: Losses,
    /// How long it took.
    pub duration_ns: u64,
    /// Why it proves nothing although nothing was lost.
    pub unproved: Option<String>,
}

impl Header {
    /// For a log, which has none.
    #[must_use]
    pub fn of_log() -> Self {
        Self {
            kernel: String::new(),
            backend: String::new(),
            era: String::new(),
            edges: false,
            calls: false,
            cpus: 0,
            start_ns: 0,
            utc_offset_ns: 0,
            functions: Vec::new(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let functions: Vec<_> = self.functions.iter().map(|(address, name)| json!([address, name])).collect();
        json!({
            "kernel": self.kernel,
            "backend": self.backend,
            "era": self.era,
            "edges": self.edges,
            "calls": self.calls,
            "cpus": self.cpus,
            "start_ns": self.start_ns,
            "utc_offset_ns": self.utc_offset_ns,
            "functions": functions,
        })
    }

    pub(super) fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let function = |pair: &Value| Some((pair[0].as_u64()?, pair[1].as_str()?.to_owned()));
        Some(Self {
            kernel: text("kernel")?,
            backend: text("backend")?,
            era: text("era")?,
            edges: json["edges"].as_bool()?,
            calls: json["calls"].as_bool()?,
            cpus: json["cpus"].as_u64()?,
            start_ns: json["start_ns"].as_u64()?,
            utc_offset_ns: json["utc_offset_ns"].as_u64()?,
            functions: json["functions"].as_array()?.iter().map(function).collect::<Option<_>>()?,
        })
    }
}

impl End {
    /// The end of a run.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        Self {
            losses: summary.losses.clone(),
            duration_ns: summary.duration_ns,
            unproved: summary.unproved.clone(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let probe = |probe: &ProbeLoss| {
            json!({
                "probe": probe.probe, "hits": probe.hits, "emitted": probe.emitted, "lost": probe.lost,
                "lost_by_cpu": probe.lost_by_cpu,
            })
        };
        json!({
            "duration_ns": self.duration_ns,
            "unproved": self.unproved,
            "undecodable": self.losses.undecodable,
            "probes": self.losses.probes.iter().map(probe).collect::<Vec<_>>(),
        })
    }

    pub(super) fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let by_cpu = |pair: &Value| Some((usize::try_from(pair[0].as_u64()?).ok()?, pair[1].as_u64()?));
        let probe = |probe: &Value| {
            Some(ProbeLoss {
                probe: probe["probe"].as_str()?.to_owned(),
                hits: probe["hits"].as_u64()?,
                emitted: probe["emitted"].as_u64()?,
                lost: probe["lost"].as_u64()?,
                lost_by_cpu: probe["lost_by_cpu"].as_array()?.iter().map(by_cpu).collect::<Option<_>>()?,
            })
        };
        Some(Self {
            duration_ns: json["duration_ns"].as_u64()?,
            unproved: json["unproved"].as_str().map(str::to_owned),
            losses: Losses {
                undecodable: json["undecodable"].as_u64()?,
                probes: json["probes"].as_array()?.iter().map(probe).collect::<Option<_>>()?,
            },
        })
    }
}
