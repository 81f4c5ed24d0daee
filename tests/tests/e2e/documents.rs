//! The READMEs: links and paths lead somewhere, and the programs know the commands and options that are shown.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::finish;

const DOCUMENTS: [&str; 10] = [
    "README.md",
    "app/README.md",
    "app/glossary.md",
    "app/engine/README.md",
    "config/README.md",
    "cross/README.md",
    "cross/evidence.md",
    "model-prep/README.md",
    "model-prep/demo/README.md",
    "tests/README.md",
];

/// Paths of the repository begin with one of these.
const FOLDERS: [&str; 5] = ["app/", "config/", "cross/", "model-prep/", "tests/"];

/// What options that may be left out are shown in.
const BRACKETS: &[char] = &['[', ']'];

fn text_of(document: &str) -> String {
    fs::read_to_string(e2e::root().join(document)).unwrap()
}

/// A document's lines, each with whether it is code: indented, or between two fences.
fn lines(text: &str) -> Vec<(bool, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if fence {
            fenced = !fenced;
        }
        lines.push((fenced || fence || line.starts_with("    "), line));
    }
    lines
}

/// What stands between `open` and `close`, each time that it does within a line.
fn between<'t>(line: &'t str, open: &str, close: char) -> Vec<&'t str> {
    line.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

/// The name by which a link finds a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn has_heading(text: &str, wanted: &str) -> bool {
    lines(text)
        .iter()
        .any(|(is_code, line)| !is_code && line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

/// A command of a program and its options, as a line of code shows them.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    program: &'static str,
    /// The command, and the command within it where there is one.
    words: Vec<String>,
    options: Vec<String>,
}

/// The command in a line of code; nothing if it calls none of the programs.
fn shown(line: &str) -> Option<Shown> {
    let line = line.split(" # ").next()?.trim();
    // Behind a pipe, and as another user.
    let line = line.rsplit(" | ").next()?.trim_start_matches("sudo -u spotter ");
    let mut words = line.split_whitespace();
    let program = match words.next()? {
        "spotter" => "spotter",
        "model-prep" => "model-prep",
        _ => return None,
    };
    let words: Vec<_> = words.map(|word| word.trim_matches(BRACKETS)).collect();
    let depth = if words.first() == Some(&"bundle") { 2 } else { 1 };
    let options = words.iter().filter(|word| word.starts_with("--")).map(|word| (*word).to_owned()).collect();
    Some(Shown { program, words: words.iter().take(depth).map(|word| (*word).to_owned()).collect(), options })
}

#[test]
fn the_root_readme_is_short() {
    let lines = text_of("README.md").lines().count();
    assert!(
        lines <= 120,
        "README.md has {lines} lines, at most 120 are wanted: the rest belongs into the folders' READMEs"
    );
}

#[test]
fn links_lead_somewhere() {
    let (mut problems, mut found) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = text_of(document);
        let folder = Path::new(document).parent().unwrap();
        for (_, line) in lines(&text).into_iter().filter(|(is_code, _)| !is_code) {
            for link in between(line, "](", ')').into_iter().filter(|link| !link.contains("://")) {
                found += 1;
                let (path, heading) = link.split_once('#').unwrap_or((link, ""));
                let path = if path.is_empty() { Path::new(document).to_owned() } else { folder.join(path) };
                let target = e2e::root().join(path);
                if !target.exists() {
                    problems.push(format!("{document}: {link}: no such file"));
                } else if !heading.is_empty() && !has_heading(&fs::read_to_string(&target).unwrap(), heading) {
                    problems.push(format!("{document}: {link}: no such heading"));
                }
            }
        }
    }
    assert!(found > 20, "{found} links");
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn paths_exist() {
    let (mut problems, mut found) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = text_of(document);
        for (_, line) in lines(&text).into_iter().filter(|(is_code, _)| !is_code) {
            // Every second part of a line stands between backticks.
            for span in line.split('`').skip(1).step_by(2) {
                let is_path = FOLDERS.iter().any(|folder| span.starts_with(folder))
                    && span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-@".contains(c));
                if is_path {
                    found += 1;
                    if !e2e::root().join(span).exists() {
                        problems.push(format!("{document}: {span}"));
                    }
                }
            }
        }
    }
    assert!(found > 40, "{found} paths");
    assert!(problems.is_empty(), "no such files: {problems:#?}");
}

#[test]
fn lines_of_code_are_taken_apart() {
    let check = |line: &str, program: &'static str, words: &[&str], options: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = Shown { program, words: owned(words), options: owned(options) };
        assert_eq!(shown(line), Some(expected), "{line}");
    };
    check("    spotter run --source - < a.mjpeg   # a --recording", "spotter", &["run"], &["--source"]);
    check("    ffmpeg --loud | spotter run --source -", "spotter", &["run"], &["--source"]);
    check("    sudo -u spotter spotter bundle install /tmp/a.tar", "spotter", &["bundle", "install"], &[]);
    check("    model-prep export A --out B [--max-drop 0.5]", "model-prep", &["export"], &["--out", "--max-drop"]);
    assert_eq!(shown("    make run"), None);
}

#[test]
fn the_programs_know_the_commands_and_options_that_are_shown() {
    let mut helps = BTreeMap::new();
    let (mut problems, mut found) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = text_of(document);
        for (_, line) in lines(&text).into_iter().filter(|(is_code, _)| *is_code) {
            let Some(Shown { program, words, options }) = shown(line) else { continue };
            found += 1;
            let help = helps.entry((program, words.clone())).or_insert_with(|| {
                let done = finish(Command::new(e2e::program(program)).args(&words).arg("--help"));
                (done.code == Some(0)).then_some(done.stdout)
            });
            let Some(help) = help else {
                problems.push(format!("{document}: {program} has no command {words:?}"));
                continue;
            };
            let known: Vec<_> = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
            for option in options.iter().filter(|option| !known.contains(&option.as_str())) {
                problems.push(format!("{document}: {program} {words:?} has no option {option}"));
            }
        }
    }
    assert!(found > 30, "{found} commands");
    assert!(problems.is_empty(), "{problems:#?}");
}
