//! The configuration file: every key, its default and its limits.

pub(crate) mod document;
pub mod notify;
mod problem;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use minisign_verify::PublicKey;

use crate::secret::Login;
use crate::source::{CaptureOptions, PixelFormat, Uri};
use document::Section;
pub use notify::Notify;
pub use problem::{FILE_BYTES_MAX, Position, Problem, read_text};
pub(crate) use problem::{Problems, all_of};

/// The configuration file that is read if none is named, the user has none, and it exists.
const SYSTEM_FILE: &str = "/etc/spotter/spotter.toml";

/// Name of the configuration file in the user's folder.
pub(crate) const FILE_NAME: &str = "spotter.toml";

/// A valid configuration; keys that the file leaves out have their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Source of the frames, in the syntax of [`Uri`].
    pub source: String,
    /// The model bundle, a folder or a `.tar`; `None` for the active slot's, else the demo bundle.
    pub bundle: Option<PathBuf>,
    /// The label file; `None` for the demo model's labels.
    pub labels: Option<PathBuf>,
    /// Format of standard output.
    pub output: Output,
    /// Folder of the label cache and the bundle slots; `None` if neither the file nor the environment names one.
    pub state_dir: Option<PathBuf>,
    /// Requested camera settings.
    pub capture: Capture,
    /// Labelling of frames.
    pub inference: Inference,
    /// Limits of the frame rate.
    pub rate: Rate,
    /// Which bundles may be installed.
    pub bundles: Bundles,
    /// The metrics file.
    pub metrics: Metrics,
    /// Who is told about changes of states.
    pub notify: Vec<Notify>,
}

/// Format of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Output {
    /// Text for people, redrawn in place on a terminal.
    Text,
    /// One JSON object a line, for programs: frames, and events such as changes of states.
    Json,
    /// The events of the JSON output, without the frames.
    Events,
}

/// Requested camera settings; a camera that lacks them chooses similar ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Pixel format.
    pub format: CaptureFormat,
    /// Milliseconds without a frame after which the camera is reopened.
    pub timeout_ms: u32,
    /// How a network camera knows us, unless its address says it.
    pub login: Option<Login>,
    /// Certificates that a network camera may have in place of those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// Pixel formats that can be requested from a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum CaptureFormat {
    /// The format that is cheapest to decode among those that the camera has in the requested size.
    Auto,
    /// Motion JPEG.
    Mjpeg,
    /// Packed YUV 4:2:2, luma first.
    Yuyv,
    /// Packed YUV 4:2:2, chroma first.
    Uyvy,
    /// A luma plane, then a plane of chroma pairs at half the size.
    Nv12,
    /// Packed 8-bit red, green, blue.
    Rgb24,
    /// 8-bit luma.
    Grey,
}

/// Labelling of frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inference {
    /// Threads that compute the towers; 0 for one fewer than the cores.
    pub threads: usize,
    /// Labels shown for each frame, best first.
    pub top_k: usize,
    /// Grey levels (0 to 255) by which a frame must differ from the last labelled one to be labelled; 0 labels every frame.
    pub unchanged: f32,
}

/// Limits of the frame rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Maximum frame rate in frames a second; 0 for no limit.
    pub max_fps: f32,
    /// Frames a second below which the governor never goes.
    pub min_fps: f32,
    /// Mode of the governor.
    pub governor: GovernorMode,
    /// Temperature limit in degrees Celsius; 0 for the board's own.
    pub temperature_max_c: u32,
}

/// Mode of the governor, which lowers the rate when the board is hot or short of CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum GovernorMode {
    /// On, as far as the board has sensors.
    Auto,
    /// Off.
    Off,
}

/// Which bundles may be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundles {
    /// The key that must have signed them; `None` accepts any bundle, signed or not.
    pub public_key: Option<SigningKey>,
    /// Size limit in MiB.
    pub size_max_mib: u32,
}

/// A minisign public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The key.
    pub key: PublicKey,
    /// The key in base64, the second line of its `.pub` file.
    pub text: String,
}

impl SigningKey {
    /// Parses the second line of a `.pub` file.
    ///
    /// # Errors
    /// The text is not a minisign public key.
    pub(crate) fn parse(text: &str) -> Result<Self, minisign_verify::Error> {
        Ok(Self { key: PublicKey::from_base64(text)?, text: text.trim().to_owned() })
    }
}

/// The metrics file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The file; `None` for no metrics.
    pub file: Option<PathBuf>,
    /// Name of the camera in the metrics.
    pub camera: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: "auto".to_owned(),
            bundle: None,
            labels: None,
            output: Output::Text,
            state_dir: None,
            capture: Capture::default(),
            inference: Inference::default(),
            rate: Rate::default(),
            bundles: Bundles::default(),
            metrics: Metrics::default(),
            notify: Vec::new(),
        }
    }
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            width: 640,
            height: 480,
            fps: 30,
            format: CaptureFormat::Auto,
            timeout_ms: 2000,
            login: None,
            ca_file: None,
        }
    }
}

impl Default for Inference {
    fn default() -> Self {
        Self { threads: 0, top_k: 5, unchanged: 0.0 }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { max_fps: 0.0, min_fps: 1.0, governor: GovernorMode::Auto, temperature_max_c: 0 }
    }
}

impl Default for Bundles {
    fn default() -> Self {
        Self { public_key: None, size_max_mib: 1024 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { file: None, camera: "camera".to_owned() }
    }
}

impl Config {
    /// Reads the file `path`; without one, the user's file, else `/etc/spotter/spotter.toml`, if it exists; else returns the
    /// defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, Vec<Problem>> {
        let env = |name: &str| std::env::var_os(name);
        let system = Path::new(SYSTEM_FILE);
        let users = user_folder(env).map(|folder| folder.join(FILE_NAME)).filter(|path| path.is_file());
        let absent = || system.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let path = match path.or(users.as_deref()) {
            Some(path) => path,
            None if absent() => return Ok(Self { state_dir: default_state_dir(env), ..Self::default() }),
            None => system,
        };
        let text = read_text(path).map_err(|problem| vec![problem])?;
        Self::parse(path, &text, env)
    }

    /// Parses the text of the file `path`. Relative paths in it are relative to the file's folder; `env` looks up
    /// environment variables.
    pub fn parse(path: &Path, text: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Vec<Problem>> {
        let folder = path.parent().unwrap_or(Path::new(""));
        document::read(&path.display().to_string(), text, |root| {
            let defaults = Self::default();
            Self {
                source: source(root, folder).unwrap_or(defaults.source),
                bundle: file(root, "bundle", folder),
                labels: file(root, "labels", folder),
                output: root.choice("output").unwrap_or(defaults.output),
                state_dir: file(root, "state_dir", folder).or_else(|| default_state_dir(env)),
                capture: root.table("capture", |section| Capture::read(section, folder)).unwrap_or_default(),
                inference: root.table("inference", Inference::read).unwrap_or_default(),
                rate: root.table("rate", Rate::read).unwrap_or_default(),
                bundles: root.table("bundles", Bundles::read).unwrap_or_default(),
                metrics: root.table("metrics", |section| Metrics::read(section, folder)).unwrap_or_default(),
                notify: Notify::read_all(root, folder),
            }
        })
    }
}

impl Capture {
    /// The settings as a source takes them.
    pub fn options(&self) -> CaptureOptions {
        CaptureOptions {
            width: self.width,
            height: self.height,
            fps: self.fps,
            format: self.format.pixel_format(),
            timeout: Duration::from_millis(self.timeout_ms.into()),
            login: self.login.clone(),
            ca_file: self.ca_file.clone(),
        }
    }

    fn read(section: &Section<'_>, folder: &Path) -> Self {
        let defaults = Self::default();
        Self {
            // A JPEG cannot be larger; below 16 pixels there is nothing to see.
            width: section.integer("width", 16..=65_535).unwrap_or(defaults.width),
            height: section.integer("height", 16..=65_535).unwrap_or(defaults.height),
            // The fastest cameras give 240; the limit only catches typing errors.
            fps: section.integer("fps", 1..=1000).unwrap_or(defaults.fps),
            format: section.choice("format").unwrap_or(defaults.format),
            // Cameras need up to a few seconds for the first frame; below 100 ms every slow exposure would look like a hang.
            timeout_ms: section.integer("timeout_ms", 100..=60_000).unwrap_or(defaults.timeout_ms),
            login: login(section, folder),
            ca_file: file(section, "ca_file", folder),
        }
    }
}

fn login(section: &Section<'_>, folder: &Path) -> Option<Login> {
    let (user, password_file) = (section.string("user"), file(section, "password_file", folder));
    if user.is_some() != password_file.is_some() {
        section.problem(section.span(), "`[capture]`: expected both `user` and `password_file`".to_owned());
    }
    let user = user?;
    if user.get_ref().contains(|c: char| c == ':' || c.is_control()) {
        section.problem(user.span(), "`user`: expected a name without `:` and control characters".to_owned());
    }
    Some(Login { user: (*user.get_ref()).to_owned(), password_file: password_file? })
}

impl CaptureFormat {
    /// The format to request; `None` leaves the choice to the source.
    fn pixel_format(self) -> Option<PixelFormat> {
        match self {
            Self::Auto => None,
            Self::Mjpeg => Some(PixelFormat::Mjpeg),
            Self::Yuyv => Some(PixelFormat::Yuyv),
            Self::Uyvy => Some(PixelFormat::Uyvy),
            Self::Nv12 => Some(PixelFormat::Nv12),
            Self::Rgb24 => Some(PixelFormat::Rgb24),
            Self::Grey => Some(PixelFormat::Grey),
        }
    }
}

impl Inference {
    fn read(section: &Section<'_>) -> Self {
        let defaults = Self::default();
        // More threads than cores only wait for each other, and no board has more cores.
        let threads = section.integer("threads", 0..=64);
        // A label file has at most this many labels.
        let top_k = section.integer("top_k", 1..=1000);
        let size = |value: Option<u32>, default| value.map_or(default, |value| value as usize);
        Self {
            threads: size(threads, defaults.threads),
            top_k: size(top_k, defaults.top_k),
            unchanged: section.number("unchanged", 0.0..=255.0).unwrap_or(defaults.unchanged),
        }
    }
}

impl Rate {
    fn read(section: &Section<'_>) -> Self {
        let defaults = Self::default();
        Self {
            max_fps: section.number("max_fps", 0.0..=1000.0).unwrap_or(defaults.max_fps),
            // Less than one frame in 100 seconds is not live.
            min_fps: section.number("min_fps", 0.01..=1000.0).unwrap_or(defaults.min_fps),
            governor: section.choice("governor").unwrap_or(defaults.governor),
            // No board is specified for more.
            temperature_max_c: section.integer("temperature_max_c", 0..=120).unwrap_or(defaults.temperature_max_c),
        }
    }
}

impl Bundles {
    /// Size limit in bytes.
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.size_max_mib) << 20
    }

    fn read(section: &Section<'_>) -> Self {
        let key = section.string("public_key").and_then(|text| match SigningKey::parse(text.get_ref()) {
            Ok(key) => Some(key),
            Err(_) => {
                let expected = "expected a minisign public key, the second line of its `.pub` file";
                section.problem(text.span(), format!("`public_key`: {expected}, found something else"));
                None
            }
        });
        // Four times the size of the largest pair of towers.
        let size_max_mib = section.integer("size_max_mib", 1..=16_384).unwrap_or(Self::default().size_max_mib);
        Self { public_key: key, size_max_mib }
    }
}

impl Metrics {
    fn read(section: &Section<'_>, folder: &Path) -> Self {
        let camera = section.string("camera").map(|name| {
            if name.get_ref().is_empty() {
                section.problem(name.span(), "`camera`: expected a name, found nothing between the quotes".to_owned());
            }
            (*name.get_ref()).to_owned()
        });
        Self { file: file(section, "file", folder), camera: camera.unwrap_or_else(|| Self::default().camera) }
    }
}

fn source(root: &Section<'_>, folder: &Path) -> Option<String> {
    let source = root.string("source")?;
    let text = *source.get_ref();
    match text.parse::<Uri>() {
        Ok(uri) => Some(uri.text_in(folder, text)),
        Err(error) => {
            root.problem(source.span(), error.to_string());
            None
        }
    }
}

fn file(root: &Section<'_>, key: &'static str, folder: &Path) -> Option<PathBuf> {
    let path = root.string(key)?;
    if path.get_ref().is_empty() {
        root.problem(path.span(), format!("`{key}`: expected a path, found nothing between the quotes"));
    } else if path.get_ref().starts_with("~/") {
        root.problem(path.span(), format!("`{key}`: `~` is not expanded here, write the whole path"));
    }
    Some(folder.join(path.get_ref()))
}

/// The folder of the user's configuration: `$XDG_CONFIG_HOME/spotter`, else `~/.config/spotter`; `None` if the environment
/// names neither.
pub(crate) fn user_folder(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The XDG specification says to ignore relative paths.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("spotter"))
}

/// `$STATE_DIRECTORY` as systemd sets it, else `$XDG_STATE_HOME/spotter`, else `~/.local/state/spotter`.
fn default_state_dir(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // systemd separates several folders by colons; the XDG specification says to ignore relative paths.
    let absolute = |name: &str| {
        let value = env(name)?;
        let first = std::env::split_paths(&value).next()?;
        first.is_absolute().then_some(first)
    };
    let state_home = || absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    absolute("STATE_DIRECTORY").or_else(|| Some(state_home()?.join("spotter")))
}

#[cfg(test)]
mod tests;
