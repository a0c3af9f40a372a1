//! What every command needs of the system: processes, clocks, signals, the terminal and files. Knows nothing of KVM.

pub mod clock;
pub mod command;
pub mod interrupt;
pub mod late_file;
pub(crate) mod memory;
pub mod out_of_memory;
pub mod output;
pub(crate) mod privileges;
pub mod process;
pub mod shown;
pub mod talk;
