//! The layout of images with a file of captions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use spotter_engine::picture::has_image_extension;

use super::BadRows;
use super::layout::{Caption, Found, Question, left_out};
use super::lines::Lines;
use super::place::{Listing, Place};
use crate::evaluate::error::EvaluateError;

/// Keys of an image's file in a line of JSON; the first is that of Hugging Face's `imagefolder`.
const FILE_KEYS: [&str; 3] = ["file_name", "image", "file"];

/// Keys of its captions.
const TEXT_KEYS: [&str; 4] = ["text", "caption", "captions", "texts"];

/// Names of the first column in a header of comma-separated values, and of the other.
const HEADER: [&[&str]; 2] = [&FILE_KEYS, &TEXT_KEYS];

/// An image's file and its captions.
type Row<'a> = (Cow<'a, str>, Vec<Cow<'a, str>>);

/// Lists the images in the order of their first captions. A missing file counts as one that cannot be read.
pub(super) fn open(place: &Place, listing: &Listing, lines: &Lines, bad_rows: BadRows) -> Result<Found, EvaluateError> {
    let mut index: HashMap<PathBuf, usize> = HashMap::new();
    let (mut images, mut captions, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows(lines) {
        let (file, texts) = match row {
            Ok(row) => row,
            Err(error) if bad_rows == BadRows::LeftOut => {
                bad.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        let image = *index.entry(PathBuf::from(without_number(&file))).or_insert_with_key(|file| {
            images.push(file.clone());
            images.len() - 1
        });
        captions.extend(texts.into_iter().map(|text| Caption { image, text: text.into_owned() }));
    }
    if images.len() < 2 {
        let expected = "captions of two images or more, since a choice of one is always right".to_owned();
        let first = bad.first().map(|first| format!("; {} lines cannot be used, the first is {first}", bad.len()));
        let found = format!("{}{}", images.len(), first.unwrap_or_default());
        return Err(EvaluateError::Folder { path: lines.path.clone(), expected, found });
    }
    let is_other = |file: &&PathBuf| place.path().join(file) != lines.path && !index.contains_key(*file);
    let (without, others): (Vec<_>, Vec<_>) =
        listing.files.iter().filter(is_other).partition(|file| has_image_extension(file));
    let without = ("images without a caption", without.len());
    let left_out = left_out([without, ("files without an image's extension", others.len())]);
    Ok(Found { images, question: Question::Captions(captions), left_out, bad_rows: bad })
}

/// The rows of a file, in the format that its name says.
fn rows<'a>(lines: &'a Lines) -> Box<dyn Iterator<Item = Result<Row<'a>, EvaluateError>> + 'a> {
    match lines.path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => Box::new(lines.lines.iter().map(|(number, line)| json_row(lines, *number, line))),
        Some("csv") => {
            let skipped = usize::from(lines.lines.first().is_some_and(|(_, line)| is_header(line)));
            Box::new(lines.lines.iter().skip(skipped).map(|(number, line)| csv_row(lines, *number, line)))
        }
        _ => {
            let pairs = lines.pairs("an image's file, a tab, and a caption");
            Box::new(pairs.map(|pair| pair.map(|(_, file, text)| (file.into(), vec![text.into()]))))
        }
    }
}

/// Parses a JSON object with the image's file and one caption or a list of them.
fn json_row<'a>(lines: &Lines, number: usize, line: &str) -> Result<Row<'a>, EvaluateError> {
    let expected = "a JSON object with \"file_name\" and \"text\", which is a caption or a list of them";
    let wrong = |found: String| lines.wrong(number, expected, found);
    let value: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    let of = |keys: &[&str]| keys.iter().find_map(|key| value.get(*key));
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let Some(file) = of(&FILE_KEYS).and_then(text) else { return Err(wrong("no file".to_owned())) };
    let texts: Option<Vec<String>> = match of(&TEXT_KEYS) {
        Some(Value::Array(texts)) if !texts.is_empty() => texts.iter().map(text).collect(),
        Some(one) => text(one).map(|text| vec![text]),
        None => None,
    };
    let texts = texts.ok_or_else(|| wrong("no caption, or an empty one".to_owned()))?;
    Ok((file.into(), texts.into_iter().map(Cow::from).collect()))
}

/// Parses an image's file and a caption, separated by a comma; either may be in quotes.
fn csv_row<'a>(lines: &Lines, number: usize, line: &str) -> Result<Row<'a>, EvaluateError> {
    let expected = "an image's file, a comma, and a caption, each in quotes if it has a comma or quotes in it";
    let fields = fields(line).ok_or_else(|| lines.wrong(number, expected, "a quote without an end".to_owned()))?;
    match &fields[..] {
        [file, text] if !file.trim().is_empty() && !text.trim().is_empty() => {
            Ok((file.trim().to_owned().into(), vec![text.trim().to_owned().into()]))
        }
        [_, _] => Err(lines.wrong(number, expected, "an empty field".to_owned())),
        _ => Err(lines.wrong(number, expected, format!("{} fields", fields.len()))),
    }
}

fn is_header(line: &str) -> bool {
    let fields = fields(line).unwrap_or_default();
    fields.len() == 2 && fields.iter().zip(HEADER).all(|(field, names)| names.contains(&field.trim()))
}

/// The fields of a line of comma-separated values (RFC 4180); `None` if a quote has no end.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line.trim_end_matches('\r');
    loop {
        let field = match rest.trim_start().strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let field = rest[..end].to_owned();
                rest = &rest[end..];
                field
            }
            Some(mut inner) => {
                let mut field = String::new();
                loop {
                    let end = inner.find('"')?;
                    field.push_str(&inner[..end]);
                    inner = &inner[end + 1..];
                    let Some(more) = inner.strip_prefix('"') else { break };
                    field.push('"');
                    inner = more;
                }
                let end = inner.find(',').unwrap_or(inner.len());
                rest = &inner[end..];
                field
            }
        };
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(fields),
        }
    }
}

/// Strips the caption's number that Flickr8k appends to a file name, as in `1000268201_693b08cb0e.jpg#0`.
fn without_number(file: &str) -> &str {
    match file.rsplit_once('#') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comma_separated_values() {
        let check = |line: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|fields| fields.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(fields(line), expected, "{line:?}");
        };
        check("a.jpg,A cat.", Some(&["a.jpg", "A cat."]));
        check("a.jpg,\"A cat, and a \"\"dog\"\".\"\r", Some(&["a.jpg", "A cat, and a \"dog\"."]));
        check("\"a,b.jpg\" ,x,", Some(&["a,b.jpg", "x", ""]));
        check("", Some(&[""]));
        check("a.jpg,\"A cat", None);
        assert!(is_header("image,caption") && is_header("\"file_name\", text") && !is_header("a.jpg,caption"));
    }
}
