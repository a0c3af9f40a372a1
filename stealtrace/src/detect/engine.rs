//! Engine: knows every vCPU, lets every rule judge every event, folds repetition, keeps the count for the summary.

use std::collections::{BTreeMap, VecDeque, hash_map::Entry};

use rustc_hash::FxHashMap;
use stealtrace_common::event::{Event, EventKind};

use super::{Case, Open, RULES, Rule};
use crate::model::{
    Finding, RuleId, Severity, Summary, Thread, Threads, Vcpu, VcpuKey, VcpuName, VcpuSummary, VmNames,
};

/// Repetition is the same rule and cause about the same vCPU, caller and ioctl.
type Fold = (RuleId, &'static str, VcpuKey, Thread, u32);

/// vCPUs that ended and stay in the summary; of older ones only the number is kept.
const MOST_ENDED: usize = 1000;

/// What was said of a fold so far.
#[derive(Default)]
struct Said {
    count: u64,
    worst: Option<Severity>,
}

/// What the rules say about one event.
#[derive(Default)]
pub struct Ruling {
    /// How the event's vCPU is shown.
    pub vcpu: VcpuName,
    /// The rules that fired, however often before.
    pub fired: Vec<(RuleId, Severity)>,
    /// The findings worth telling, repetitions left out.
    pub told: Vec<Finding>,
}

impl Ruling {
    /// Did any rule fire?
    #[must_use]
    pub const fn is_anomalous(&self) -> bool {
        !self.fired.is_empty()
    }
}

/// Judges events one by one, in the order in which they happened.
pub struct Engine {
    rules: Vec<&'static Rule>,
    min_severity: Severity,
    vcpus: FxHashMap<VcpuKey, Box<Vcpu>>,
    order: Vec<VcpuKey>,
    /// By address: only one vCPU can be there. With its `struct kvm *`.
    alive: FxHashMap<u64, (VcpuKey, u64)>,
    ended: VecDeque<VcpuKey>,
    unlisted: u64,
    names: VmNames,
    threads: Threads,
    said: FxHashMap<Fold, Said>,
    findings: BTreeMap<(RuleId, Severity), u64>,
    events: u64,
}

impl Default for Engine {
    /// All rules, all severities.
    fn default() -> Self {
        Self::new(&[], Severity::Notice)
    }
}

impl Engine {
    /// An engine with these rules (all if none are named) that ignores findings below a severity.
    #[must_use]
    pub fn new(rules: &[String], min_severity: Severity) -> Self {
        let wanted = |rule: &&Rule| rules.is_empty() || rules.iter().any(|id| id == rule.id.as_str());
        Self {
            rules: RULES.iter().filter(wanted).collect(),
            min_severity,
            vcpus: FxHashMap::default(),
            order: Vec::new(),
            alive: FxHashMap::default(),
            ended: VecDeque::new(),
            unlisted: 0,
            names: VmNames::default(),
            threads: Threads::default(),
            said: FxHashMap::default(),
            findings: BTreeMap::new(),
            events: 0,
        }
    }

    /// Judge an event.
    pub fn judge(&mut self, event: &Event) -> Ruling {
        self.events += 1;
        self.threads.learn(event);
        if event.kind == EventKind::ThreadEnded {
            self.thread_ended(event);
        }
        if event.kind.is_of_thread() {
            return Ruling::default();
        }
        let key = VcpuKey::of(event);
        let is_there = self.alive.get(&key.address).is_some_and(|(alive, _)| *alive == key);
        let found_before = if is_there { Vec::new() } else { self.meet(key, event) };
        let threads = &self.threads;
        let vcpu = self.vcpus.entry(key).or_insert_with(|| {
            self.order.push(key);
            Box::new(Vcpu::first_seen(self.names.begin(event)))
        });
        let case = Case { vcpu, threads, event };
        let open = Open { vcpu, threads, next: Some(event) };
        let mut found = settled(&self.rules, open, self.min_severity);
        for rule in &self.rules {
            if let Some(finding) = (rule.judge)(case)
                && finding.severity >= self.min_severity
            {
                found.push(advised(rule, finding));
            }
        }
        vcpu.findings += found.iter().map(|finding| finding.count).sum::<u64>();
        vcpu.learn(event);
        let mut ruling = Ruling { vcpu: vcpu.name, fired: Vec::new(), told: found_before };
        for finding in found {
            ruling.fired.push((finding.rule, finding.severity));
            ruling.told.extend(self.fold(key, finding));
        }
        if event.kind == EventKind::Destroyed {
            self.alive.remove(&key.address);
            self.forget_name(key, event.vm);
            self.end(key);
        }
        ruling
    }

    /// It is new, or another was thought to be there: what is found of that.
    fn meet(&mut self, key: VcpuKey, event: &Event) -> Vec<Finding> {
        if self.vcpus.contains_key(&key) {
            if let Entry::Vacant(place) = self.alive.entry(key.address) {
                place.insert((key, event.vm)); // taken for one that ended, and lives
                self.ended.retain(|ended| *ended != key);
            }
            return Vec::new();
        }
        let Some((gone, vm)) = self.alive.insert(key.address, (key, event.vm)) else { return Vec::new() };
        let found = self.settle_vcpu(gone); // its end was not seen
        if vm != event.vm {
            self.forget_name(gone, vm); // else its id tells that the VM is a new one
        }
        self.end(gone);
        found
    }

    /// It may have run any number of vCPUs.
    fn thread_ended(&mut self, event: &Event) {
        self.threads.end(event.caller_tid);
        for (key, _) in self.alive.values() {
            if let Some(vcpu) = self.vcpus.get_mut(key) {
                vcpu.learn(event);
            }
        }
    }

    fn forget_name(&mut self, key: VcpuKey, vm: u64) {
        if let Some(vcpu) = self.vcpus.get(&key) {
            self.names.end(vm, vcpu.name.id);
        }
    }

    /// A vCPU is no more. Its memory is not kept for ever.
    fn end(&mut self, key: VcpuKey) {
        self.ended.push_back(key);
        if self.ended.len() > MOST_ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.unlisted += 1;
            self.order.retain(|key| *key != oldest);
            if self.vcpus.remove(&oldest).is_some_and(|vcpu| vcpu.findings > 0) {
                self.said.retain(|(_, _, key, _, _), _| *key != oldest);
            }
        }
    }

    /// Nothing follows of this vCPU: the findings that waited for more.
    fn settle_vcpu(&mut self, key: VcpuKey) -> Vec<Finding> {
        let Some(vcpu) = self.vcpus.get_mut(&key) else {
            return Vec::new();
        };
        let open = Open { vcpu, threads: &self.threads, next: None };
        let found = settled(&self.rules, open, self.min_severity);
        vcpu.findings += found.iter().map(|finding| finding.count).sum::<u64>();
        found.into_iter().filter_map(|finding| self.fold(key, finding)).collect()
    }

    /// A finding that evidence shows by itself, if this engine has its rule; told unless it repeats one.
    pub fn admit(&mut self, key: VcpuKey, mut finding: Finding) -> Option<Finding> {
        let rule = self.rules.iter().find(|rule| rule.id == finding.rule)?;
        if finding.severity < self.min_severity {
            return None;
        }
        finding.advice = rule.explanation.advice;
        self.vcpus.entry(key).and_modify(|vcpu| vcpu.findings += 1);
        self.fold(key, finding)
    }

    /// vCPUs whose end nobody saw, and what only threads and processes that ended would need; the findings that waited.
    pub fn forget(&mut self, is_vcpu: &dyn Fn(u64) -> bool, is_thread: &dyn Fn(u32) -> bool) -> Vec<Finding> {
        let gone: Vec<_> =
            self.alive.iter().filter(|(address, _)| !is_vcpu(**address)).map(|(_, gone)| *gone).collect();
        let mut found = Vec::new();
        for (key, vm) in gone {
            found.extend(self.settle_vcpu(key));
            if let Some(vcpu) = self.vcpus.get_mut(&key) {
                (vcpu.hand_off, vcpu.unsettled) = (None, None); // settled
            }
            self.alive.remove(&key.address);
            self.forget_name(key, vm);
            self.end(key);
        }
        if self.threads.are_many() {
            self.threads.keep(is_thread);
            self.names.keep(is_thread);
            self.said.retain(|(_, _, _, thread, _), _| is_thread(thread.tid));
            for vcpu in self.vcpus.values_mut() {
                vcpu.ioctls.retain(|(tid, _), _| is_thread(*tid));
            }
        }
        found
    }

    /// Nothing follows: the findings that waited for more.
    pub fn finish(&mut self) -> Vec<Finding> {
        let alive: Vec<_> = self
            .order
            .iter()
            .filter(|key| self.alive.get(&key.address).is_some_and(|(alive, _)| alive == *key))
            .copied()
            .collect();
        alive.into_iter().flat_map(|key| self.settle_vcpu(key)).collect()
    }

    /// The finding, unless it only repeats one that was told before.
    fn fold(&mut self, key: VcpuKey, mut finding: Finding) -> Option<Finding> {
        *self.findings.entry((finding.rule, finding.severity)).or_default() += finding.count;
        let fold = (finding.rule, finding.cause, key, finding.caller.clone(), finding.ioctl);
        let said = self.said.entry(fold).or_default();
        said.count += finding.count;
        finding.count = said.count;
        let worse = said.worst.is_none_or(|worst| finding.severity > worst);
        said.worst = said.worst.max(Some(finding.severity));
        worse.then_some(finding)
    }

    /// Was there no vCPU to judge?
    #[must_use]
    pub fn saw_nothing(&self) -> bool {
        self.order.is_empty()
    }

    /// ioctls of the vCPU that is at this address, by thread.
    #[must_use]
    pub fn ioctls(&self, address: u64) -> BTreeMap<Thread, u64> {
        let vcpu = self.alive.get(&address).and_then(|(key, _)| self.vcpus.get(key));
        vcpu.map(|vcpu| summarize(vcpu, &self.threads).ioctls).unwrap_or_default()
    }

    /// Findings by rule and severity so far, repetitions included.
    #[must_use]
    pub const fn findings(&self) -> &BTreeMap<(RuleId, Severity), u64> {
        &self.findings
    }

    /// Findings of a rule at a severity so far, repetitions included.
    #[must_use]
    pub fn count(&self, rule: RuleId, severity: Severity) -> u64 {
        self.findings.get(&(rule, severity)).copied().unwrap_or(0)
    }

    /// What was seen and found so far; the caller adds duration, backend and losses.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            events: self.events,
            vcpus: self
                .order
                .iter()
                .filter_map(|key| self.vcpus.get(key))
                .map(|vcpu| summarize(vcpu, &self.threads))
                .collect(),
            unlisted: self.unlisted,
            findings: self.findings.clone(),
            ..Summary::default()
        }
    }
}

/// What the rules that waited say now, from this severity upwards.
fn settled(rules: &[&Rule], open: Open<'_>, min_severity: Severity) -> Vec<Finding> {
    if !open.vcpu.awaits_more() {
        return Vec::new(); // as mostly
    }
    let waiting = rules.iter().filter_map(|rule| Some((rule, rule.settle?)));
    let found =
        waiting.flat_map(|(rule, settle)| settle(open).into_iter().map(|finding| advised(rule, finding)));
    found.filter(|finding| finding.severity >= min_severity).collect()
}

/// With the rule's advice, unless it has its own.
fn advised(rule: &Rule, finding: Finding) -> Finding {
    if finding.advice.is_empty() { Finding { advice: rule.explanation.advice, ..finding } } else { finding }
}

fn summarize(vcpu: &Vcpu, threads: &Threads) -> VcpuSummary {
    let mut ioctls = BTreeMap::new();
    for ((tid, _), count) in &vcpu.ioctls {
        let thread = threads.find(*tid).unwrap_or_else(|| Thread { tid: *tid, comm: "?".to_owned() });
        *ioctls.entry(thread).or_default() += count;
    }
    VcpuSummary {
        name: vcpu.name,
        creator: vcpu.creator.clone(),
        runner: vcpu.runner.clone(),
        ioctls,
        updates: vcpu.updates,
        findings: vcpu.findings,
    }
}

#[cfg(test)]
mod tests;
