//! Asks questions on a terminal.

use std::io::{BufRead, Write};

use anyhow::{Context as _, Result, bail};

/// Wrong answers after which a question is given up.
const TRIES_MAX: usize = 5;

/// Longest answer in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Where questions are asked.
pub(super) struct Asker<'a> {
    pub(super) input: &'a mut dyn BufRead,
    pub(super) out: &'a mut dyn Write,
}

impl Asker<'_> {
    /// Asks until `read` accepts the answer; an empty one stands for `default`.
    ///
    /// # Errors
    /// There is no answer, or too many that were refused.
    pub(super) fn ask<T>(&mut self, question: &str, default: &str, read: impl Fn(&str) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES_MAX {
            write!(self.out, "{question} [{default}] ").and_then(|()| self.out.flush()).context("standard error")?;
            let mut line = Vec::new();
            let mut limited = std::io::Read::take(&mut *self.input, ANSWER_BYTES_MAX);
            if limited.read_until(b'\n', &mut line).context("standard input")? == 0 {
                bail!("no answer to \"{question}\": nothing is written");
            }
            let answer = String::from_utf8_lossy(&line);
            let answer = Some(answer.trim()).filter(|answer| !answer.is_empty()).unwrap_or(default);
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(error) => writeln!(self.out, "  {error:#}").context("standard error")?,
            }
        }
        bail!("\"{question}\": {TRIES_MAX} answers that do not fit: nothing is written");
    }

    /// Asks for yes or no; an empty answer is no.
    pub(super) fn confirm(&mut self, question: &str) -> Result<bool> {
        self.ask(question, "no", |answer| match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            other => bail!("expected yes or no, found {other}"),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn asked(input: &str) -> (Result<u32>, String) {
        let (mut input, mut out) = (input.as_bytes(), Vec::new());
        let mut asker = Asker { input: &mut input, out: &mut out };
        let answer = asker.ask("how many?", "7", |text| text.parse().context("expected a number"));
        (answer, String::from_utf8(out).unwrap())
    }

    #[test]
    fn answers_are_read_until_one_fits() {
        for (input, expected) in [("3\n", 3), ("\n", 7), ("  4 \r\n", 4), ("x\n-1\n5\n", 5), ("6", 6)] {
            assert_eq!(asked(input).0.unwrap(), expected, "{input}");
        }
        let (_, told) = asked("x\n5\n");
        assert_eq!(told, "how many? [7]   expected a number: invalid digit found in string\nhow many? [7] ");
    }

    #[test]
    fn no_answer_is_an_error() {
        for (input, expected) in
            [("", "no answer"), ("x\n", "no answer"), (&"x\n".repeat(9), "5 answers that do not fit")]
        {
            let error = asked(input).0.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let (mut input, mut out) = (&b"maybe\ny\n"[..], Vec::new());
        assert!(Asker { input: &mut input, out: &mut out }.confirm("sure?").unwrap());
        let mut input = &b"\n"[..];
        assert!(!Asker { input: &mut input, out: &mut out }.confirm("sure?").unwrap());
    }
}
