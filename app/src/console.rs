//! Standard output and standard error: the only module that opens them.

mod patient;

use std::ffi::OsStr;
use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use env_logger::{Target, WriteStyle};
use spotter_engine::console::{Output, is_reader_gone, print_error};
use spotter_engine::printable::printable;

use self::patient::PatientStderr;
use crate::config::Problems;

/// Returns whether a terminal of the type `term` (`$TERM`) can move its cursor.
pub(crate) fn is_smart(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Standard output; its errors distinguish a closed pipe from everything else.
pub(crate) fn stdout() -> Output<StdoutLock<'static>> {
    Output::new(io::stdout().lock())
}

/// Prints an error on standard error, if that can be written. Problems of a file get a line each.
pub(crate) fn tell_error(error: &anyhow::Error) {
    let (mut err, _) = PatientStderr::new();
    match error.downcast_ref::<Problems>() {
        Some(Problems(problems)) => problems.iter().for_each(|problem| print_error(&mut err, problem)),
        None => print_error(&mut err, &format!("{error:#}")),
    }
}

/// Sets up the log on standard error, one line a message. A reader that stops reading does not block the program.
pub fn start_log() {
    // `notify` warns about watches that vanish with their folder, which are set up again.
    let filter = "info,tract=warn,tract_core=warn,tract_onnx=warn,notify=error";
    let mut log = env_logger::Builder::new();
    let (err, is_terminal) = PatientStderr::new();
    // RUST_LOG_STYLE, read below, overrides this.
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

/// Prints the error of a failed command and returns the exit code. A closed standard output is no failure.
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
