//! A finding of a log that shows no course of time: two numbers that must not stand in this relation, as bars.

use maud::{Markup, html};

use super::axes::short;
use crate::{
    model::{Finding, Thread, Value},
    os::shown::shown,
};

/// Two bars; the second is the one that is too long.
struct Bars {
    sound: (String, String, f64),
    wrong: (String, String, f64),
    says: String,
}

const LEFT: f64 = 345.0;
const ROOM: f64 = 450.0;

pub(super) fn bars(finding: &Finding) -> Markup {
    let Some(Bars { sound, wrong, says }) = underflow(finding).or_else(|| poisoned(finding)) else {
        return html! {};
    };
    // A bar that would leave no room for the other is broken.
    let is_broken = wrong.2 > 20.0 * sound.2 && sound.2 > 0.0;
    let full = if is_broken { 6.0 * sound.2 } else { wrong.2.max(sound.2).max(1.0) };
    let width = |value: f64| (value / full).min(1.0) * ROOM;
    html! {
        div.scroll {
            svg viewBox="0 0 1000 84" role="img" aria-label=(shown(&finding.what)) {
                @for (n, (label, text, value)) in [&sound, &wrong].into_iter().enumerate() {
                    @let y = 8 + 30 * n;
                    text x=(LEFT - 10.0) y=(y + 15) text-anchor="end" { (label) }
                    rect class=(if n == 0 { "bar" } else { "bar wrong" }) x=(LEFT) y=(y) width=(width(*value).max(1.5)) height="20" {}
                    text x=(LEFT + width(*value) + 10.0) y=(y + 15) { (text) }
                }
                @if is_broken { path.cut d=(format!("M{} 34l-8 28M{} 34l-8 28", LEFT + ROOM * 0.8, LEFT + ROOM * 0.8 + 7.0)) {} }
                text.warn x=(LEFT) y="80" { (says) }
            }
        }
    }
}

/// What the thread waited, and last_steal above it.
fn underflow(finding: &Finding) -> Option<Bars> {
    let (run_delay, last_steal) = (ns(finding, "run_delay")?, ns(finding, "last_steal")?);
    let delta = last_steal.checked_sub(run_delay)?;
    let owner =
        thread(finding, "last_steal_of").map(|owner| format!(" = waited by {owner}")).unwrap_or_default();
    let shown = |ns: u64| short(ns.cast_signed());
    Some(Bars {
        sound: (format!("waited by {}", finding.caller), shown(run_delay), run_delay as f64),
        wrong: (format!("last_steal{owner}"), shown(last_steal), last_steal as f64),
        says: format!(
            "{} are missing: the delta is below zero, and wraps to {} ns",
            shown(delta),
            delta.wrapping_neg()
        ),
    })
}

/// How long the guest is up, and steal above it.
fn poisoned(finding: &Finding) -> Option<Bars> {
    let (uptime, steal) = (number(finding, "least_uptime_ticks")?, number(finding, "steal_ticks")?);
    Some(Bars {
        sound: ("the guest ran, idled or waited".to_owned(), format!("{uptime} ticks"), uptime as f64),
        wrong: ("steal".to_owned(), format!("{steal} ticks"), steal as f64),
        says: shown(&finding.what).into_owned(),
    })
}

fn value<'a>(finding: &'a Finding, name: &str) -> Option<&'a Value> {
    finding.evidence.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn ns(finding: &Finding, name: &str) -> Option<u64> {
    if let Value::Ns(ns) = value(finding, name)? { Some(*ns) } else { None }
}

fn number(finding: &Finding, name: &str) -> Option<u64> {
    if let Value::Number(number) = value(finding, name)? { Some(*number) } else { None }
}

fn thread<'a>(finding: &'a Finding, name: &str) -> Option<&'a Thread> {
    if let Value::Thread(thread) = value(finding, name)? { Some(thread) } else { None }
}
