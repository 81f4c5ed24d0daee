//! `spotter init`: writes a configuration and a label file to begin with, and shows the labels of one picture.

mod asker;
mod files;

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};
use spotter_engine::bundle::Bundle;
use spotter_engine::console::write_line;

use self::asker::Asker;
use self::files::{Answers, Board, LABELS};
use super::{doctor, snapshot};
use crate::bundles;
use crate::config::{Config, FILE_NAME, all_of, user_folder};
use crate::console::stdout;
use crate::labels::demo::Scene;
use crate::labels::embedder::embed_configured;
use crate::output::full_name;
use crate::recognizer::{Latency, Recognizer, compute};
use crate::source::{self, Uri};
use crate::store;

/// Folder of the service's configuration.
const SERVICE_FOLDER: &str = "/etc/spotter";

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Settings that suit this board [default: the board that this is, else none]
    #[arg(long, value_enum)]
    board: Option<Board>,
    /// Model bundle, a folder or a .tar [default: the active slot's, else the demo model]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// Source of the frames, as for `run` [default: csi://0 on a board, else auto]
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// Folder for spotter.toml and labels.toml [default: ~/.config/spotter; as root /etc/spotter if it exists]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Ask nothing: take the defaults, as without a terminal
    #[arg(long, short)]
    yes: bool,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode> {
        let may_ask = !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal();
        let (mut input, mut err) = (io::stdin().lock(), io::stderr().lock());
        let mut asker = may_ask.then_some(Asker { input: &mut input, out: &mut err });
        let board = doctor::board_name(Path::new("/")).map_or(Board::None, |model| Board::named(&model));
        let folder = match &self.out {
            Some(folder) => folder.clone(),
            None => default_folder()?,
        };
        let folder = std::path::absolute(&folder).with_context(|| folder.display().to_string())?;
        if !self.force && !may_overwrite(&folder, asker.as_mut())? {
            bail!("nothing is written");
        }
        let answers = self.answers(board, asker.as_mut())?;
        drop(err);
        let config = write(&folder, &answers)?;
        let mut out = stdout();
        for name in [FILE_NAME, LABELS] {
            write_line(&mut out, format_args!("wrote {}", folder.join(name).display())).context("standard output")?;
        }
        tell_taken(&answers, &mut out).context("standard output")?;
        // The files are good whatever the camera does.
        if let Err(error) = show_picture(&config, &mut out) {
            write_line(&mut out, format_args!("no picture yet: {error:#}"))?;
            write_line(&mut out, format_args!("`spotter doctor` examines the cameras"))?;
        }
        tell_next(&folder, &answers, &mut out).context("standard output")?;
        Ok(ExitCode::SUCCESS)
    }

    /// What the flags say; the rest is asked, or the default without anybody to ask.
    fn answers(&self, found: Board, mut asker: Option<&mut Asker<'_>>) -> Result<Answers> {
        let board = match (self.board, asker.as_deref_mut()) {
            (Some(board), _) => board,
            (None, None) => found,
            (None, Some(asker)) => {
                let names: Vec<String> = Board::value_variants().iter().map(|board| board.name()).collect();
                let question = format!("Which board is it for? {}", names.join(", "));
                let read = |answer: &str| {
                    Board::from_str(answer, true).map_err(|_| anyhow::anyhow!("no such board: {answer}"))
                };
                asker.ask(&question, &found.name(), read)?
            }
        };
        let source = match (&self.source, asker.as_deref_mut()) {
            (Some(source), _) => read_source(source)?,
            (None, None) => board.source().to_owned(),
            (None, Some(asker)) => {
                let question = "Where do the pictures come from? auto (the first camera), /dev/video0, csi://0, \
                                rtsp://USER:PASSWORD@CAMERA/PATH, http://CAMERA/PATH, video.mp4, a folder, test://shapes";
                asker.ask(question, board.source(), read_source)?
            }
        };
        let model = match (&self.model, asker) {
            (Some(model), _) => Some(read_model(model)?),
            (None, None) => None,
            (None, Some(asker)) => {
                let question = "Which model? A bundle that `model-prep export` wrote, or demo";
                asker.ask(question, "demo", |answer| match answer {
                    "demo" => Ok(None),
                    path => read_model(Path::new(path)).map(Some),
                })?
            }
        };
        Ok(Answers { board, source, model })
    }
}

/// The source that `text` names, from any folder.
fn read_source(text: &str) -> Result<String> {
    let uri = Uri::from_str(text)?;
    if let Some(path) = uri.required_path().filter(|path| !path.exists()) {
        bail!("source {}: no such file or folder", path.display());
    }
    Ok(uri.text_in(&std::env::current_dir().context("the working directory")?, text))
}

/// The path of a bundle, from any folder.
fn read_model(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().with_context(|| format!("model {}", path.display()))?;
    Bundle::open(&path)?;
    Ok(path)
}

/// The folder that `spotter run` looks in: the service's for root, if there is a service, else the user's.
fn default_folder() -> Result<PathBuf> {
    let service = Path::new(SERVICE_FOLDER);
    if rustix::process::geteuid().is_root() && service.is_dir() {
        return Ok(service.to_owned());
    }
    user_folder(|name| std::env::var_os(name))
        .context("neither XDG_CONFIG_HOME nor HOME is set: name a folder with --out")
}

/// Returns whether files that exist may be overwritten, which is asked.
fn may_overwrite(folder: &Path, asker: Option<&mut Asker<'_>>) -> Result<bool> {
    let taken: Vec<String> = [FILE_NAME, LABELS]
        .iter()
        .map(|name| folder.join(name))
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect();
    let are = if taken.len() == 1 { "exists" } else { "exist" };
    match (taken.is_empty(), asker) {
        (true, _) => Ok(true),
        (false, Some(asker)) => asker.confirm(&format!("{} {are}. Overwrite?", taken.join(" and "))),
        (false, None) => bail!("{} {are}: --force overwrites, --out writes elsewhere", taken.join(" and ")),
    }
}

/// Writes both files, once they are known to be valid, and returns the configuration.
fn write(folder: &Path, answers: &Answers) -> Result<Config> {
    let path = folder.join(FILE_NAME);
    let text = answers.configuration(folder);
    let config = Config::parse(&path, &text, |name| std::env::var_os(name)).map_err(|problems| all_of(&problems))?;
    // The labels first: a configuration never names a file that is not there.
    let labels = folder.join(LABELS);
    let written = store::replace_file(&labels, answers.labels().as_bytes());
    written.with_context(|| format!("{}: cannot write", labels.display()))?;
    // The service is another user than root, who writes its configuration.
    let is_private = answers.has_secret() && folder != Path::new(SERVICE_FOLDER);
    let replace = if is_private { store::replace_private_file } else { store::replace_file };
    replace(&path, text.as_bytes()).with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(config)
}

/// Says what the files were written for, and how to choose otherwise.
fn tell_taken(answers: &Answers, out: &mut dyn Write) -> io::Result<()> {
    let model =
        answers.model.as_ref().map_or_else(|| "installed or demo".to_owned(), |path| path.display().to_string());
    let (board, source) = (answers.board.name(), Uri::shown(&answers.source));
    write_line(out, format_args!("board: {board} (--board), source: {source} (--source), model: {model} (--model)"))
}

/// Prints the best labels of one picture of the source. Nothing is cached: this may be another user than the service's.
fn show_picture(config: &Config, out: &mut dyn Write) -> Result<()> {
    let uri = Uri::from_str(&config.source)?;
    if uri.is_pipe() {
        return Ok(());
    }
    let mut opened = source::open(&uri, &config.capture.options())?;
    let frame = snapshot::take(opened.source.as_mut(), None)?;
    let bundle = Arc::new(bundles::open(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let uncached = Config { state_dir: None, ..config.clone() };
    let labels = embed_configured(&uncached, Scene::of(&opened.uri), &bundle, &threads)?;
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    let mut latency = Latency::of(&frame);
    recognizer.decode(&frame, &mut latency)?;
    let scores = recognizer.recognize(&labels, &mut latency)?;
    write_line(out, format_args!("one picture of {}:", opened.source.describe())).context("standard output")?;
    for score in scores.iter().take(config.inference.top_k) {
        let name = full_name(labels.question(score.label), &labels.names()[score.label]);
        write_line(out, format_args!("  {:5.1}%  {name}", score.probability * 100.0)).context("standard output")?;
    }
    Ok(())
}

/// Says what to do next.
fn tell_next(folder: &Path, answers: &Answers, out: &mut dyn Write) -> io::Result<()> {
    let is_service = folder == Path::new(SERVICE_FOLDER);
    let is_found = is_service || user_folder(|name| std::env::var_os(name)).as_deref() == Some(folder);
    let option = if is_found { String::new() } else { format!(" --config '{}'", folder.join(FILE_NAME).display()) };
    write_line(out, format_args!("next:"))?;
    if is_service && answers.has_secret() {
        let file = folder.join(FILE_NAME);
        let file = file.display();
        write_line(
            out,
            format_args!(
                "  chgrp spotter {file} && chmod 640 {file}    # it may hold a password, which all users can read"
            ),
        )?;
    }
    write_line(out, format_args!("  write what you look for into {}", folder.join(LABELS).display()))?;
    write_line(out, format_args!("  spotter check{option}    # says what is wrong or doubtful"))?;
    write_line(
        out,
        format_args!("  spotter run{option}      # shows the labels live; takes changes of the label file at once"),
    )?;
    if is_service {
        write_line(out, format_args!("  systemctl enable --now spotter    # runs it as a service"))?;
    }
    if answers.model.is_none() {
        let export = "model-prep export openai/clip-vit-base-patch32 --out clip.tar";
        write_line(out, format_args!("  {export}    # a real model; then `spotter init --model clip.tar --force`"))?;
    }
    out.flush()
}
