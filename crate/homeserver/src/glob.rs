//! Patterns of push conditions and of server names (Appendices, Glob-style matching), against a
//! whole value or against words of it.
//!
//! Anybody's patterns meet anybody's texts, so matching takes no longer than to look for each part
//! of a pattern at each place of a text, and patterns are short.

/// Bytes of a pattern: as many as the longest identifiers have, which patterns are for too.
pub const LONGEST: usize = 255;

/// A pattern without regard to case.
#[derive(Debug)]
pub struct Glob {
    /// What stands between the stars; one part: there is no star.
    parts: Vec<Part>,
    is_empty: bool,
}

#[derive(Debug)]
struct Part {
    text: String,
    /// Whether a `?` in it stands for any character.
    has_any: bool,
}

impl Glob {
    /// A pattern in which `*` stands for any characters and `?` for one. `None`: it is too long to
    /// match anything.
    pub fn new(pattern: &str) -> Option<Self> {
        if pattern.len() > LONGEST {
            return None;
        }
        let pattern = folded(pattern);
        let parts = pattern.split('*').map(|part| Part { text: part.to_owned(), has_any: part.contains('?') }).collect();
        Some(Self { parts, is_empty: pattern.is_empty() })
    }

    /// A pattern that stands for itself.
    pub fn literal(text: &str) -> Option<Self> {
        let part = || Part { text: folded(text), has_any: false };
        (text.len() <= LONGEST).then(|| Self { parts: vec![part()], is_empty: text.is_empty() })
    }

    /// Whether it matches a text, [`folded`], from its start to its end.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else { return false };
        let Some(mut end) = first.at(text, 0) else { return false };
        let Some((last, middle)) = rest.split_last() else { return end == text.len() };
        for part in middle {
            let Some((_, end_of_part)) = part.find(text, end) else { return false };
            end = end_of_part;
        }
        last.start_at_end(text).is_some_and(|start| start >= end)
    }

    /// Whether it matches some of a text, [`folded`], that starts and ends at a word boundary.
    pub fn occurs_in(&self, text: &str) -> bool {
        if self.is_empty {
            return text.is_empty();
        }
        let starts = |start: usize, _: usize| is_boundary(text, start);
        let ends = |_: usize, end: usize| is_boundary(text, end);
        let Some((first, rest)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else {
            return first.find_where(text, 0, |start, end| starts(start, end) && ends(start, end)).is_some();
        };
        // The first places are the best ones: all that comes after finds more room.
        let Some((_, mut end)) = first.find_where(text, 0, starts) else { return false };
        for part in middle {
            let Some((_, end_of_part)) = part.find(text, end) else { return false };
            end = end_of_part;
        }
        last.text.is_empty() || last.find_where(text, end, ends).is_some()
    }

    /// How often it looks at each byte of a text, at most about.
    pub fn effort(&self) -> usize {
        1 + self.parts.iter().filter(|part| part.has_any).map(|part| part.text.len()).sum::<usize>()
    }

    /// Bytes that it takes in memory beside itself, roughly.
    pub fn weight(&self) -> usize {
        self.parts.iter().map(|part| size_of::<Part>() + part.text.len()).sum()
    }
}

impl Part {
    /// Where it ends if it is found exactly at `start`.
    fn at(&self, text: &str, start: usize) -> Option<usize> {
        let rest = &text[start..];
        if !self.has_any {
            return rest.starts_with(&self.text).then(|| start + self.text.len());
        }
        let mut letters = rest.chars();
        for wanted in self.text.chars() {
            let letter = letters.next()?;
            if wanted != '?' && wanted != letter {
                return None;
            }
        }
        Some(text.len() - letters.as_str().len())
    }

    /// Where it first is at or after `from`.
    fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let rest = &text[from..];
        if self.has_any {
            return rest.char_indices().find_map(|(start, _)| Some((from + start, self.at(text, from + start)?)));
        }
        rest.find(&self.text).map(|start| (from + start, from + start + self.text.len()))
    }

    /// Where it first is, if that is where it may be.
    fn find_where(&self, text: &str, mut from: usize, may_be: impl Fn(usize, usize) -> bool) -> Option<(usize, usize)> {
        loop {
            let (start, end) = self.find(text, from)?;
            if may_be(start, end) {
                return Some((start, end));
            }
            from = start + text[start..].chars().next()?.len_utf8();
        }
    }

    /// Where it begins if the text ends with it.
    fn start_at_end(&self, text: &str) -> Option<usize> {
        let start = match self.text.chars().count() {
            0 => text.len(),
            count => text.char_indices().rev().nth(count - 1)?.0,
        };
        self.at(text, start).map(|_| start)
    }
}

/// A text as it is compared: "the exact meaning of 'case insensitive' is defined by the
/// implementation of the homeserver".
pub fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// "A word boundary is defined as the start or end of the value, or any character not in the sets
/// `[A-Z]`, `[a-z]`, `[0-9]` or `_`."
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    at == 0 || !is_word(bytes.get(at - 1)) || !is_word(bytes.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_matched_as_a_whole() {
        for (pattern, text, expected) in [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("?", "ß", true),
            ("?", "", false),
            ("??", "ß", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("*?b", "aab", true),
            ("*?b", "b", false),
            ("a**b", "ab", true),
            ("É*", "étude", true),
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "mxroom.message", false),
        ] {
            assert_eq!(Glob::new(pattern).expect("it is short").matches(&folded(text)), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn in_a_text_words_are_matched() {
        for (pattern, text, expected) in [
            ("ex*ple", "An example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "An exciting triple-whammy", true),
            ("ex*ple", "An examplex", false),
            ("cake", "Cake!", true),
            ("cake", "cakes", false),
            ("cake", "pancakes, then cake", true),
            ("a-a", "ba-a-a", true),
            ("c?ke", "some cäke", true),
            ("c?ke", "some cke", false),
            ("c?ke*", "xcake", false),
            ("*ake", "fake", true),
            ("cake*", "a cakewalk", true),
            ("*", "", true),
            ("", "text", false),
            ("", "", true),
            ("ca*e", "ca\ne", true),
            ("(x)", "f(x)", true),
            ("ß", "straße", true),
        ] {
            assert_eq!(Glob::new(pattern).expect("it is short").occurs_in(&folded(text)), expected, "{pattern} {text}");
        }
        assert!(Glob::literal("Al*ce?").expect("it is short").occurs_in(&folded("hey al*ce?!")));
        assert!(!Glob::literal("Al*ce?").expect("it is short").occurs_in("hey alice!"));
    }

    /// A pattern of many stars took a billion steps on a text of one message, and one of many
    /// question marks a panic.
    #[test]
    fn no_pattern_takes_long() {
        let text = "a".repeat(60_000);
        for pattern in [format!("{}b", "*a".repeat(127)), format!("*{}b", "a".repeat(250)), format!("*{}b*", "?".repeat(250)), "?".repeat(LONGEST)] {
            let glob = Glob::new(&pattern).expect("it is short enough");
            assert!(!glob.matches(&text) && !glob.occurs_in(&text), "{pattern}");
        }
        assert!(Glob::new(&"?".repeat(LONGEST + 1)).is_none());
        assert!(Glob::literal(&"a".repeat(LONGEST + 1)).is_none());
    }
}
