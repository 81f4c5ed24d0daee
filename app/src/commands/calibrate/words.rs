//! What a calibration found, in words.

use std::io::{self, Write};
use std::path::Path;

use spotter_engine::console::write_line;
use spotter_engine::decide::Rules;
use spotter_engine::decide::calibrate::{FITTED_MAX, Fit, FitKind, Fitted, Watch};

use super::examples::Missed;
use crate::calibration::chart::rate;

/// Hours of a day.
const DAY_H: f64 = 24.0;

/// Writes what was watched, a line for each label, and how sure it is.
pub(super) fn tell(
    out: &mut dyn Write,
    source: &str,
    watch: &Watch,
    names: &[String],
    rules: &Rules,
    found: &Fitted,
    wanted: f64,
) -> io::Result<()> {
    let (minutes, frames) = (watch.seconds() / 60.0, watch.frames());
    write_line(out, format_args!("watched {minutes:.1} minutes of {source}: {frames} frames"))?;
    write_line(out, format_args!("wanted: {} false alarms a day, of all labels together", rate(wanted)))?;
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).clamp(5, 40);
    write_line(out, format_args!("{:width$}  {:12}  false alarms a day", "label", "threshold"))?;
    for (name, (fit, label)) in names.iter().zip(found.labels.iter().zip(&rules.labels)) {
        write_line(out, format_args!("{name:width$}  {}", row(fit, label.threshold)))?;
    }
    let (before, after) = (rate(found.before_per_day), rate(found.after_per_day));
    write_line(out, format_args!("together: {before} a day before, {after} expected now"))?;
    sureness(out, minutes, found, wanted)
}

fn row(fit: &Fit, before: f32) -> String {
    let after = fit.threshold;
    let thresholds = format!("{before:.2} -> {after:.2}");
    let rates = format!("{} -> {}", rate(fit.before_per_day), rate(fit.after_per_day));
    match fit.kind {
        FitKind::Given => format!("{before:.2}          {}, threshold of the label file", rate(fit.before_per_day)),
        FitKind::Usual => format!("{before:.2}          the usual answer here, no alarm"),
        FitKind::Silent => format!("{thresholds}  {rates}, never seen"),
        FitKind::Counted => format!("{thresholds}  {rates}"),
        FitKind::Continued => format!("{thresholds}  {rates}, estimated"),
        FitKind::Largest => {
            format!("{thresholds}  {rates}, too many even at {FITTED_MAX}: change its sentences, or add opposites")
        }
    }
}

/// Says how much a watch of this length proves.
fn sureness(out: &mut dyn Write, minutes: f64, found: &Fitted, wanted: f64) -> io::Result<()> {
    let (fewest, most) = found.range_per_day;
    let line = format_args!(
        "by the number of alarms that {minutes:.1} minutes would have, it is between {} and {} a day",
        rate(fewest),
        rate(most)
    );
    write_line(out, line)?;
    if found.promise_per_day <= wanted {
        return Ok(());
    }
    let hours = minutes / 60.0 * found.promise_per_day / wanted;
    let time = if hours < DAY_H { format!("{hours:.1} hours") } else { format!("{:.1} days", hours / DAY_H) };
    let line = format_args!(
        "{minutes:.1} minutes can promise no fewer than {} a day; less than that is an estimate. Watch {time} to be sure",
        rate(found.promise_per_day)
    );
    write_line(out, line)
}

/// Writes how many marked images are missed.
pub(super) fn tell_missed(out: &mut dyn Write, names: &[String], missed: &[Missed]) -> io::Result<()> {
    for Missed { label, images, before, after } in missed {
        let name = &names[*label];
        write_line(out, format_args!("{name}: {after} of {images} marked images are missed, {before} before"))?;
    }
    Ok(())
}

/// Writes where the calibration is.
pub(super) fn tell_stored(out: &mut dyn Write, path: &Path, svg: &Path, source: &str) -> io::Result<()> {
    write_line(out, format_args!("stored in {}, chart in {}", path.display(), svg.display()))?;
    let line = "`spotter run` uses it for this source, while bundle and labels stay the same";
    write_line(out, format_args!("{source}: {line}"))
}

/// Says that there is no place for it.
pub(super) fn tell_not_stored(out: &mut dyn Write) -> io::Result<()> {
    write_line(out, format_args!("not stored: there is no `state_dir` in the configuration"))
}
