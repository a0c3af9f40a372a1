//! What a process, a guest or a log calls itself, made harmless: the one way foreign text gets in front of people.

use std::{borrow::Cow, fmt::Write as _};

/// The text with control characters, and those that turn the direction of writing, escaped: it cannot colour a
/// terminal, move its cursor, forge a line, or look like something else.
#[must_use]
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut harmless = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if acts(character) {
            let _never_fails = write!(harmless, "{}", character.escape_default());
        } else {
            harmless.push(character);
        }
    }
    Cow::Owned(harmless)
}

/// Does a terminal do something else with it than to print it?
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::shown;

    #[test]
    fn what_acts_is_escaped_and_nothing_else() {
        assert_eq!(shown("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(shown("line\nforged\r"), "line\\nforged\\r");
        assert_eq!(shown("\u{202e}txt.exe\u{2066}"), "\\u{202e}txt.exe\\u{2066}");
        assert_eq!(shown("\u{9b}31m"), "\\u{9b}31m");
        assert!(matches!(shown("CPU 0/KVM é 日本 µs"), Cow::Borrowed(_)));
    }
}
