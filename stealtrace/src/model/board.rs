//! What the live table shows: rates between two looks, a line a vCPU or a VM, what is most wrong first. Pure.

use std::collections::{BTreeSet, HashMap};

use super::{Judgement, LastFinding, Look, Thread, VcpuLook};

/// Which lines, in which order.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// A line a VM instead of a line a vCPU?
    pub(crate) by_vm: bool,
    /// VMs that are shown the other way.
    pub(crate) folded: BTreeSet<String>,
    pub(crate) order: Order,
    /// Only VMs whose name has this, or whose process has this number; all if empty.
    pub(crate) filter: String,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// What is most wrong, then what steals most.
    #[default]
    Wrong,
    /// What steals most.
    Steal,
    /// By name.
    Name,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) domain: String,
    pub(crate) pid: u32,
    /// Its vCPU, and where that is; None for a whole VM.
    pub(crate) vcpu: Option<(u32, u64)>,
    /// How many vCPUs it stands for.
    pub(crate) vcpus: usize,
    pub(crate) judgement: Judgement,
    /// Shares of the time since the look before; None at the first.
    pub(crate) steal: Option<f64>,
    pub(crate) waited: Option<f64>,
    pub(crate) difference_ns: i64,
    pub(crate) runner: Option<Thread>,
    pub(crate) errors: u64,
    pub(crate) last: Option<LastFinding>,
}

/// What was charged and waited at the look before, by vCPU.
#[derive(Debug, Default)]
pub(crate) struct Board {
    time_ns: u64,
    before: HashMap<u64, (u64, u64)>,
    lines: Vec<Line>,
}

impl Board {
    /// One more look.
    pub(crate) fn learn(&mut self, look: &Look) {
        let passed_ns = look.time_ns.saturating_sub(self.time_ns) as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed_ns;
        let line = |(domain, vcpu): (String, &VcpuLook)| {
            let account = &vcpu.account;
            let before = self.before.get(&vcpu.address);
            Line {
                domain,
                pid: vcpu.pid,
                vcpu: Some((vcpu.id, vcpu.address)),
                vcpus: 1,
                judgement: vcpu.judgement,
                steal: before.map(|(charged, _)| share(account.charged_ns, *charged)),
                waited: before.map(|(_, waited)| share(account.waited_ns, *waited)),
                difference_ns: account.difference_ns(),
                runner: vcpu.runner.clone(),
                errors: account.errors,
                last: account.last_finding.clone(),
            }
        };
        self.lines = look.domains().into_iter().zip(&look.vcpus).map(line).collect();
        let account = |vcpu: &VcpuLook| (vcpu.address, (vcpu.account.charged_ns, vcpu.account.waited_ns));
        self.before = look.vcpus.iter().map(account).collect();
        self.time_ns = look.time_ns;
    }

    /// The lines of a view.
    pub(crate) fn lines(&self, view: &View) -> Vec<Line> {
        let pid = view.filter.parse().ok();
        let is_wanted = |line: &&Line| line.domain.contains(&view.filter) || Some(line.pid) == pid;
        let wanted: Vec<_> = self.lines.iter().filter(is_wanted).cloned().collect();
        let mut lines = Vec::new();
        for vm in wanted.chunk_by(|one, next| one.domain == next.domain) {
            let is_folded = vm.first().is_some_and(|line| view.folded.contains(&line.domain));
            if view.by_vm == is_folded {
                lines.extend_from_slice(vm);
            } else {
                lines.extend(vm.iter().cloned().reduce(Line::and));
            }
        }
        lines.sort_by(|one, other| one.compared(other, view.order));
        lines
    }
}

impl Line {
    /// Both in one line.
    fn and(self, other: Self) -> Self {
        let is_worse = badness(other.judgement) > badness(self.judgement);
        let sum = |one: Option<f64>, other: Option<f64>| Some(one? + other?);
        let last = [self.last, other.last].into_iter().flatten().max_by_key(|last| last.time_ns);
        Self {
            vcpu: None,
            vcpus: self.vcpus + other.vcpus,
            judgement: if is_worse { other.judgement } else { self.judgement },
            steal: sum(self.steal, other.steal),
            waited: sum(self.waited, other.waited),
            difference_ns: self.difference_ns.saturating_add(other.difference_ns),
            runner: None,
            errors: self.errors + other.errors,
            last,
            domain: self.domain,
            pid: self.pid,
        }
    }

    fn compared(&self, other: &Self, order: Order) -> std::cmp::Ordering {
        let wrong = || {
            let key = |line: &Self| (badness(line.judgement), line.errors > 0);
            key(other).cmp(&key(self))
        };
        let steal = || other.steal.unwrap_or(0.0).total_cmp(&self.steal.unwrap_or(0.0));
        let name = || (&self.domain, self.vcpu).cmp(&(&other.domain, other.vcpu));
        match order {
            Order::Wrong => wrong().then_with(steal).then_with(name),
            Order::Steal => steal().then_with(name),
            Order::Name => name(),
        }
    }
}

/// The worse, the more.
const fn badness(judgement: Judgement) -> u8 {
    match judgement {
        Judgement::Poisoned(_) => 4,
        Judgement::Off(_) => 3,
        Judgement::Unknown | Judgement::Jumped(_) => 2,
        Judgement::Untold => 1,
        Judgement::Sound | Judgement::Disabled => 0,
    }
}

impl Order {
    /// The next one, round and round.
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Wrong => Self::Steal,
            Self::Steal => Self::Name,
            Self::Name => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, Judgement, Line, Order, View};

    fn line(domain: &str, id: u32, steal: f64, judgement: Judgement) -> Line {
        Line {
            domain: domain.to_owned(),
            pid: 4000 + u32::from(domain.as_bytes()[0]),
            vcpu: Some((id, id.into())),
            vcpus: 1,
            judgement,
            steal: Some(steal),
            waited: Some(steal),
            difference_ns: 5,
            runner: None,
            errors: 0,
            last: None,
        }
    }

    fn shown(view: &View) -> Vec<(String, Option<u32>)> {
        let lines = vec![
            line("a", 0, 0.5, Judgement::Sound),
            line("a", 1, 0.1, Judgement::Poisoned(7)),
            line("b", 0, 0.9, Judgement::Sound),
        ];
        let board = Board { lines, ..Board::default() };
        board.lines(view).into_iter().map(|line| (line.domain, line.vcpu.map(|(id, _)| id))).collect()
    }

    fn expected(lines: &[(&str, Option<u32>)]) -> Vec<(String, Option<u32>)> {
        lines.iter().map(|(domain, id)| ((*domain).to_owned(), *id)).collect()
    }

    #[test]
    fn what_is_wrong_comes_first_then_what_steals_most() {
        let view = View::default();
        assert_eq!(shown(&view), expected(&[("a", Some(1)), ("b", Some(0)), ("a", Some(0))]));
        let view = View { order: Order::Steal, ..View::default() };
        assert_eq!(shown(&view), expected(&[("b", Some(0)), ("a", Some(0)), ("a", Some(1))]));
    }

    #[test]
    fn a_vm_is_one_line_or_a_line_a_vcpu() {
        let view = View { by_vm: true, ..View::default() };
        assert_eq!(shown(&view), expected(&[("a", None), ("b", Some(0))]));
        let folded = View { folded: ["a".to_owned()].into(), order: Order::Name, ..View::default() };
        assert_eq!(shown(&folded), expected(&[("a", None), ("b", Some(0))]));
        let unfolded = View { by_vm: true, ..folded };
        assert_eq!(shown(&unfolded), expected(&[("a", Some(0)), ("a", Some(1)), ("b", Some(0))]));
    }

    #[test]
    fn names_and_numbers_of_processes_are_looked_for() {
        let only = |filter: &str| shown(&View { filter: filter.to_owned(), ..View::default() });
        assert_eq!(only("b"), expected(&[("b", Some(0))]));
        assert_eq!(only("4097").len(), 2);
        assert_eq!(only("nothing"), []);
    }
}
