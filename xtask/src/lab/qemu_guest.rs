//! A real VMM with a real Linux guest inside the lab guest: Debian's QEMU with KVM, and the lab's own kernel once more.
//! A program of the tests' plays the guest's life, and compares what everybody says of it.

use std::time::Duration;

use anyhow::Result;

use super::{
    emulator::Qemu,
    initramfs::{self, Extra},
    kernels::Kernel,
    linked, on_path,
    progress::Counts,
    qemu::Boot,
    run_boot,
};
use crate::{arch::Arch, build, cache, ledger};

/// It takes two to four minutes; as long as it goes on, a slow machine may take its time.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// The Linux guest: is busy, beats, brings CPUs online that were plugged in, and judges its own steal.
const GUEST_INIT: &str = r#"#!/bin/sh
export PATH=/bin NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
[ -f /msr.ko ] && insmod /msr.ko
echo "guest up"
busy() { while :; do :; done; }
busy &
busy &
second=$!
beat=0
while true; do
    for cpu in /sys/devices/system/cpu/cpu[1-9]; do
        [ "$(cat $cpu/online 2> /dev/null)" = 0 ] && echo 1 > $cpu/online
    done
    # A CPU that was lost and comes back has little to do: its counter heals as its new thread waits.
    [ $(grep -c '^cpu[0-9]' /proc/stat) = 1 ] && [ $beat != 0 ] && kill $second 2> /dev/null
    stealtrace guest
    code=$?
    beat=$((beat + 1))
    echo "beat $beat cpus $(grep -c '^cpu[0-9]' /proc/stat), stealtrace guest exits with $code"
done
"#;

/// The life's exit code when the guest rebooted by itself.
const REBOOTED: u8 = 3;

/// Play these parts of it, or all; once more, and said, if the guest rebooted by itself or nothing went on any more.
pub(super) fn run(kernel: &Kernel, parts: &[String]) -> Result<u8> {
    let folder = cache::target()?.join("lab");
    std::fs::create_dir_all(&folder)?;
    let guest = folder.join(format!("guest-{}.cpio", std::process::id()));
    let files = kernel.files()?;
    let (arch, image) = (files.processor.arch(), files.image);
    let mut inside = vec![Extra { file: build::for_lab(arch)?, at: "bin/stealtrace".to_owned() }];
    if arch == Arch::X86_64 {
        inside.push(Extra { file: image.with_file_name("msr.ko"), at: "msr.ko".to_owned() });
    }
    initramfs::write_bare(&guest, arch, GUEST_INIT, &inside)?;
    let mut extras = vmm(arch)?;
    extras.push(Extra { file: image, at: "q/vmlinuz".to_owned() });
    extras.push(Extra { file: guest.clone(), at: "q/guest.cpio".to_owned() });
    extras.push(Extra { file: build::life(arch)?, at: "bin/life".to_owned() });
    let life = [&["life".to_owned()], parts].concat();
    let boot = Boot::command(&life).with(extras).on_one_cpu().counting(Counts::Work);
    let mut result = run_boot(kernel, &boot, TIMEOUT);
    if matches!(result, Ok(REBOOTED)) {
        ledger::retry(&format!("the Linux guest in {} rebooted by itself", kernel.name));
        result = run_boot(kernel, &boot, TIMEOUT);
    }
    std::fs::remove_file(guest)?;
    result
}

/// QEMU, the libraries it is linked with, and the firmware of the machine it makes.
fn vmm(arch: Arch) -> Result<Vec<Extra>> {
    let firmware: &[&str] = match arch {
        Arch::X86_64 => &["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"],
        Arch::Aarch64 => &[],
    };
    let qemu = Qemu::beside_kvm(arch)?;
    let mut extras: Vec<_> = qemu.libraries()?.into_iter().map(|file| linked(file, arch)).collect();
    for name in firmware {
        extras.push(Extra { file: qemu.firmware(name)?, at: format!("q/{name}") });
    }
    extras.push(on_path(qemu.program())?);
    Ok(extras)
}
