#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::record::{Item, Player};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut player) = Player::new(bytes) {
        while let Item::Event(_) = player.next_item() {}
    }
});
