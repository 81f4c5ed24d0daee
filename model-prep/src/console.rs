//! Standard output and standard error of the program, opened here only.

use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::console::{IgnoreBrokenPipe, Output, is_reader_gone, print_error, write_line};
use spotter_engine::printable::printable;

/// Progress of work whose number of steps is known.
pub(crate) const PROGRESS_PERCENT: &str = "{msg} {wide_bar} {percent} % {elapsed}";

/// Progress of work whose number of steps shows only as it goes on.
pub(crate) const PROGRESS_STEPS: &str = "{msg} {pos} steps {elapsed}";

/// Progress over items, with their rate.
pub(crate) const PROGRESS_ITEMS: &str = "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}";

/// Progress of a download.
pub(crate) const PROGRESS_BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// A progress bar on standard error in the style of indicatif's `template`; hidden if that is not a terminal.
pub(crate) fn progress_bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Locks standard output. Its errors distinguish a closed pipe from other failures.
pub(crate) fn stdout() -> Output<StdoutLock<'static>> {
    Output::new(io::stdout().lock())
}

/// Prints the result of finished work, line by line. A closed pipe is not an error here: the work is done.
pub(crate) fn print_lines(text: &str) -> anyhow::Result<()> {
    let mut out = stdout();
    let mut out = IgnoreBrokenPipe::new(&mut out);
    text.lines().try_for_each(|line| write_line(&mut out, format_args!("{line}"))).context("standard output")
}

/// Starts logging to standard error, one line per message.
pub fn start_log() {
    let mut logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"));
    logger.format(|out, record| {
        let (time, level, target) = (out.timestamp(), record.level(), record.target());
        let style = out.default_level_style(level);
        writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {}", printable(&record.args().to_string()))
    });
    // They show whole addresses, which may have signatures in them.
    for module in ["ureq", "ureq_proto", "rustls"] {
        logger.filter_module(module, log::LevelFilter::Warn);
    }
    logger.init();
}

/// Prints the error, if any, and returns the program's exit code. A closed pipe on standard output is a success.
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_reader_gone(error.chain()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&mut io::stderr().lock(), &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
