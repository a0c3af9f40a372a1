//! A vCPU's account: what KVM charged its guest with since it was first seen, what its runners waited since then, and
//! whether the guest's counter says the same. Fed by events as they come and by looks at everything there is. Pure.

use stealtrace_common::{
    event::{Event, EventKind, NUMBERS_UNKNOWN},
    kvm::KVM_RUN,
    source::is_enabled,
};

use super::{Finding, Judgement, Opinion, RuleId, Sight, Thread};

/// One vCPU's account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// What KVM charged and its runner had waited (ns).
    pub charged_ns: u64,
    /// What KVM added beside that (ns): less than nothing after an underflow.
    pub unsound_ns: i64,
    /// What its runners waited (ns), as far as they are known.
    pub waited_ns: u64,
    /// Findings about it, repetitions included.
    pub findings: u64,
    /// Those of them by which the guest's steal time is wrong.
    pub errors: u64,
    /// The last of them.
    pub last_finding: Option<LastFinding>,
    /// Those that were told, the latest first; only so many.
    pub told: Vec<Finding>,
    /// Up to where charges and waits are in the account; None before the first.
    last_steal_ns: Option<u64>,
    waiter: Option<Waiter>,
    /// When the last event was.
    event_ns: u64,
    opinion: Opinion,
}

/// What an update added, as the rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// What its runner had waited.
    Sound,
    /// Something else.
    Unsound,
    /// At the first run after enabling, the runner's past: the guest counts from there.
    Opening,
}

/// A finding, as far as tables have room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFinding {
    /// Of which rule.
    pub rule: RuleId,
    /// When, ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Which thread.
    pub by: Thread,
}

/// The runner, and its run_delay up to which its waiting is in the account.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    tid: u32,
    run_delay_ns: u64,
}

impl Account {
    /// What KVM told the guest beyond what its runners waited (ns); what waits to be charged makes it a little less.
    #[must_use]
    pub fn difference_ns(&self) -> i64 {
        let told = i128::from(self.charged_ns) + i128::from(self.unsound_ns);
        let difference = (told - i128::from(self.waited_ns)).clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(difference).unwrap_or_default()
    }

    /// An event of this vCPU; if it is an update, what its charge is.
    pub fn learn(&mut self, event: &Event, charge: Charge) {
        if event.has(NUMBERS_UNKNOWN) {
            return;
        }
        self.event_ns = event.time_ns;
        match event.kind {
            EventKind::Update => self.learn_update(event, charge),
            EventKind::EnablingWrite => self.last_steal_ns = Some(event.last_steal_after_ns),
            EventKind::Ioctl if event.ioctl == KVM_RUN => {
                let runner = Some((event.caller_tid, event.run_delay_ns));
                self.reach(event.last_steal_before_ns, runner, event.enabling_after);
            }
            _ => {}
        }
    }

    fn learn_update(&mut self, event: &Event, charge: Charge) {
        self.charge_up_to(event.last_steal_before_ns);
        let delta = event.delta();
        match charge {
            Charge::Sound => self.charged_ns = self.charged_ns.saturating_add(delta.wrapped_ns()),
            Charge::Unsound => self.unsound_ns = self.unsound_ns.saturating_add(delta.signed_ns()),
            Charge::Opening => self.waiter = None, // neither charged nor waited
        }
        self.wait(event.caller_tid, event.run_delay_ns);
        self.last_steal_ns = Some(event.last_steal_after_ns);
    }

    /// A look at this moment: last_steal, who runs it, and what that thread waited in all. One that an event overtook
    /// says nothing of charges.
    pub(crate) fn look(
        &mut self,
        time_ns: u64,
        last_steal_ns: u64,
        runner: Option<(u32, u64)>,
        sight: Sight,
    ) -> Judgement {
        if time_ns > self.event_ns {
            self.reach(last_steal_ns, runner, sight.enabling);
        }
        self.opinion.form(sight)
    }

    /// Charges and waits up to here. What is waited while the guest has not enabled steal time is nobody's to charge.
    fn reach(&mut self, last_steal_ns: u64, runner: Option<(u32, u64)>, enabling: u64) {
        if !is_enabled(enabling) {
            self.last_steal_ns = Some(last_steal_ns);
            self.waiter = runner.map(|(tid, run_delay_ns)| Waiter { tid, run_delay_ns });
            return;
        }
        self.charge_up_to(last_steal_ns);
        if let Some((tid, run_delay_ns)) = runner {
            self.wait(tid, run_delay_ns);
        }
    }

    /// Does it take another look to judge it?
    pub(crate) const fn is_open(&self) -> bool {
        self.opinion.is_open()
    }

    /// KVM copies what it charges into last_steal; what nothing was told of was sound.
    fn charge_up_to(&mut self, last_steal_ns: u64) {
        if let Some(before_ns) = self.last_steal_ns.replace(last_steal_ns) {
            self.charged_ns = self.charged_ns.saturating_add(last_steal_ns.saturating_sub(before_ns));
        }
    }

    /// What a former runner waited is known as far as it was charged.
    fn wait(&mut self, tid: u32, run_delay_ns: u64) {
        if let Some(before) = self.waiter.replace(Waiter { tid, run_delay_ns }) {
            let known_ns =
                if before.tid == tid { run_delay_ns } else { self.last_steal_ns.unwrap_or_default() };
            self.waited_ns = self.waited_ns.saturating_add(known_ns.saturating_sub(before.run_delay_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::{
        event::{Event, EventKind},
        kvm::KVM_RUN,
    };

    use super::{Account, Charge, Sight};

    fn look(account: &mut Account, last_steal_ns: u64, tid: u32, run_delay_ns: u64) {
        let charged_ns = last_steal_ns..=last_steal_ns;
        let sight = Sight { enabling: 0x1041, runner_tid: Some(tid), counter: None, charged_ns };
        account.look(u64::MAX, last_steal_ns, Some((tid, run_delay_ns)), sight);
    }

    fn event(kind: EventKind, tid: u32, last_steal_ns: u64, run_delay_ns: u64) -> Event {
        Event {
            kind,
            ioctl: KVM_RUN,
            enabling_before: 0x1041,
            enabling_after: 0x1041,
            caller_tid: tid,
            run_delay_ns,
            last_steal_before_ns: last_steal_ns,
            last_steal_after_ns: if kind == EventKind::Update { run_delay_ns } else { last_steal_ns },
            ..Event::default()
        }
    }

    #[test]
    fn looks_alone_show_what_a_runner_waited_and_was_charged() {
        let mut account = Account::default();
        look(&mut account, 500, 7, 510);
        look(&mut account, 900, 7, 950);
        assert_eq!((account.charged_ns, account.waited_ns, account.difference_ns()), (400, 440, -40));
    }

    #[test]
    fn an_underflow_is_no_charge_and_stays_as_the_difference() {
        let mut account = Account::default();
        look(&mut account, 1000, 7, 1000);
        account.learn(&event(EventKind::Ioctl, 8, 1300, 20), Charge::Sound);
        account.learn(&event(EventKind::Update, 8, 1300, 50), Charge::Unsound);
        look(&mut account, 80, 8, 80);
        assert_eq!((account.charged_ns, account.unsound_ns, account.waited_ns), (330, -1250, 360));
        assert_eq!(account.difference_ns(), -1280);
    }

    #[test]
    fn what_is_waited_while_nothing_is_charged_is_not_missing() {
        let mut account = Account::default();
        for run_delay_ns in [0, 5_000, 90_000] {
            let sight = Sight { enabling: 0, runner_tid: Some(7), counter: None, charged_ns: 0..=0 };
            account.look(u64::MAX, 0, Some((7, run_delay_ns)), sight);
        }
        assert_eq!((account.waited_ns, account.difference_ns()), (0, 0));
    }

    #[test]
    fn a_first_charge_of_a_runners_past_is_where_the_account_begins() {
        let mut account = Account::default();
        account.learn(&event(EventKind::Ioctl, 7, 0, 5000), Charge::Sound);
        account.learn(&event(EventKind::Update, 7, 0, 5000), Charge::Opening);
        look(&mut account, 5400, 7, 5400);
        assert_eq!((account.charged_ns, account.waited_ns, account.difference_ns()), (400, 400, 0));
    }
}
