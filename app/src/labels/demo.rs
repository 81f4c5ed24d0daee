//! The labels of the demo model, by what the source shows. They are inside the program, also where the model is not.

use std::path::Path;

use super::label_file::{self, LabelFile, ParsedLabels};
use crate::config::{Config, Problem};
use crate::source::{Uri, camera_nodes};

/// What the demo model is asked about where no label file is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// What cameras and photographs show: what the demo model tells apart of it.
    Everyday,
    /// The objects of `test://shapes`.
    Shapes,
}

impl Scene {
    /// The scene of an open source.
    pub(crate) fn of(uri: &Uri) -> Self {
        match uri {
            Uri::Shapes(_) => Self::Shapes,
            _ => Self::Everyday,
        }
    }

    /// The scene of the source that `config` names, which is not opened: `auto` takes the drawn shapes if there is no camera.
    pub fn expected(config: &Config) -> Self {
        match config.source.parse::<Uri>() {
            Ok(Uri::Auto) if camera_nodes(Path::new("/dev")).is_empty() => Self::Shapes,
            Ok(uri) => Self::of(&uri),
            Err(_) => Self::Everyday,
        }
    }
}

/// Reads the labels that the configuration names, else those of the demo model for the scene.
pub fn parse_configured(config: &Config, scene: Scene) -> Result<ParsedLabels, Vec<Problem>> {
    match &config.labels {
        Some(path) => label_file::parse_file(path),
        None => parse_demo(scene),
    }
}

/// Reads the same labels; `templates` are the bundle's, for labels without their own.
pub fn configured(config: &Config, scene: Scene, templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_configured(config, scene)?.resolve(templates)
}

/// Reads the labels of the demo model.
fn parse_demo(scene: Scene) -> Result<ParsedLabels, Vec<Problem>> {
    label_file::parse_text("demo labels inside the program", text_of(scene))
}

/// The label file of the demo model for a scene.
pub(crate) fn text_of(scene: Scene) -> &'static str {
    match scene {
        Scene::Everyday => include_str!("../../../config/demo/everyday.toml"),
        Scene::Shapes => include_str!("../../../config/demo/labels.toml"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scene_follows_the_source() {
        for (source, expected) in [
            ("test://shapes?seed=7", Scene::Shapes),
            ("/dev/video0", Scene::Everyday),
            ("csi://0", Scene::Everyday),
            ("exec:camera --mjpeg", Scene::Everyday),
            ("pictures/", Scene::Everyday),
            ("-", Scene::Everyday),
            ("nonsense://", Scene::Everyday),
        ] {
            let config = Config { source: source.to_owned(), ..Config::default() };
            assert_eq!(Scene::expected(&config), expected, "{source}");
        }
    }
}
