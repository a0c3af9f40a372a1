//! More vCPUs than CPUs, and guests that do not leave: what steal time is for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};

use super::{Expects, Growth, Observation, Play, Scenario, worse};
use crate::vmm::{Vm, Watched, arch, guest, on_one_cpu, outwait_past};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "pinned-overcommit",
    about: "three vCPUs of a guest that never leaves share one CPU for a while, each on a thread of its own",
    property: "each vCPU's steal, and so their sum, grows by exactly its thread's run_delay",
    expects: Expects::RESCHEDULED,
    decides: None,
    play,
};

const VCPUS: u64 = 3;
const WHILE: Duration = Duration::from_millis(300);

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let vm = Vm::running(arch::SPIN)?;
    let memory = vm.memory();
    memory.set(guest::STOP, 1_u8); // every KVM_RUN returns at once
    let (ready, all_ready) = mpsc::channel();
    let go = Arc::new(AtomicBool::new(false));
    let threads: Vec<JoinHandle<Result<(Watched, Watched)>>> = (0..VCPUS)
        .map(|id| {
            let (vm, ready, go) = (vm.clone(), ready.clone(), Arc::clone(&go));
            thread::Builder::new().name(format!("vcpu{id}")).spawn(move || live(&vm, id, ready, &go))
        })
        .collect::<Result<_, _>>()?;
    drop(ready);
    all_ready.iter().for_each(|()| {}); // until each is, or has failed
    memory.set(guest::STOP, 0_u8);
    go.store(true, Ordering::Relaxed);
    thread::sleep(WHILE);
    memory.set(guest::STOP, 1_u8);

    let mut all = Observation { conclusive: true, ..Observation::default() };
    let (mut steal_ns, mut run_delay_ns) = (0, 0);
    for thread in threads {
        let (first, last) = thread.join().map_err(|_| anyhow!("a vCPU's thread panicked"))??;
        let growth = Growth::between(&first, &last).through_runs(&first, &last);
        steal_ns += growth.steal_ns();
        run_delay_ns += growth.run_delay_ns();
        all.fault = worse(all.fault, growth.fault().or_else(|| growth.lost()));
    }
    all.saw = format!("{steal_ns} ns together, threads waited {run_delay_ns} ns");
    Ok(all)
}

/// One vCPU's life: a run that charges the past, one in a guest that goes on until it is told to stop, a last one.
fn live(vm: &Vm, id: u64, ready: Sender<()>, go: &AtomicBool) -> Result<(Watched, Watched)> {
    let mut vcpu = vm.create_vcpu(id)?;
    vcpu.restore()?;
    outwait_past()?;
    on_one_cpu(|| {
        let first = Watched::run(&mut vcpu)?;
        ready.send(())?;
        drop(ready);
        while !go.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        vcpu.run()?;
        Ok((first, Watched::run(&mut vcpu)?))
    })
}
