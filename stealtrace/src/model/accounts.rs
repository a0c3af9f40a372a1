//! The accounts of all vCPUs that live.

use std::collections::BTreeMap;

use stealtrace_common::event::{Event, EventKind};

use super::{Account, Charge, Finding, LastFinding, RuleId, Severity, Thread};

/// Findings that are kept for each vCPU.
const MOST_TOLD: usize = 4;

/// An account for each vCPU, by its `struct kvm_vcpu *`.
#[derive(Debug, Default)]
pub struct Accounts(BTreeMap<u64, Entry>);

#[derive(Debug)]
struct Entry {
    /// Another one at the same address has another one, or comes after its end.
    vcpu_id: u32,
    account: Account,
}

impl Accounts {
    /// An event, the rules that object to it, and what they make of its charge.
    pub fn learn(&mut self, event: &Event, fired: &[(RuleId, Severity)], charge: Charge) {
        if matches!(event.kind, EventKind::Created | EventKind::Destroyed) {
            self.0.remove(&event.vcpu);
        }
        if event.kind == EventKind::Destroyed || event.kind.is_of_thread() || event.vcpu == 0 {
            return;
        }
        let account = self.of(event.vcpu, event.vcpu_id);
        account.learn(event, charge);
        account.findings += fired.len() as u64;
        account.errors += fired.iter().filter(|(_, severity)| *severity == Severity::Error).count() as u64;
        if let Some((rule, _)) = fired.last() {
            let by = Thread::caller(event);
            account.last_finding = Some(LastFinding { rule: *rule, time_ns: event.time_ns, by });
        }
    }

    /// A finding that was told, of this vCPU.
    pub(crate) fn keep_told(&mut self, vcpu: u64, finding: &Finding) {
        if let Some(entry) = self.0.get_mut(&vcpu) {
            let told = &mut entry.account.told;
            told.truncate(MOST_TOLD - 1);
            told.insert(0, finding.clone());
        }
    }

    /// The account of a vCPU, opened if need be.
    pub(crate) fn of(&mut self, vcpu: u64, vcpu_id: u32) -> &mut Account {
        let opened = || Entry { vcpu_id, account: Account::default() };
        let entry = self.0.entry(vcpu).or_insert_with(opened);
        if entry.vcpu_id != vcpu_id {
            *entry = opened();
        }
        &mut entry.account
    }

    /// Close those of vCPUs that are no more.
    pub(crate) fn keep(&mut self, lives: impl Fn(&u64) -> bool) {
        self.0.retain(|vcpu, _| lives(vcpu));
    }

    /// Does one of them take another look?
    pub(crate) fn any_open(&self) -> bool {
        self.0.values().any(|entry| entry.account.is_open())
    }
}
