//! Standard output and standard error of the program: the one place that opens them.

use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use spotter_engine::console::{Onward, Output, is_reader_gone, tell, write_line};
use spotter_engine::printable::printable;

/// Standard output; its errors tell a reader who is gone from all else.
pub(crate) fn stdout() -> Output<StdoutLock<'static>> {
    Output::new(io::stdout().lock())
}

/// Prints what work that is done has to say, line by line. That nobody reads it changes nothing about the work.
pub(crate) fn print_lines(text: &str) -> anyhow::Result<()> {
    let mut out = stdout();
    let mut out = Onward::new(&mut out);
    text.lines().try_for_each(|line| write_line(&mut out, format_args!("{line}"))).context("standard output")
}

/// Has the log write to standard error, one line a message.
pub fn start_log() {
    let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"));
    log.format(|out, record| {
        let (time, level, target) = (out.timestamp(), record.level(), record.target());
        let style = out.default_level_style(level);
        writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {}", printable(&record.args().to_string()))
    });
    log.init();
}

/// What the program ends with. Where nobody reads its output any more it ends quietly, and well.
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_reader_gone(error.chain()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&mut io::stderr().lock(), &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
