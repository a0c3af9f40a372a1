#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::evidence::{Kind, discard};

fuzz_target!(|log: &[u8]| discard(Kind::Strace, log));
