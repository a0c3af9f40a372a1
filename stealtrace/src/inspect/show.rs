//! A look as a table, or as one JSON object.

use std::io::Write;

use anyhow::Result;
use serde_json::json;
use stealtrace_common::{
    kvm::{MSR_ADDRESS, msr_enabled},
    steal::StealDelta,
};

use super::{Judgement, Look, VcpuRow};
use crate::{
    doctor::DoctorFormat,
    model::Thread,
    report::{seconds, table, wrap},
};

pub(super) fn show(look: &Look, format: DoctorFormat, out: &mut impl Write) -> Result<()> {
    match format {
        DoctorFormat::Table => show_table(look, out),
        DoctorFormat::Json => Ok(writeln!(out, "{}", object(look))?),
    }
}

fn show_table(look: &Look, out: &mut impl Write) -> Result<()> {
    if let Some(none) = &look.none {
        return Ok(writeln!(out, "{none}")?);
    }
    let mut rows = table(["VM", "vCPU", "runner", "MSR", "guest's steal", "KVM's side", "judgement"]);
    for vcpu in &look.vcpus {
        rows.add_row([
            vm(vcpu),
            vcpu.id.to_string(),
            vcpu.runner.as_ref().map_or_else(|| "?".to_owned(), Thread::to_string),
            msr(vcpu),
            area(vcpu),
            kvm_side(vcpu),
            judgement(vcpu.judgement),
        ]);
    }
    wrap(&mut rows);
    writeln!(out, "{rows}")?;
    for (pid, id) in &look.unseen {
        writeln!(out, "not seen yet: vCPU {id} of process {pid} has issued no ioctl since we look")?;
    }
    if let Some(reason) = &look.unread {
        writeln!(out, "{reason}")?;
    }
    if look.lost > 0 {
        writeln!(out, "lost: {} events", look.lost)?;
    }
    if let Some(reason) = look.unlisted.as_ref().filter(|_| !look.unseen.is_empty()) {
        writeln!(out, "an iterator over open files would show it: {reason}")?;
    }
    Ok(())
}

fn vm(vcpu: &VcpuRow) -> String {
    match &vcpu.vm_name {
        Some(name) => format!("{name}\n{}({})", vcpu.comm, vcpu.pid),
        None => format!("{}({})", vcpu.comm, vcpu.pid),
    }
}

fn msr(vcpu: &VcpuRow) -> String {
    let enabled = if msr_enabled(vcpu.msr_val) { "enabled" } else { "disabled" };
    format!("{:#x}\n{enabled}, {:#x}", vcpu.msr_val, vcpu.msr_val & MSR_ADDRESS)
}

fn area(vcpu: &VcpuRow) -> String {
    let Some(area) = vcpu.area else { return "?".to_owned() };
    format!(
        "{} ns\n{:#x} = {}\nversion {}, flags {}, preempted {}",
        area.steal_ns,
        area.steal_ns,
        seconds(area.steal_ns),
        area.version,
        area.flags,
        area.preempted
    )
}

fn kvm_side(vcpu: &VcpuRow) -> String {
    let run_delay = vcpu.run_delay_ns.map_or_else(|| "?".to_owned(), |ns| format!("{ns} ns"));
    let off = ahead_of_libvirt(vcpu).map_or_else(|| "?".to_owned(), |ns| format!("{ns:+} ns"));
    format!("last_steal {} ns\nrun_delay {run_delay}\nguest's steal to that {off}", vcpu.last_steal_ns)
}

/// The guest's counter less what libvirt's `vcpu.N.delay` says.
fn ahead_of_libvirt(vcpu: &VcpuRow) -> Option<i64> {
    Some(StealDelta::between(vcpu.run_delay_ns?, vcpu.area?.steal_ns).signed_ns())
}

fn judgement(judgement: Judgement) -> String {
    match judgement.amount_ns() {
        Some(ns) => format!("{}\nby {ns} ns", judgement.word()),
        None => judgement.word().to_owned(),
    }
}

fn object(look: &Look) -> serde_json::Value {
    let vcpus: Vec<_> = look.vcpus.iter().map(vcpu_object).collect();
    let unseen: Vec<_> = look.unseen.iter().map(|(pid, id)| json!({"vm_pid": pid, "vcpu_id": id})).collect();
    json!({
        "type": "inspect",
        "schema": 1,
        "vcpus": vcpus,
        "not_seen": unseen,
        "no_iterator": look.unlisted,
        "none": look.none,
        "unread": look.unread,
        "lost": look.lost,
    })
}

fn vcpu_object(vcpu: &VcpuRow) -> serde_json::Value {
    json!({
        "vm_pid": vcpu.pid,
        "vm_comm": vcpu.comm,
        "vm_name": vcpu.vm_name,
        "vcpu_id": vcpu.id,
        "runner_tid": vcpu.runner.as_ref().map(|runner| runner.tid),
        "runner": vcpu.runner.as_ref().map(|runner| &runner.comm),
        "msr": vcpu.msr_val,
        "msr_enabled": msr_enabled(vcpu.msr_val),
        "area_guest_address": vcpu.msr_val & MSR_ADDRESS,
        "steal_ns": vcpu.area.map(|area| area.steal_ns),
        "version": vcpu.area.map(|area| area.version),
        "flags": vcpu.area.map(|area| area.flags),
        "preempted": vcpu.area.map(|area| area.preempted),
        "last_steal_ns": vcpu.last_steal_ns,
        "run_delay_ns": vcpu.run_delay_ns,
        "ahead_of_libvirt_delay_ns": ahead_of_libvirt(vcpu),
        "judgement": vcpu.judgement.word(),
        "amount_ns": vcpu.judgement.amount_ns(),
    })
}
