//! The view of calls, laid out as the systemtap script of Launchpad 1494350 did: per thread, µs since its outermost
//! call, nested arrows, run_delay and steal (KVM's last_steal) between them, `**` on what a rule objects to.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use stealtrace_common::{
    event::{Event, EventKind},
    steal::StealDelta,
};

use super::{Reporter, text::Text};
use crate::{
    detect::Ruling,
    ioctl,
    model::{Finding, Summary, Thread},
    os::shown::shown,
};

/// The calls that a thread is in: none of them twice, since a function that is entered again has returned before, whether
/// or not that was seen.
#[derive(Default)]
struct Nesting {
    began_ns: u64,
    functions: Vec<u64>,
}

impl Nesting {
    /// The depth of a function that is entered.
    fn enter(&mut self, function: u64, time_ns: u64) -> usize {
        self.leave(function);
        if self.functions.is_empty() {
            self.began_ns = time_ns;
        }
        self.functions.push(function);
        self.functions.len() - 1
    }

    /// The depth of a function that is left, and with it whatever it called. The trace may have begun inside of it.
    fn leave(&mut self, function: u64) -> usize {
        if let Some(depth) = self.functions.iter().position(|entered| *entered == function) {
            self.functions.truncate(depth);
        }
        self.functions.len()
    }
}

pub(crate) struct Calls<W> {
    /// Shows what is no call.
    text: Text<W>,
    functions: HashMap<u64, String>,
    threads: HashMap<u32, Nesting>,
    /// Are ioctls all there is to see (tracepoint backend)?
    ioctls_only: bool,
}

impl<W: Write> Calls<W> {
    pub(crate) fn new(text: Text<W>, functions: &[(u64, String)], ioctls_only: bool) -> Self {
        Self { text, functions: functions.iter().cloned().collect(), threads: HashMap::new(), ioctls_only }
    }

    fn enter(&mut self, event: &Event, name: &str, marked: bool) -> io::Result<()> {
        let nesting = self.threads.entry(event.caller_tid).or_default();
        let indent = " ".repeat(nesting.enter(event.function, event.time_ns));
        self.line(event, marked, &format!("{indent}-> {name}"))
    }

    fn leave(&mut self, event: &Event, name: &str) -> io::Result<()> {
        let nesting = self.threads.entry(event.caller_tid).or_default();
        let indent = " ".repeat(nesting.leave(event.function));
        self.line(event, false, &format!("{indent}<- {name}"))?;
        if self.threads.get(&event.caller_tid).is_some_and(|nesting| nesting.functions.is_empty()) {
            self.threads.remove(&event.caller_tid);
        }
        Ok(())
    }

    fn line(&mut self, event: &Event, marked: bool, says: &str) -> io::Result<()> {
        let began_ns = self.threads.get(&event.caller_tid).map_or(event.time_ns, |nesting| nesting.began_ns);
        let micros = event.time_ns.saturating_sub(began_ns) / 1000;
        let caller = Thread::caller(event);
        if marked {
            let mark = self.text.mark(true);
            writeln!(self.text.out(), "{mark} {micros:>2} {caller}: {says}")
        } else {
            writeln!(self.text.out(), "{micros:>6} {caller}: {says}")
        }
    }

    fn function(&self, event: &Event) -> String {
        match self.functions.get(&event.function) {
            Some(name) => shown(name).into_owned(),
            None if event.function == 0 => ioctl::name(event.ioctl).into_owned(),
            None => format!("{:#x}", event.function),
        }
    }
}

impl<W: Write> Reporter for Calls<W> {
    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()> {
        let marked = ruling.is_anomalous();
        let name = self.function(event);
        match event.kind {
            EventKind::Call => self.enter(event, &name, marked),
            EventKind::Return => self.leave(event, &name),
            EventKind::Ioctl => {
                self.threads.remove(&event.caller_tid); // whatever it was in has returned
                if self.ioctls_only { self.enter(event, &name, marked) } else { Ok(()) }
            }
            EventKind::Load => self.line(event, marked || underflows(event), &load(event)),
            EventKind::Update => self.line(event, marked, &delta(event)),
            EventKind::EnablingWrite => self.line(event, marked, &enabling(event)),
            EventKind::Created | EventKind::Destroyed | EventKind::ThreadEnded => Ok(()),
        }
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.text.finding(finding)
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.text.note(note)
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.text.summary(summary)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.text.flush()
    }
}

fn steal_delta(event: &Event) -> StealDelta {
    event.delta()
}

fn underflows(event: &Event) -> bool {
    event.was_enabled() && steal_delta(event).is_underflow()
}

fn load(event: &Event) -> String {
    format!("kvm_arch_vcpu_load: run_delay={} ns steal={} ns", event.run_delay_ns, event.last_steal_before_ns)
}

fn delta(event: &Event) -> String {
    let delta = steal_delta(event).wrapped_ns();
    format!("delta: {delta} ns, steal={} ns, run_delay={} ns", event.last_steal_before_ns, event.run_delay_ns)
}

fn enabling(event: &Event) -> String {
    let [before, after] =
        [event.enabling_before, event.enabling_after].map(|value| event.source.given(value));
    format!("{}: {before:#x} -> {after:#x}", event.source.enabling())
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, EventKind};

    use super::Calls;
    use crate::{
        detect::Ruling,
        evidence::{Kind, detect},
        report::{Clock, Paint, Reporter as _, Units, text::Text},
    };

    fn shown(events: &[Event]) -> String {
        let mut out = Vec::new();
        let clock = Clock { start_ns: 0, utc_offset_ns: None };
        let functions = [(1, "kvm_arch_vcpu_put".to_owned()), (2, "kvm_put_guest_fpu".to_owned())];
        let mut calls = Calls::new(Text::new(clock, Paint(false), Units::Human, &mut out), &functions, false);
        for event in events {
            calls.event(event, &Ruling::default()).unwrap();
        }
        drop(calls);
        String::from_utf8(out).unwrap()
    }

    fn event(kind: EventKind, micros: u64, function: u64) -> Event {
        Event {
            kind,
            time_ns: 1000 * (50 + micros),
            function,
            caller_tid: 18446,
            comm: *b"qemu-system-x86\0",
            ..Event::default()
        }
    }

    #[test]
    fn it_looks_like_the_script_of_2015() {
        let text = shown(&[
            event(EventKind::Call, 0, 1),
            event(EventKind::Call, 2, 2),
            event(EventKind::Return, 3, 2),
            event(EventKind::Return, 4, 1),
        ]);
        let log = include_str!("../../../tests/evidence/systemtap.txt").replace('\u{a0}', " ");
        let same: Vec<_> =
            log.lines().skip_while(|line| !line.ends_with("-> kvm_arch_vcpu_put")).take(4).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), same);
    }

    #[test]
    fn a_return_that_is_missing_does_not_move_what_follows() {
        let call = |micros, function| event(EventKind::Call, micros, function);
        let text = shown(&[call(0, 1), call(1, 2), call(2, 1), call(3, 2), call(4, 2)]);
        let depths: Vec<_> =
            text.lines().map(|line| line.split(": ").nth(1).unwrap().find("->").unwrap()).collect();
        assert_eq!(depths, [0, 1, 0, 1, 1], "{text}");
        let text = shown(&[call(0, 1), event(EventKind::Ioctl, 1, 0), call(2, 2)]);
        assert!(text.ends_with(": -> kvm_put_guest_fpu\n"), "{text}");
    }

    #[test]
    fn loads_and_deltas_read_as_the_scripts_do() {
        let numbers = Event {
            run_delay_ns: 40_304,
            last_steal_before_ns: 7_856_949,
            enabling_before: 1,
            ..Event::default()
        };
        let load = Event { kind: EventKind::Load, ..numbers };
        let update = Event { kind: EventKind::Update, ..numbers };
        let text = shown(&[load, update]);
        assert!(
            text.contains(" **  0 (0): kvm_arch_vcpu_load: run_delay=40304 ns steal=7856949 ns"),
            "{text}"
        );
        assert!(
            text.contains("delta: 18446744073701734971 ns, steal=7856949 ns, run_delay=40304 ns"),
            "{text}"
        );
    }

    #[test]
    fn a_return_without_its_call_is_shown_and_the_output_reads_as_evidence() {
        let text = shown(&[event(EventKind::Return, 4, 1), event(EventKind::Call, 5, 7)]);
        assert!(text.contains("<- kvm_arch_vcpu_put") && text.contains("-> 0x7"), "{text}");
        assert_eq!(detect(&text), Some(Kind::Systemtap));
    }
}
