//! Decides about scores that were computed before, for `reference/decide_streams.py`.
//!
//!     cargo run --package e2e --example decide LABELS [FALSE_ALARMS_PER_DAY] <SCORES
//!
//! SCORES are 64-bit little-endian numbers: for each frame its time in seconds and the probabilities of the labels of the
//! label file LABELS, in their order. Prints a line of JSON for each start and end; with a rate of false alarms, the thresholds
//! that fit it, if nothing happened in these frames.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use spotter::config::Problem;
use spotter::labels::label_file;
use spotter_engine::decide::calibrate::Watch;
use spotter_engine::decide::{ChangeKind, Decider, Moment};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (labels, per_day) = match &arguments[..] {
        [labels] => (labels, None),
        [labels, per_day] => (labels, Some(per_day.parse::<f64>().context("false alarms a day")?)),
        _ => bail!("usage: decide LABELS [FALSE_ALARMS_PER_DAY] <SCORES"),
    };
    let file = label_file::load(Path::new(labels), &["{}".to_owned()]).map_err(|problems| {
        let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
        anyhow::anyhow!(told.join("\n"))
    })?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    let numbers: Vec<f64> = bytes.as_chunks().0.iter().map(|number| f64::from_le_bytes(*number)).collect();
    let names: Vec<_> = file.rules.labels.iter().map(|label| &label.name).collect();
    let frames = numbers.chunks_exact(1 + names.len()).map(|row| {
        let probabilities = row[1..].iter().map(|value| *value as f32).enumerate();
        (moment(row[0]), probabilities)
    });
    let mut out = std::io::stdout().lock();
    if let Some(per_day) = per_day {
        let mut watch = Watch::new(&file.rules, moment(0.0));
        frames.for_each(|(now, probabilities)| watch.frame(now, probabilities));
        let found = watch.fit(per_day, &vec![false; names.len()]);
        let thresholds: Vec<_> = found.labels.iter().map(|fit| fit.threshold).collect();
        writeln!(out, "{}", json!({"thresholds": thresholds, "after_per_day": found.after_per_day}))?;
        return Ok(());
    }
    let mut decider = Decider::new(file.rules.clone(), moment(0.0));
    for (now, probabilities) in frames {
        decider.frame(now, probabilities);
        for change in decider.changes().iter().filter(|change| change.kind != ChangeKind::State) {
            let label = names.iter().position(|name| Some(*name) == change.label.as_ref());
            let (at, since) = (change.at.elapsed.as_secs_f64(), change.since.elapsed.as_secs_f64());
            writeln!(out, "{}", json!({"event": change.kind, "label": label, "at": at, "since": since}))?;
        }
    }
    Ok(())
}

fn moment(seconds: f64) -> Moment {
    Moment { elapsed: Duration::from_secs_f64(seconds.max(0.0)), unix_us: (seconds * 1e6) as i64 }
}
