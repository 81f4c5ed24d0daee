//! Standard output and standard error of the program: the one place that opens them.

mod patient;

use std::fmt;
use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use env_logger::{Target, WriteStyle};
use spotter_engine::console::{Output, is_reader_gone, tell};
use spotter_engine::printable::printable;

use self::patient::Patient;
use crate::config::Problem;
use crate::output::is_smart;

/// All problems of a file, as one error.
#[derive(Debug)]
struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Problems {}

/// One error that tells every problem of a file, each on a line of its own.
pub(crate) fn all_of(problems: &[Problem]) -> anyhow::Error {
    Problems(problems.iter().map(Problem::to_string).collect()).into()
}

/// Standard output; its errors tell a reader who is gone from all else.
pub(crate) fn stdout() -> Output<StdoutLock<'static>> {
    Output::new(io::stdout().lock())
}

/// Tells an error on standard error, where that can be.
pub(crate) fn tell_error(error: &anyhow::Error) {
    let (mut err, _) = Patient::new();
    match error.downcast_ref::<Problems>() {
        Some(Problems(problems)) => problems.iter().for_each(|problem| tell(&mut err, problem)),
        None => tell(&mut err, &format!("{error:#}")),
    }
}

/// Has the log write to standard error, one line a message. A reader that stops reading stops nothing else.
pub fn start_log() {
    // The watcher of files warns of watches that went with their folder, which is no news: they are set up again.
    let filter = "info,tract=warn,tract_core=warn,tract_onnx=warn,notify=error";
    let mut log = env_logger::Builder::new();
    let (err, is_terminal) = Patient::new();
    // The choice that the environment may make comes after this one.
    let is_colored = is_terminal
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && is_smart(std::env::var_os("TERM").as_deref());
    log.write_style(if is_colored { WriteStyle::Always } else { WriteStyle::Never });
    log.target(Target::Pipe(Box::new(err)));
    log.parse_env(env_logger::Env::default().default_filter_or(filter));
    log.format(|out, record| {
        let (time, level) = (out.timestamp(), record.level());
        let style = out.default_level_style(level);
        writeln!(out, "[{time} {style}{level:<5}{style:#}] {}", printable(&record.args().to_string()))
    });
    log.init();
}

/// What the program ends with. Where nobody reads its output any more it ends quietly, and well.
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_reader_gone(error.chain()) => ExitCode::SUCCESS,
        Err(error) => {
            tell_error(&error);
            ExitCode::FAILURE
        }
    }
}
