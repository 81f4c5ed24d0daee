//! Translates regular expressions of `tokenizer.json`. The reference's library uses Ruby's syntax, where `^` and `$`
//! match at every line and `(?m)` lets the dot match line ends.

use serde_json::Value;

/// Ruby's `^`, which does not match after a final line end.
const LINE_START: &str = r"(?:\A|(?m:^)(?!\z))";
const LINE_END: &str = "(?m:$)";

/// Translates the patterns in a normaliser or pre-tokenizer for the engine used here; returns whether any changed.
pub(super) fn translate(step: &mut Value) -> bool {
    match step {
        Value::Object(map) => {
            let mut changed = false;
            if let Some(Value::String(pattern)) = map.get_mut("pattern").and_then(|p| p.get_mut("Regex")) {
                let new = translated(pattern);
                changed = new != *pattern;
                *pattern = new;
            }
            map.values_mut().fold(changed, |changed, value| translate(value) | changed)
        }
        Value::Array(steps) => steps.iter_mut().fold(false, |changed, step| translate(step) | changed),
        _ => false,
    }
}

fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    // Open brackets of character classes.
    let mut classes = 0_usize;
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                out.push(c);
                out.extend(rest.next());
            }
            '[' => {
                classes += 1;
                out.push(c);
            }
            ']' => {
                classes = classes.saturating_sub(1);
                out.push(c);
            }
            '^' if classes == 0 => out.push_str(LINE_START),
            '$' if classes == 0 => out.push_str(LINE_END),
            '(' if classes == 0 => {
                out.push(c);
                if let Some(flags) = flags(rest.as_str()) {
                    out.push_str(&flags.replace('m', "s"));
                    rest = rest.as_str()[flags.len()..].chars();
                }
            }
            _ => out.push(c),
        }
    }
    out
}

/// The flags at the start of a group's content, such as `?m-i` in `(?m-i:a)`.
fn flags(rest: &str) -> Option<&str> {
    let end = rest.find([':', ')'])?;
    let flags = &rest[..end];
    let letters = flags.strip_prefix('?')?;
    letters.chars().all(|c| matches!(c, 'i' | 'm' | 'x' | '-')).then_some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_keep_their_meaning_in_ruby() {
        let check = |ruby: &str, expected: &str| assert_eq!(translated(ruby), expected, "{ruby}");
        let kept = [
            r"\A\s+\z",
            r"[^a]",
            r"[a$\]^]",
            r"\^\$\\",
            "[[:alpha:]$]",
            r"'s|\p{L}+|(?i:m)|(?<=a)(?!b)",
            "(",
            "(?",
            "\\",
        ];
        for same in kept {
            check(same, same);
        }
        check("^a", r"(?:\A|(?m:^)(?!\z))a");
        check("[^$]$", "[^$](?m:$)");
        check(r"\\$|(^b)", r"\\(?m:$)|((?:\A|(?m:^)(?!\z))b)");
        check("(?m:a.b)(?m)(?i-m:é.)", "(?s:a.b)(?s)(?i-s:é.)");
    }
}
