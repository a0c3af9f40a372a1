//! A real VMM with a real Linux guest inside the lab guest: Debian's QEMU with KVM, and the lab's own kernel once more.
//! The script plays the guest's life, and compares what everybody says of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    initramfs::{self, Extra},
    kernels::Kernel,
    qemu::Boot,
    run_boot,
};
use crate::{
    build, cache,
    process::{output, say, which},
};

/// Emulation of a processor that runs another guest takes its time.
const TIMEOUT: Duration = Duration::from_secs(1500);

/// The Linux guest: is busy, beats, brings CPUs online that were plugged in, and judges its own steal.
const GUEST_INIT: &str = r#"#!/bin/sh
export PATH=/bin NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
insmod /msr.ko
echo "guest up"
for busy in 1 2; do (while :; do :; done) & done
beat=0
while true; do
    for cpu in /sys/devices/system/cpu/cpu[1-9]; do
        [ "$(cat $cpu/online 2> /dev/null)" = 0 ] && echo 1 > $cpu/online
    done
    stealtrace guest
    code=$?
    beat=$((beat + 1))
    echo "beat $beat cpus $(grep -c '^cpu[0-9]' /proc/stat), stealtrace guest exits with $code"
done
"#;

const SCRIPT: &str = include_str!("qemu_guest.sh");

/// The script's exit code when a step did not come to its end.
const STUCK: u8 = 3;

/// Play it; once more, and said, if the guest stood still or rebooted by itself: now and then Linux misses a wake-up
/// where its processor is emulated twice over. What its console said is shown.
pub(super) fn run(kernel: &Kernel) -> Result<u8> {
    let folder = cache::target()?.join("lab");
    std::fs::create_dir_all(&folder)?;
    let guest = folder.join(format!("guest-{}.cpio", std::process::id()));
    let image = kernel.files()?.image;
    let inside = [
        Extra { file: build::dist()?, at: "bin/stealtrace".to_owned() },
        Extra { file: image.with_file_name("msr.ko"), at: "msr.ko".to_owned() },
    ];
    initramfs::write_bare(&guest, GUEST_INIT, &inside)?;
    let mut extras = vmm()?;
    extras.push(Extra { file: image, at: "q/vmlinuz".to_owned() });
    extras.push(Extra { file: guest.clone(), at: "q/guest.cpio".to_owned() });
    let boot = Boot::script(SCRIPT.to_owned(), extras).on_one_cpu();
    let mut result = run_boot(kernel, &boot, TIMEOUT);
    if matches!(result, Ok(STUCK)) {
        say(&format!("RETRY: the Linux guest in {} stood still or rebooted", kernel.name));
        result = run_boot(kernel, &boot, TIMEOUT);
    }
    std::fs::remove_file(guest)?;
    result
}

/// QEMU, the libraries it is linked with, and the firmware of the machine it makes.
fn vmm() -> Result<Vec<Extra>> {
    let qemu = which("qemu-system-x86_64").context("qemu-system-x86_64 is missing")?;
    let linked = output(Command::new("ldd").arg(&qemu))?;
    let libraries = linked.split_ascii_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let firmware = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"].map(firmware);
    let mut extras: Vec<_> = libraries.map(|file| Extra { at: inside(&file), file }).collect();
    for file in firmware {
        let file = file?;
        extras.push(Extra {
            at: format!("q/{}", file.file_name().unwrap_or_default().to_string_lossy()),
            file,
        });
    }
    extras.push(Extra { file: qemu, at: "bin/qemu-system-x86_64".to_owned() });
    Ok(extras)
}

fn inside(file: &Path) -> String {
    file.to_string_lossy().trim_start_matches('/').to_owned()
}

fn firmware(name: &str) -> Result<PathBuf> {
    ["/usr/share/seabios", "/usr/share/qemu"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|file| file.exists())
        .with_context(|| format!("QEMU's firmware {name} is missing; install seabios and qemu-system-data"))
}
