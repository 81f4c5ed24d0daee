//! Regular expressions of `tokenizer.json`: the reference's library reads them by the rules of Ruby, where `^` and `$`
//! match at every line and `(?m)` lets the dot match line ends.

use serde_json::Value;

/// `^` of Ruby: not behind a last line end.
const LINE_START: &str = r"(?:\A|(?m:^)(?!\z))";
const LINE_END: &str = "(?m:$)";

/// Rewrites the patterns of a normaliser or pre-tokenizer for the library used here; says whether any changed.
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
    // Brackets of a class that are open.
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

/// The flags of a group, as `?m-i` of `(?m-i:a)`, where a pattern goes on with such behind a bracket.
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
    fn patterns_mean_what_they_mean_in_ruby() {
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
