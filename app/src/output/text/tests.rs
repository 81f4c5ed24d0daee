use unicode_width::UnicodeWidthStr as _;

use super::*;

const NAMES: [&str; 10] = [
    "cat",
    "a person standing in front of a door that is open",
    "猫がソファの上で眠っているところを撮った写真です",
    "👩‍👩‍👧‍👦 family 👍🏽 🇩🇪 ❤️",
    "e\u{301}\u{302}\u{303} zalgo",
    "한국어 이름",
    "नमस्ते दुनिया",
    "forged\nline \x1b[31mred\x1b[2J",
    "",
    "\u{202e}right to left",
];

fn row(name: &str, probability: f32) -> Row {
    Row { name: name.to_owned(), probability, threshold: None }
}

fn rows() -> Vec<Row> {
    NAMES.iter().enumerate().map(|(index, name)| row(name, 1.0 / (index + 1) as f32)).collect()
}

/// A line without its escape sequences, and their number.
fn visible(line: &str) -> (String, usize) {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut sequences = 0;
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        assert!(rest.starts_with('G'), "{line:?}");
        text.push_str(&rest[1..]);
        sequences += 1;
    }
    (text, sequences)
}

#[test]
fn lines_fit_windows_of_any_size() {
    let status = "30.1 frames/s, 1.6 ms a frame, frame 238, drawn: blue cross";
    for columns in 1..=100 {
        for window_rows in 1..=14 {
            let size = Size { columns, rows: window_rows };
            let lines = lines(&rows(), &[status], size);
            assert!(lines.len() < window_rows.max(2), "{size:?}: {} lines", lines.len());
            let labels = lines.len() - usize::from(window_rows > 2);
            assert!(labels >= 1 && labels == (window_rows.max(3) - 2).min(NAMES.len()), "{size:?}: {labels} labels");
            for line in &lines {
                let (text, sequences) = visible(line);
                assert!(text.width() <= columns, "{size:?}: {} columns of {text:?}", text.width());
                assert!(sequences <= 1 && !text.contains(char::is_control), "{size:?}: {line:?}");
                assert_eq!(rows_taken(line, size), 1, "{size:?}: {line:?}");
            }
            let percent = lines[..labels].iter().filter(|line| line.ends_with('%')).count();
            assert_eq!(percent, if columns >= 11 { labels } else { 0 }, "{size:?}: {lines:?}");
        }
    }
}

#[test]
fn names_are_cut_between_characters() {
    for (name, columns, expected) in [
        ("cat", 3, "cat"),
        ("cats", 3, "ca…"),
        ("cats", 1, "…"),
        ("猫猫猫", 6, "猫猫猫"),
        ("猫猫猫", 5, "猫猫…"),
        ("猫猫猫", 4, "猫…"),
        ("猫猫", 1, "…"),
        ("ae\u{301}bc", 3, "ae\u{301}…"),
        ("👩‍👩‍👧x", 3, "…"),
        ("a👩‍👩‍👧x", 8, "a👩‍👩‍👧x"),
        ("a👩‍👩‍👧x", 7, "a…"),
    ] {
        assert_eq!(layout::cut(name, columns), expected, "{name}");
    }
}

#[test]
fn narrow_windows_shorten_the_bar_then_drop_it() {
    let row = [row("blue cross", 0.5)];
    let line = |columns| lines(&row, &[""], Size { columns, rows: 24 }).swap_remove(0);
    let full = format!("{:32} {}{}  50.0%", "blue cross", "█".repeat(12), "░".repeat(12));
    for (columns, expected) in [
        (200, full.as_str()),
        (64, &full),
        (63, "blue cross ████████████░░░░░░░░░░░░  50.0%"),
        (30, "blue cross ██████░░░░░░  50.0%"),
        (22, "blue cross ██░░  50.0%"),
        (21, "blue cross  50.0%"),
        (17, "blue cross  50.0%"),
        (16, "blue cro…  50.0%"),
        (11, "blu…  50.0%"),
        (10, "blue cross"),
        (5, "blue…"),
        (1, "…"),
    ] {
        assert_eq!(visible(&line(columns)).0, expected, "{columns}");
    }
}

#[test]
fn a_redraw_starts_at_the_first_visible_old_line() {
    let row = [row("猫", 0.5), row("cat", 0.25)];
    let wide = Size { columns: 80, rows: 24 };
    let (first, shown) = redraw(&[], &row, &["status"], wide);
    assert!(first.starts_with("\x1b[?7l猫") && first.ends_with("status\n\x1b[?7h"), "{first:?}");
    for (size, up) in [
        (wide, Some(3)),
        // 64 columns of each label take two rows of 40, and the status one.
        (Size { columns: 40, rows: 24 }, Some(5)),
        (Size { columns: 10, rows: 24 }, Some(15)),
        // Rows further up have scrolled away.
        (Size { columns: 10, rows: 5 }, Some(4)),
        (Size { columns: 80, rows: 2 }, Some(1)),
        (Size { columns: 80, rows: 1 }, None),
    ] {
        let (text, _) = redraw(&shown, &row, &["status"], size);
        let expected = up.map_or_else(|| "\x1b[?7l\r\x1b[J".to_owned(), |up| format!("\x1b[?7l\x1b[{up}A\r\x1b[J"));
        assert!(text.starts_with(&expected), "{size:?}: {text:?}");
        assert!(text.matches('\n').count() < size.rows, "{size:?}: {text:?}");
        // No colours.
        assert!(!text.contains('m'), "{text:?}");
    }
}

#[test]
fn thresholds_are_marked_on_the_bars() {
    for (probability, threshold, expected) in [
        (0.5, None, "█████░░░░░"),
        (0.5, Some(0.7), "█████░░│░░"),
        (0.9, Some(0.7), "███████│█░"),
        (0.0, Some(0.001), "│░░░░░░░░░"),
        // At the end of a bar, where nothing is seen behind it.
        (0.5, Some(0.999), "█████░░░░░"),
    ] {
        let row = Row { threshold, ..row("cat", probability) };
        let found = lines(&[row], &[], Size { columns: 21, rows: 24 }).swap_remove(0);
        assert_eq!(found, format!("cat {expected} {:5.1}%", probability * 100.0), "{threshold:?}");
    }
}

#[test]
fn lines_below_the_labels_give_way_from_the_first_on() {
    for (window_rows, expected) in [
        (9, &["cat", "dog", "states", "status"][..]),
        (5, &["cat", "dog", "states", "status"]),
        (4, &["cat", "states", "status"]),
        (3, &["cat", "status"]),
        (2, &["cat"]),
        (1, &["cat"]),
    ] {
        let size = Size { columns: 6, rows: window_rows };
        assert_eq!(lines(&[row("cat", 0.5), row("dog", 0.5)], &["states", "status"], size), expected, "{window_rows}");
    }
}

#[test]
fn states_say_what_is_known_and_for_how_long() {
    let at = |second: i64| spotter_engine::decide::Moment {
        elapsed: std::time::Duration::ZERO,
        unix_us: second * 1_000_000,
    };
    let state = |question: Option<&str>, label: Option<&str>, reason: Option<Reason>| State {
        question: question.map(Into::into),
        label: label.map(Into::into),
        last: None,
        reason,
        since: at(10),
        probability: None,
    };
    let time = |second| Timestamp::from_second(second).ok();
    for (state, time, expected) in [
        (state(Some("door"), Some("open"), None), time(12), "door: open for 2 s"),
        (state(None, Some("cat"), None), None, "cat"),
        (state(Some("door"), None, Some(Reason::BelowThreshold)), time(11), "door: unknown for 1 s"),
        (state(Some("door"), None, Some(Reason::SourceLost)), None, "door: unknown (source lost)"),
        (state(Some("door"), None, Some(Reason::Dark)), None, "door: unknown (the view is dark)"),
        // A clock that was set back.
        (state(None, Some("cat"), None), time(9), "cat for 0 s"),
    ] {
        assert_eq!(describe(&state, time), expected);
    }
}
