//! Finding: what a rule says about an event, and the one ordered list of its fields.
//! Text, table and JSON all print that list.

use std::fmt;

use clap::ValueEnum;
use stealtrace_common::event::Event;

use super::{Thread, Vcpu, VcpuName};

/// The id of a rule. Each rule makes its own; who wants one takes it from `RULE.id`, so that none is mistyped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(&'static str);

impl RuleId {
    pub(crate) const fn new(id: &'static str) -> Self {
        Self(id)
    }

    /// As people and formats write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Severity {
    /// Ordinary for some VMMs; worth knowing.
    Notice,
    /// Against the API, or harmful on some kernels.
    Warning,
    /// The guest's steal time is wrong.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A field's value; the variant carries the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number without unit.
    Number(u64),
    /// Nanoseconds.
    Ns(u64),
    /// Nanoseconds that may be negative.
    SignedNs(i64),
    /// A thread; two fields in JSON (`x`, `x_tid`).
    Thread(Thread),
    /// Not known.
    Unknown,
}

/// A named value.
pub type Field = (&'static str, Value);

/// What a rule says about an event.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Of which rule.
    pub rule: RuleId,
    /// How bad it is.
    pub severity: Severity,
    /// When, ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Which vCPU.
    pub vcpu: VcpuName,
    /// Which thread.
    pub caller: Thread,
    /// In which ioctl; 0 if not known.
    pub ioctl: u32,
    /// What happened, in words.
    pub what: String,
    /// The rule's own evidence, in order.
    pub evidence: Vec<Field>,
    /// Is there nothing to it but the ioctl? Then the same thread's others on the vCPU are one story for people.
    pub about_ioctl: bool,
    /// What to do.
    pub advice: &'static str,
    /// How it came about, where the rule tells ways apart.
    pub cause: &'static str,
    /// How often so far (the same rule, cause, vCPU, caller, ioctl).
    pub count: u64,
}

impl Finding {
    /// A finding about this event.
    #[must_use]
    pub fn new(rule: RuleId, severity: Severity, vcpu: &Vcpu, event: &Event, what: String) -> Self {
        Self {
            rule,
            severity,
            time_ns: event.time_ns,
            vcpu: vcpu.name,
            caller: Thread::caller(event),
            ioctl: event.ioctl,
            what,
            evidence: Vec::new(),
            about_ioctl: false,
            advice: "",
            cause: "",
            count: 1,
        }
    }

    /// The same with one more piece of evidence.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.evidence.push((name, value));
        self
    }

    /// Every field, in the order in which every format shows them.
    #[must_use]
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = vec![
            ("rule", Value::Text(self.rule.to_string())),
            ("severity", Value::Text(self.severity.to_string())),
            ("vm_pid", Value::Number(self.vcpu.pid.into())),
            ("vm", Value::Number(self.vcpu.vm.into())),
            ("vcpu_id", Value::Number(self.vcpu.id.into())),
            ("caller", Value::Thread(self.caller.clone())),
            ("ioctl", Value::Text(crate::ioctl::name(self.ioctl).into_owned())),
        ];
        fields.extend(self.evidence.iter().cloned());
        fields.push(("what", Value::Text(self.what.clone())));
        fields.push(("advice", Value::Text(self.advice.to_owned())));
        fields.push(("count", Value::Number(self.count)));
        fields
    }
}

impl From<Option<u64>> for Value {
    fn from(ns: Option<u64>) -> Self {
        ns.map_or(Self::Unknown, Self::Ns)
    }
}

impl From<Option<&Thread>> for Value {
    fn from(thread: Option<&Thread>) -> Self {
        thread.map_or(Self::Unknown, |thread| Self::Thread(thread.clone()))
    }
}
