//! What `spotter init` writes.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::labels::demo::{Scene, text_of};
use crate::labels::typed::quoted;
use crate::source::Uri;

/// Name of the label file.
pub(super) const LABELS: &str = "labels.toml";

/// State folder of the service, which commands typed by hand must share.
const SERVICE_STATE: &str = "/var/lib/spotter";

/// A board with settings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Board {
    /// None of these: the defaults.
    None,
    /// Raspberry Pi Zero 2 W.
    #[value(name = "pi-zero-2w")]
    PiZero2w,
    /// Raspberry Pi 4.
    Pi4,
    /// Raspberry Pi 5.
    Pi5,
    /// NVIDIA Jetson Nano.
    JetsonNano,
    /// NVIDIA Jetson Orin Nano.
    OrinNano,
}

impl Board {
    /// The board with this model name, as its device tree has it.
    pub(super) fn named(model: &str) -> Self {
        for (part, board) in [
            ("Raspberry Pi Zero 2", Self::PiZero2w),
            ("Raspberry Pi 4", Self::Pi4),
            ("Raspberry Pi 5", Self::Pi5),
            ("Orin Nano", Self::OrinNano),
            ("Jetson Nano", Self::JetsonNano),
        ] {
            if model.contains(part) {
                return board;
            }
        }
        Self::None
    }

    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The source that it most likely has.
    pub(super) fn source(self) -> &'static str {
        if self == Self::None { "auto" } else { "csi://0" }
    }

    /// Its settings: what follows the source in its file.
    fn settings(self) -> Option<&'static str> {
        let text = match self {
            Self::None => return None,
            Self::PiZero2w => include_str!("../../../../config/boards/pi-zero-2w.toml"),
            Self::Pi4 => include_str!("../../../../config/boards/pi4.toml"),
            Self::Pi5 => include_str!("../../../../config/boards/pi5.toml"),
            Self::JetsonNano => include_str!("../../../../config/boards/jetson-nano.toml"),
            Self::OrinNano => include_str!("../../../../config/boards/orin-nano.toml"),
        };
        text.find("\n[").map(|start| &text[start + 1..])
    }
}

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) board: Board,
    /// Source of the frames.
    pub(super) source: String,
    /// The bundle; `None` for the active slot's, else the demo model.
    pub(super) model: Option<PathBuf>,
}

impl Answers {
    /// Returns whether the source's address has a part that is not shown, such as a password.
    pub(super) fn has_secret(&self) -> bool {
        Uri::shown(&self.source) != self.source
    }

    /// The text of the configuration in `folder`.
    pub(super) fn configuration(&self, folder: &Path) -> String {
        let mut text = String::from(
            "# Spotter's configuration: what differs from the defaults. `spotter check` says what is wrong with it.\n\n\
             # auto: the first camera. Or /dev/video0, csi://0, rtsp://USER:PASSWORD@CAMERA/PATH, http://CAMERA/PATH, video.mp4, a \
             folder of images\n",
        );
        text.push_str(&format!("source = {}\n\n", quoted(&self.source)));
        match &self.model {
            Some(path) => {
                text.push_str(&format!("# The model.\nbundle = {}\n\n", quoted(&path.display().to_string())));
            }
            None => text.push_str(
                "# The model: by default the installed bundle, else the small demo model inside the program. This makes a real \
                 one:\n# model-prep export openai/clip-vit-base-patch32 --out clip.tar\n#bundle = \"/srv/spotter/clip.tar\"\n\n",
            ),
        }
        text.push_str(&format!("# What to look for, as sentences.\nlabels = \"{LABELS}\"\n"));
        if folder == Path::new(super::SERVICE_FOLDER) {
            text.push_str(&format!(
                "\n# Shared by the service and commands typed by hand.\nstate_dir = \"{SERVICE_STATE}\"\n"
            ));
        }
        let rate = "# Most labelled frames a second; 0 for as many as camera and model manage.\n[rate]\n#max_fps = 5\n";
        text.push('\n');
        text.push_str(self.board.settings().unwrap_or(rate));
        text
    }

    /// The text of the label file: what the demo model knows, or something to begin with for another one.
    pub(super) fn labels(&self) -> &'static str {
        const STARTER: &str = include_str!("../../../../config/starter.toml");
        let scene = self.source.parse().map_or(Scene::Everyday, |uri: Uri| Scene::of(&uri));
        if scene == Scene::Everyday && self.model.is_some() { STARTER } else { text_of(scene) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::labels::label_file;

    #[test]
    fn boards_are_found_by_their_names() {
        for (model, expected) in [
            ("Raspberry Pi 5 Model B Rev 1.0", Board::Pi5),
            ("Raspberry Pi 4 Model B Rev 1.4", Board::Pi4),
            ("Raspberry Pi Zero 2 W Rev 1.0", Board::PiZero2w),
            ("NVIDIA Jetson Nano Developer Kit", Board::JetsonNano),
            ("NVIDIA Jetson Orin Nano Developer Kit", Board::OrinNano),
            ("Intel(R) Xeon(R)", Board::None),
            ("", Board::None),
        ] {
            assert_eq!(Board::named(model), expected, "{model}");
        }
    }

    #[test]
    fn what_is_written_is_valid_and_says_what_was_answered() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/boards");
        for board in Board::value_variants() {
            for source in ["auto", "csi://0", "exec:camera 'a \"b\"' \\\\x", "/pictures/ü", "test://shapes"] {
                for model in [None, Some(PathBuf::from("/srv/a \"model\".tar"))] {
                    let answers = Answers { board: *board, source: source.to_owned(), model };
                    let folder = Path::new("/home/me/.config/spotter");
                    let text = answers.configuration(folder);
                    let config = Config::parse(&folder.join("spotter.toml"), &text, |_| None).unwrap();
                    assert_eq!((&*config.source, &config.bundle), (source, &answers.model));
                    assert_eq!(config.labels.as_deref(), Some(&*folder.join(LABELS)));
                    let expected = match board {
                        Board::None => Config::default(),
                        board => {
                            let text = std::fs::read_to_string(shipped.join(format!("{}.toml", board.name()))).unwrap();
                            Config::parse(Path::new("board.toml"), &text, |_| None).unwrap()
                        }
                    };
                    assert_eq!(
                        (config.capture, config.inference, config.rate),
                        (expected.capture, expected.inference, expected.rate),
                        "{}",
                        board.name()
                    );
                    label_file::parse_text(LABELS, answers.labels()).unwrap().resolve(&["{}".to_owned()]).unwrap();
                }
            }
        }
    }

    #[test]
    fn labels_suit_model_and_source_and_the_service_shares_its_state() {
        let answers = |source: &str, model: Option<&str>| Answers {
            board: Board::None,
            source: source.to_owned(),
            model: model.map(PathBuf::from),
        };
        for (source, model, expected) in [
            ("auto", None, "insect or spider"),
            ("auto", Some("/clip.tar"), "set = \"room\""),
            ("test://shapes", None, "red circle"),
            ("test://shapes", Some("/clip.tar"), "red circle"),
        ] {
            assert!(answers(source, model).labels().contains(expected), "{source} {model:?}");
        }
        let text = answers("auto", None).configuration(Path::new("/etc/spotter"));
        assert!(text.contains("state_dir = \"/var/lib/spotter\""), "{text}");
    }
}
