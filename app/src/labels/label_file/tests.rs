use super::*;

fn label(name: &str, prompts: &[&str], templates: &[&str]) -> Label {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Label { name: name.to_owned(), prompts: owned(prompts), templates: owned(templates) }
}

fn parsed(text: &str) -> Result<Vec<Label>, Vec<Problem>> {
    parse("l", text, &["default {}".to_owned()]).map(|file| file.rows)
}

fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = parsed(text).err().unwrap_or_default().iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn prompts_and_templates_have_defaults() {
    let text = "[[label]]\nname = 'cat'\n[[label]]\nname = 'a b'\nprompts = ['a', 'b']\ntemplates = ['{}']";
    let own = label("a b", &["a", "b"], &["{}"]);
    assert_eq!(parsed(text), Ok(vec![label("cat", &["cat"], &["default {}"]), own.clone()]));
    let text = format!("templates = ['one {{}}', 'two {{}}.']\n{text}");
    assert_eq!(parsed(&text), Ok(vec![label("cat", &["cat"], &["one {}", "two {}."]), own]));
    assert_eq!(parsed("label = [{ name = 'x' }]"), Ok(vec![label("x", &["x"], &["default {}"])]));
}

#[test]
fn names_have_positions() {
    let file =
        parse("l", "[[label]]\nname = 'cat'\n\n[[label]]\n  name = 'dog'", &["{}".to_owned()]).expect("labels");
    let position = |line, column| Position { line, column };
    assert_eq!((file.path.as_str(), file.positions), ("l", vec![position(2, 8), position(5, 10)]));
}

#[test]
fn every_problem_has_a_position() {
    let none = "l:1:1: no labels: expected at least one `[[label]]` with a `name`";
    check("", &[none]);
    check("templates = ['{}']", &[none]);
    check("labels = 'x'", &[none, "l:1:1: unknown key `labels`: did you mean `label`?"]);
    check("label = []", &["l:1:9: `label`: expected at least one `[[label]]`, found an empty array"]);
    check("label = ['cat']", &["l:1:10: `label`: expected an array of tables (`[[label]]`), found a string"]);
    check("[label]\nname = 'x'", &["l:1:1: `label`: expected an array of tables (`[[label]]`), found a table"]);
    check("[[label]]", &["l:1:1: label without a `name`"]);
    check("[[label]]\nname = 5", &["l:2:8: `name`: expected a string, found an integer"]);
    check("[[label]]\nname = ''", &["l:2:8: `name`: expected a name, found nothing between the quotes"]);
    check("[[label]]\nname = ' \t'", &["l:2:8: `name`: expected a name, found nothing between the quotes"]);
    check("[[label]]\nname = \"a\\u001b[0m\"", &["l:2:8: `name`: expected one line without control characters"]);
    check("[[label]]\nname = 'x'\n[[label]]\nname = ' x'", &["l:4:8: label `x` is already defined in line 2"]);
    check(
        "[[label]]\nname = 'x'\nprompts = []\ntemplates = []\nprompt = 'y'",
        &[
            "l:3:11: `prompts`: expected at least one string, found an empty array",
            "l:4:13: `templates`: expected at least one string, found an empty array",
            "l:5:1: unknown key `prompt`: did you mean `prompts`?",
        ],
    );
    check(
        "templates = ['a {}', 'b', '{} {}', 5]\n[[label]]\nname = 'x'\nprompts = ['y', ' ', '']",
        &[
            "l:1:22: `templates`: expected one `{}` for the prompt, found 0 in `b`",
            "l:1:27: `templates`: expected one `{}` for the prompt, found 2 in `{} {}`",
            "l:1:36: `templates`: expected an array of strings only, found an integer",
            "l:4:17: `prompts`: expected a prompt, found nothing between the quotes",
            "l:4:22: `prompts`: expected a prompt, found nothing between the quotes",
        ],
    );
}

#[test]
fn a_syntax_error_hides_what_seems_missing_after_it() {
    check("[label]]\nname = 'x'", &["l:1:8: unexpected key or value, expected newline, `#`"]);
    check("[[label]]\nname = 'x", &["l:2:10: invalid literal string, expected `'`"]);
}

#[test]
fn size_is_bounded() {
    let labels = |count: usize| (0..count).map(|i| format!("[[label]]\nname = 'n{i}'\n")).collect::<String>();
    check(&labels(1000), &[]);
    check(&labels(1002), &["l:2001:1: more than 1000 labels: all of them are compared with every frame"]);
    let templates = format!("templates = [{}]\n", "'{}', ".repeat(100));
    check(&(templates.clone() + &labels(100)), &[]);
    let why = "each prompt in each template is one, and has to be embedded and cached";
    check(&(templates + &labels(102)), &[&format!("l:202:1: more than 10000 sentences: {why}")]);
}

#[test]
fn shipped_label_files_are_valid() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let everyday = load(&config.join("labels.toml"), &["{}".to_owned()]).expect("labels.toml").rows;
    assert!(everyday.len() >= 40, "{}", everyday.len());
    let demo = load(&config.join("demo/labels.toml"), &["{}".to_owned()]).expect("demo/labels.toml");
    let colours = ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"];
    let shapes = ["circle", "square", "triangle", "star", "cross", "heart"];
    let names = colours.iter().flat_map(|colour| shapes.iter().map(move |shape| format!("{colour} {shape}")));
    let expected: Vec<Label> = names.map(|name| label(&name, &[&name], &["a photo of a {}."])).collect();
    assert_eq!(demo.rows, expected);
}
