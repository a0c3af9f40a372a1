//! inspect's look, as text for 80 columns, or as one JSON object.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::json;
use stealtrace_common::{
    source::Source,
    steal::{StealDelta, is_impossible},
};

use super::{Format, Paint, SCHEMA, States, Tone, enabling, exact, utc_now};
use crate::{
    model::{Account, Judgement, Look, Thread, Throttled, VcpuLook},
    os::shown::shown,
};

pub(crate) fn show(look: &Look, format: Format, paint: Paint, out: &mut impl Write) -> Result<()> {
    match format.states() {
        States::Json => writeln!(out, "{}", object(look))?,
        States::Text => show_text(look, paint, out)?,
    }
    Ok(())
}

fn show_text(look: &Look, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    if let Some(none) = &look.none {
        return writeln!(out, "{}", shown(none));
    }
    for vcpus in look.vcpus.chunk_by(|one, next| (one.pid, one.vm) == (next.pid, next.vm)) {
        if let Some(first) = vcpus.first() {
            writeln!(out, "{}", vm(first))?;
            if let Some(Throttled { times, time_ns }) =
                first.throttled.filter(|throttled| throttled.times > 0)
            {
                let time = exact(time_ns);
                writeln!(out, "  its quota of CPU time was used up {times} times, for {time}: steal, too")?;
            }
        }
        vcpus.iter().try_for_each(|vcpu| show_vcpu(vcpu, paint, out))?;
    }
    for (pid, id) in &look.unseen {
        writeln!(out, "not seen yet: vCPU {id} of process {pid} has issued no ioctl since we look")?;
    }
    if let Some(reason) = &look.unread {
        writeln!(out, "{reason}")?;
    }
    if look.lost > 0 {
        writeln!(out, "lost: {} events", look.lost)?;
    }
    match look.no_iterator.as_ref().filter(|_| !look.unseen.is_empty()) {
        Some(reason) => writeln!(out, "an iterator over open files would show it: {reason}"),
        None => Ok(()),
    }
}

/// `VM web1, qemu-system-x86(4711)`; which of its process's VMs, where it has several.
fn vm(vcpu: &VcpuLook) -> String {
    let process = format!("{}({})", shown(&vcpu.comm), vcpu.pid);
    match (&vcpu.vm_name, vcpu.vm) {
        (_, Some(vm)) => format!("VM {vm} of {process}"),
        (Some(name), None) => format!("VM {}, {process}", shown(name)),
        (None, None) => format!("VM {process}"),
    }
}

pub(super) fn show_vcpu(vcpu: &VcpuLook, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let runner = vcpu.runner.as_ref().map_or_else(|| "not run yet".to_owned(), |by| format!("run by {by}"));
    let judgement = paint.text(&format!("{:<12}", vcpu.judgement.word()), tone(vcpu.judgement));
    writeln!(out, "  vCPU {:<4} {judgement} {runner}", vcpu.id)?;
    if let Some(why) = why(vcpu.judgement) {
        writeln!(out, "            {why}")?;
    }
    writeln!(out, "            guest's steal {}", steal(vcpu))?;
    writeln!(
        out,
        "            KVM's last_steal {}, runner's run_delay {}",
        exact(vcpu.last_steal_ns),
        run_delay(vcpu)
    )?;
    write!(out, "            {} {}", Source::of(vcpu.enabling).word(), enabling(vcpu.enabling))?;
    match vcpu.area {
        Some(area) => {
            let preempted = if area.preempted == 0 { "" } else { ", preempted" };
            let rest = match Source::of(vcpu.enabling) {
                Source::XenRunstate => String::new(),
                source if source.versions() == 0 => format!(", flags {}", area.flags),
                _ => format!(", version {}, flags {}", area.version, area.flags),
            };
            writeln!(out, "{rest}{preempted}")?;
        }
        None => writeln!(out)?,
    }
    let Account { charged_ns, waited_ns, .. } = vcpu.account;
    let (charged, waited) = (exact(charged_ns), exact(waited_ns));
    writeln!(out, "            since it was first seen: charged {charged}, waited {waited}")
}

pub(super) const fn tone(judgement: Judgement) -> Tone {
    match judgement {
        Judgement::Sound => Tone::Good,
        Judgement::Off(_) | Judgement::Poisoned(_) => Tone::Bad,
        Judgement::Untold | Judgement::Jumped(_) | Judgement::Unknown => Tone::Doubtful,
        Judgement::Disabled => Tone::Plain,
    }
}

/// In words, where the judgement's own does not say it.
fn why(judgement: Judgement) -> Option<String> {
    match judgement {
        Judgement::Off(ns) => {
            let than = if ns < 0 { "less" } else { "more" };
            Some(format!(
                "grew by {} {than} than its runner waited, between two looks",
                exact(ns.unsigned_abs())
            ))
        }
        Judgement::Jumped(ns) => Some(format!(
            "jumped by {} once and counts right since: a hand-off, or a snapshot",
            exact(ns.unsigned_abs())
        )),
        Judgement::Poisoned(ns) => Some(format!("the guest's steal is {} below zero", exact(ns))),
        Judgement::Untold => Some("possible, but not charged between two looks".to_owned()),
        Judgement::Unknown => Some("the guest's counter cannot be read".to_owned()),
        Judgement::Disabled | Judgement::Sound => None,
    }
}

fn steal(vcpu: &VcpuLook) -> String {
    match vcpu.area {
        None => "?".to_owned(),
        Some(area) if is_impossible(area.steal_ns) => {
            format!("{} ns ({:#x})", area.steal_ns, area.steal_ns)
        }
        Some(area) => exact(area.steal_ns),
    }
}

/// libvirt's `vcpu.N.delay`.
fn run_delay(vcpu: &VcpuLook) -> String {
    vcpu.run_delay_ns.map_or_else(|| "?".to_owned(), exact)
}

/// The guest's counter less what libvirt's `vcpu.N.delay` says.
fn ahead_of_libvirt(vcpu: &VcpuLook) -> Option<i64> {
    Some(StealDelta::between(vcpu.run_delay_ns?, vcpu.area?.steal_ns).signed_ns())
}

fn object(look: &Look) -> serde_json::Value {
    let vcpus: Vec<_> = look.vcpus.iter().map(vcpu_object).collect();
    let unseen: Vec<_> = look.unseen.iter().map(|(pid, id)| json!({"vm_pid": pid, "vcpu_id": id})).collect();
    json!({
        "type": "inspect",
        "schema": SCHEMA,
        "utc": utc_now(),
        "vcpus": vcpus,
        "not_seen": unseen,
        "no_iterator": look.no_iterator,
        "none": look.none,
        "unread": look.unread,
        "lost": look.lost,
    })
}

fn vcpu_object(vcpu: &VcpuLook) -> serde_json::Value {
    let source = Source::of(vcpu.enabling);
    let key = source.key();
    json!({
        "vm_pid": vcpu.pid,
        "vm": vcpu.vm,
        "vm_comm": vcpu.comm,
        "vm_name": vcpu.vm_name,
        "vcpu_id": vcpu.id,
        "runner_tid": vcpu.runner.as_ref().map(|runner| runner.tid),
        "runner": vcpu.runner.as_ref().map(|Thread { comm, .. }| comm),
        key: source.given(vcpu.enabling),
        format!("{key}_enabled"): source.is_enabled(vcpu.enabling),
        "area_guest_address": source.area(vcpu.enabling),
        "steal_ns": vcpu.area.map(|area| area.steal_ns),
        "version": vcpu.area.map(|area| area.version),
        "flags": vcpu.area.map(|area| area.flags),
        "preempted": vcpu.area.map(|area| area.preempted),
        "last_steal_ns": vcpu.last_steal_ns,
        "run_delay_ns": vcpu.run_delay_ns,
        "ahead_of_libvirt_delay_ns": ahead_of_libvirt(vcpu),
        "charged_ns": vcpu.account.charged_ns,
        "unsound_ns": vcpu.account.unsound_ns,
        "waited_ns": vcpu.account.waited_ns,
        "difference_ns": vcpu.account.difference_ns(),
        "throttled_times": vcpu.throttled.map(|throttled| throttled.times),
        "throttled_ns": vcpu.throttled.map(|throttled| throttled.time_ns),
        "judgement": vcpu.judgement.word(),
        "amount_ns": vcpu.judgement.amount_ns(),
    })
}
