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
    let file = parse("l", "[[label]]\nname = 'cat'\n\n[[label]]\n  name = 'dog'", &["{}".to_owned()]).expect("labels");
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
    check(&labels(10_000), &[]);
    check(&labels(10_002), &["l:20001:1: more than 10000 labels: all of them are compared with every frame"]);
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
    let questions = load(&config.join("questions.toml"), &["{}".to_owned()]).expect("questions.toml");
    assert!(questions.competition.questions().len() >= 2 && questions.competition.lone().len() >= 2);
    assert!(!questions.competition.background().is_empty());
    for name in ["starter.toml", "demo/everyday.toml"] {
        let file = load(&config.join(name), &["{}".to_owned()]).expect(name);
        assert!(file.competition.questions().len() == 1 && file.competition.lone().len() >= 4, "{name}");
        assert!(!file.competition.background().is_empty(), "{name}");
    }
    let demo = load(&config.join("demo/labels.toml"), &["{}".to_owned()]).expect("demo/labels.toml");
    let colours = ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"];
    let shapes = ["circle", "square", "triangle", "star", "cross", "heart"];
    let names = colours.iter().flat_map(|colour| shapes.iter().map(move |shape| format!("{colour} {shape}")));
    let expected: Vec<Label> = names.map(|name| label(&name, &[&name], &["a photo of a {}."])).collect();
    assert_eq!(demo.rows, expected);
}

/// A file with everything that a label file may have.
const WHOLE: &str = "smooth_s = 2
templates = ['a {}']
[[question]]
name = 'door'
smooth_s = 0.5
[[question.label]]
name = 'open'
prompts = ['open door', 'way out']
opposites = ['wall']
threshold = 0.7
for_s = 2
[[question.label]]
name = 'closed'
templates = ['one {}']
[[question]]
name = 'gate'
[[question.label]]
name = 'open'
release = 0.25
hold_s = 0
[[question.label]]
name = 'closed'
[[label]]
name = 'cat'
opposites = ['dog', 'fox']
templates = ['{}']
[[background]]
prompts = ['street', 'yard']
[[background]]
prompts = ['night']
templates = ['at {}']
";

#[test]
fn questions_opposites_and_background_become_rows() {
    let file = parse("l", WHOLE, &["default {}".to_owned()]).expect("labels");
    let expected = [
        label("cat", &["cat"], &["{}"]),
        label("open", &["open door", "way out"], &["a {}"]),
        label("closed", &["closed"], &["one {}"]),
        label("open", &["open"], &["a {}"]),
        label("closed", &["closed"], &["a {}"]),
        label("dog", &["dog"], &["{}"]),
        label("fox", &["fox"], &["{}"]),
        label("wall", &["wall"], &["a {}"]),
        label("street", &["street"], &["a {}"]),
        label("yard", &["yard"], &["a {}"]),
        label("night", &["night"], &["at {}"]),
    ];
    assert_eq!(file.rows, expected);
    assert_eq!(file.labels(), &expected[..5]);
    let questions = vec![("door".to_owned(), 2), ("gate".to_owned(), 2)];
    assert_eq!(file.competition, Competition::new(1, questions, &[2, 1, 0, 0, 0], 3));
    let described: Vec<_> = (0..file.rows.len()).map(|row| file.describe(row)).collect();
    let expected = [
        "label `cat`",
        "label `door: open`",
        "label `door: closed`",
        "label `gate: open`",
        "label `gate: closed`",
        "opposite `dog` of label `cat`",
        "opposite `fox` of label `cat`",
        "opposite `wall` of label `door: open`",
        "background `street`",
        "background `yard`",
        "background `night`",
    ];
    assert_eq!(described, expected);
}

#[test]
fn limits_have_defaults() {
    let rules = parse("l", WHOLE, &[]).expect("labels").rules;
    assert_eq!((rules.smooth_s, rules.lone()), (2.0, 0..1));
    let questions: Vec<_> = rules.questions.iter().map(|q| (&*q.name, q.labels.clone(), q.smooth_s)).collect();
    assert_eq!(questions, [("door", 1..3, 0.5), ("gate", 3..5, 2.0)]);
    let found: Vec<_> = rules.labels.iter().map(|l| (&*l.name, l.threshold, l.release, l.for_s, l.hold_s)).collect();
    let expected = [
        ("cat", 0.6, 0.4, 0.8, 3.0),
        ("open", 0.7, 0.5, 2.0, 3.0),
        ("closed", 0.6, 0.4, 0.8, 3.0),
        ("open", 0.6, 0.25, 0.8, 0.0),
        ("closed", 0.6, 0.4, 0.8, 3.0),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(found.0 == expected.0 && close(found.1, expected.1) && close(found.2, expected.2), "{found:?}");
        assert_eq!((found.3, found.4), (expected.3, expected.4), "{found:?}");
    }
    let plain = parse("l", "[[label]]\nname = 'cat'", &["{}".to_owned()]).expect("labels").rules;
    assert_eq!((plain.smooth_s, plain.questions.len()), (0.3, 0));
}

#[test]
fn another_meaning_is_one_of_other_sentences() {
    let meaning = |text: &str| {
        let file = parse("l", text, &["{}".to_owned()]).expect("labels");
        file.rules.labels[0].meaning
    };
    let base = meaning("[[label]]\nname = 'cat'");
    for (text, is_same) in [
        ("smooth_s = 3\n[[label]]\nname = 'cat'\nthreshold = 0.9\nfor_s = 7", true),
        ("[[label]]\nname = 'cat'\n[[label]]\nname = 'dog'\n[[background]]\nprompts = ['street']", true),
        ("[[label]]\nname = 'tomcat'\nprompts = ['cat']", true),
        ("[[label]]\nname = 'cat'\nprompts = ['kitten']", false),
        ("[[label]]\nname = 'cat'\ntemplates = ['a {}']", false),
        ("[[label]]\nname = 'cat'\nopposites = ['dog']", false),
    ] {
        assert_eq!(meaning(text) == base, is_same, "{text}");
    }
}

#[test]
fn problems_of_questions_and_limits_have_positions() {
    let question = "[[question]]\nname = 'q'\n";
    let two = "[[question.label]]\nname = 'a'\n[[question.label]]\nname = 'b'\n";
    check(&format!("{question}{two}"), &[]);
    check(question, &["l:1:1: question without labels: expected two or more `[[question.label]]`, each with a `name`"]);
    let one = "question `q` has one label, which would always be the answer: expected another `[[question.label]]`, or \
               `opposites`";
    check(&format!("{question}[[question.label]]\nname = 'a'"), &[&format!("l:1:1: {one}")]);
    check(&format!("{question}[[question.label]]\nname = 'a'\nopposites = ['b']"), &[]);
    check(&format!("[[question]]\n{two}"), &["l:1:1: question without a `name`"]);
    check(
        &format!("{question}{two}{question}{two}[[question.label]]\nname = 'a'"),
        &["l:8:8: question `q` is already defined in line 2", "l:14:8: label `a` is already defined in line 10"],
    );
    check(&format!("[[label]]\nname = 'a'\n{question}{two}"), &[]);
    check(
        &format!("{question}smoth_s = 1\n{two}treshold = 0.5"),
        &[
            "l:3:1: unknown key `smoth_s`: did you mean `smooth_s`?",
            "l:8:1: unknown key `treshold`: did you mean `threshold`?",
        ],
    );
    check(
        "[[backgrund]]\nprompts = ['x']\n[[label]]\nname = 'x'",
        &["l:1:3: unknown key `backgrund`: did you mean `background`?"],
    );
    check(
        "[[label]]\nname = 'x'\n[[background]]\n[[background]]\nprompts = ['']",
        &[
            "l:3:1: background without `prompts` and without a `set`",
            "l:5:12: `prompts`: expected a prompt, found nothing between the quotes",
        ],
    );
    let limits = |keys: &str, expected: &[&str]| check(&format!("[[label]]\nname = 'x'\n{keys}"), expected);
    limits("threshold = 1", &["l:3:13: `threshold`: expected 0.001 to 0.999, found 1"]);
    limits(
        "for_s = -1\nhold_s = 3601",
        &["l:3:9: `for_s`: expected 0 to 3600, found -1", "l:4:10: `hold_s`: expected 0 to 3600, found 3601"],
    );
    let why = "a label ends below it, and starts from the threshold on";
    limits("release = 0.7", &[&format!("l:3:11: `release`: expected at most the threshold, 0.6, found 0.7: {why}")]);
    limits("threshold = 0.7\nrelease = 0.7", &[]);
    limits("opposites = []", &["l:3:13: `opposites`: expected at least one string, found an empty array"]);
}

#[test]
fn opposites_and_background_count_as_sentences() {
    let texts = |count: usize| (0..count).map(|number| format!("'{number}', ")).collect::<String>();
    let file = |opposites: usize, background: usize| {
        let (opposites, background) = (texts(opposites), texts(background));
        format!("[[label]]\nname = 'x'\nopposites = [{opposites}]\n[[background]]\nprompts = [{background}]")
    };
    check(&file(5000, 4999), &[]);
    let why = "each prompt in each template is one, and has to be embedded and cached";
    check(&file(5000, 5000), &[&format!("l:4:1: more than 10000 sentences: {why}")]);
}

#[test]
fn flaws_of_the_view_are_chosen() {
    let view = |text: &str| {
        let text = format!("[[label]]\nname = 'x'\n{text}");
        parse("l", &text, &["{}".to_owned()]).map(|file| file.rules.view)
    };
    let default = ViewRules::default();
    for (text, expected) in [
        ("", default),
        ("[view]", default),
        ("[view]\nfrozen_s = 5", ViewRules { frozen_s: 5.0, ..default }),
        ("[view]\nignore = ['dark', 'frozen']\nfrozen_s = 5", ViewRules { dark: false, frozen_s: 0.0, ..default }),
        ("[view]\nignore = ['covered', 'blurred']", ViewRules { covered: false, blurred: false, ..default }),
    ] {
        assert_eq!(view(text), Ok(expected), "{text}");
    }
    for (text, expected) in [
        ("ignore = ['night']", "l:4:11: `ignore`: expected `dark`, `covered`, `blurred` or `frozen`, found `night`"),
        ("frozen_s = 0", "l:4:12: `frozen_s`: expected 1 to 86400, found 0"),
        ("ignored = ['dark']", "l:4:1: unknown key `ignored`: did you mean `ignore`?"),
    ] {
        let problems = view(&format!("[view]\n{text}")).expect_err(text);
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn backgrounds_come_with_the_program() {
    let names = |text: &str| {
        let file = parse("l", &format!("[[label]]\nname = 'x'\n{text}"), &["{}".to_owned()])?;
        Ok(file.rows[1..].iter().map(|row| row.name.clone()).collect::<Vec<_>>())
    };
    let street = names("[[background]]\nset = 'street'").expect("a set");
    assert!(street.contains(&"an empty street".to_owned()) && street.len() >= 4, "{street:?}");
    let both = names("[[background]]\nset = 'street'\nprompts = ['a red wall']").expect("both");
    assert_eq!(both, [&["a red wall".to_owned()][..], &street].concat());
    let problems: Vec<Problem> = names("[[background]]\nset = 'sea'").expect_err("no such set");
    let expected = "l:4:7: `set`: expected one of `street`, `garden`, `room`, `workshop`, found `sea`";
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn example_pictures_are_found_beside_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["cats", "dogs", "empty", "cats/below.jpg"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    for name in ["cats/b.PNG", "cats/a.jpg", "cats/notes.txt", "dogs/a.jpg"] {
        std::fs::write(at(name), name).expect("a file");
    }
    let read = |text: &str| {
        std::fs::write(at("labels.toml"), text).expect("a file");
        load(&at("labels.toml"), &["{}".to_owned()])
    };
    let cat = "[[label]]\nname = 'cat'\nexamples = 'cats/'\nnot_examples = 'dogs'\n";
    let file = read(cat).expect("labels");
    let names = |pictures: &[ExamplePicture]| pictures.iter().map(|picture| picture.path.clone()).collect::<Vec<_>>();
    let [Examples { shown, not_shown }] = &file.examples[..] else { panic!("{file:?}") };
    assert_eq!((names(shown), names(not_shown)), (vec![at("cats/a.jpg"), at("cats/b.PNG")], vec![at("dogs/a.jpg")]));
    assert!(file.is_same(&read(cat).expect("labels")));
    std::fs::write(at("cats/a.jpg"), "something else").expect("a file");
    let changed = read(cat).expect("labels");
    assert!(!file.is_same(&changed), "another content of a picture is another file");
    assert_ne!(file.rules.labels[0].meaning, changed.rules.labels[0].meaning);

    for number in 0..50 {
        std::fs::write(at(&format!("dogs/{number}.jpg")), "").expect("a file");
    }
    for (keys, expected) in [
        ("examples = 'none'", "`examples`: DIR/none: cannot be read: No such file or directory (os error 2)"),
        (
            "examples = 'empty'",
            "`examples`: DIR/empty: expected 1 to 50 pictures (jpg, jpeg, png, webp, bmp, gif, tif, tiff, ppm, pgm), found none",
        ),
        (
            "examples = 'cats'\nnot_examples = 'dogs'",
            "`not_examples`: DIR/dogs: expected at most 50 pictures, found more",
        ),
        ("not_examples = 'cats'", "`not_examples` without `examples`: what do the pictures lack?"),
        ("examples = ''", "`examples`: expected a folder, found nothing between the quotes"),
        ("examples = '~/cats'", "`examples`: `~` is not expanded here, write the whole path"),
    ] {
        let found = read(&format!("[[label]]\nname = 'cat'\n{keys}")).expect_err(keys);
        let expected = expected.replace("DIR", &folder.path().display().to_string());
        assert_eq!(found.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [expected], "{keys}");
    }
}
