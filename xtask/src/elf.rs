//! What programs are linked with, whatever processor they are for: no dynamic linker runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::ElfFile,
};

use crate::arch::Arch;

/// The libraries of a program, the dynamic linker among them: from packages unpacked into a folder, or the system's.
pub(crate) fn libraries(program: &Path, arch: Arch, root: &Path) -> Result<Vec<PathBuf>> {
    let folders = [root, Path::new("/")]
        .map(|root| ["usr/lib", "lib"].map(|folder| root.join(folder).join(arch.gnu())));
    let mut found = vec![program.to_owned()];
    let mut looked_at = 0;
    while let Some(file) = found.get(looked_at) {
        for name in needs(file)? {
            let place =
                folders.iter().flatten().map(|folder| folder.join(&name)).find(|place| place.exists());
            let place =
                place.with_context(|| format!("{} needs {name}, which is not here", program.display()))?;
            if !found.contains(&place) {
                found.push(place);
            }
        }
        looked_at += 1;
    }
    Ok(found.split_off(1))
}

/// The names of those that it says itself.
fn needs(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let about = || format!("{} is no program of 64 bits", file.display());
    let elf = ElfFile::<FileHeader64<Endianness>>::parse(&*bytes).with_context(about)?;
    let table = elf.elf_section_table().dynamic_table(elf.endian(), &*bytes).with_context(about)?;
    let needed = table.iter().filter(|entry| entry.tag == DT_NEEDED);
    needed.map(|entry| Ok(String::from_utf8_lossy(table.string(entry)?).into_owned())).collect()
}
