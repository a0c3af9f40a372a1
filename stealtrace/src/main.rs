//! The binary.

use std::process::ExitCode;

use stealtrace::os::out_of_memory::SaysSo;

#[global_allocator]
static MEMORY: SaysSo = SaysSo;

fn main() -> ExitCode {
    stealtrace::main()
}
