//! Which characters XML 1.0 can carry, and how to quote some of a caller's text.

use std::fmt::Write as _;

/// The longest piece of a caller's text that a fault repeats, in characters. Shorter than any login token.
const MAX_QUOTED: usize = 40;

/// Whether XML 1.0 (section 2.2, `Char`) can carry this character, be it literal or as a reference.
pub(crate) fn is_legal(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Byte offset of the first character that XML 1.0 cannot carry.
pub(crate) fn first_illegal(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().position(|(at, byte)| match byte {
        b'\t' | b'\n' | b'\r' => false,
        0..=0x1f => true,
        // U+FFFE and U+FFFF are EF BF BE and EF BF BF.
        0xef => matches!(bytes.get(at + 1..at + 3), Some([0xbf, 0xbe | 0xbf])),
        _ => false,
    })
}

/// White space as XML defines it (section 2.3, `S`).
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Whether the text consists of nothing but XML white space.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// A name as XML defines it (section 2.3, `Name`), except that any character beyond ASCII passes.
pub(crate) fn is_name(text: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':') || !c.is_ascii();
    text.starts_with(starts)
        && text.chars().all(|c| starts(c) || c.is_ascii_digit() || matches!(c, '.' | '-'))
}

/// A caller's text, cut short and with everything unprintable escaped, fit for a sentence.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MAX_QUOTED {
            quoted.push_str("...");
            break;
        }
        if c.is_control() || (!c.is_ascii() && !c.is_alphanumeric()) {
            // Writing to a String cannot fail.
            let _ = write!(quoted, "\\u{{{:x}}}", u32::from(c));
        } else {
            quoted.push(c);
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_character_checks_agree() {
        for c in '\0'..=char::MAX {
            assert_eq!(
                is_legal(c),
                first_illegal(c.encode_utf8(&mut [0; 4])).is_none(),
                "{:x}",
                u32::from(c)
            );
        }
    }

    #[test]
    fn quoted_text_is_short_and_printable() {
        assert_eq!(quote("getLoginToken"), "getLoginToken");
        assert_eq!(quote("a\nb\u{202e}é"), "a\\u{a}b\\u{202e}é");
        assert_eq!(quote(&"x".repeat(1000)), format!("{}...", "x".repeat(40)));
    }

    #[test]
    fn names_follow_the_xml_rules() {
        for name in ["value", "ex:nil", "dateTime.iso8601", "_a-1", "né"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "1a", "-a", "a b", "a=", "a\"", ".x"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
