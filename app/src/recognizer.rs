//! From a frame to scores, and how long each stage takes.

pub mod compute;
pub mod decode;

use std::time::{Duration, Instant};

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::picture::Picture;
#[cfg(doc)]
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::{Score, Scoring, score};
use spotter_engine::tower::{ImageTower, Threads};
use spotter_engine::view::{View, Viewer};

use self::decode::{Decoder, FrameError};
use crate::source::{Frame, ShapesOptions, draw_shapes};

/// Times of the stages of one frame. Each stage adds its time to its field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Fetching the frame, without the wait for it if that is known.
    pub capture: Duration,
    /// Encoded or YUV bytes to RGB.
    pub decode: Duration,
    /// Measures of the view; comparison with the last labelled frame, if that is on; resize, crop, normalise.
    pub preprocess: Duration,
    /// Image tower.
    pub tower: Duration,
    /// Cosines, logits, probabilities.
    pub score: Duration,
}

impl Latency {
    /// The latency of a captured frame, before any other stage.
    pub fn of(frame: &Frame) -> Self {
        Self { capture: frame.capture_time, ..Self::default() }
    }

    /// Sum of the stages after capture.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.tower + self.score
    }
}

/// Turns frames into scores. Buffers are reused, so that frames of one size and format allocate nothing once a first one was
/// processed; JPEG frames allocate a few small tables.
pub struct Recognizer {
    decoder: Decoder,
    viewer: Viewer,
    preprocessor: Preprocessor,
    tower: ImageTower,
    scoring: Scoring,
    picture: Picture,
    pixels: Vec<f32>,
    /// Image embedding, `projection_dim` values.
    embedding: Vec<f32>,
    scores: Vec<Score>,
}

impl Recognizer {
    /// Loads the image tower of a bundle.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self> {
        let manifest = bundle.manifest();
        Ok(Self {
            decoder: Decoder::new(),
            viewer: Viewer::default(),
            preprocessor: manifest.preprocessor()?,
            tower: ImageTower::open(bundle, threads)?,
            scoring: manifest.scoring(),
            picture: Picture::default(),
            pixels: Vec::new(),
            embedding: vec![0.0; manifest.projection_dim],
            scores: Vec::new(),
        })
    }

    /// Embeds a drawn image, so that a bundle which loads but does not work is found out now.
    pub fn probe(&mut self) -> Result<()> {
        let options = ShapesOptions { width: 64, height: 64, ..ShapesOptions::default() };
        draw_shapes(&options, 0, &mut self.picture.rgb);
        (self.picture.width, self.picture.height) = (options.width, options.height);
        self.embed(&mut Latency::default())?;
        Ok(())
    }

    /// Decodes a frame into the image that [`Self::recognize`] scores; an error means that the frame is broken.
    pub fn decode(&mut self, frame: &Frame, latency: &mut Latency) -> Result<(), FrameError> {
        let start = Instant::now();
        self.decoder.decode(frame, &mut self.picture)?;
        latency.decode += start.elapsed();
        Ok(())
    }

    /// The decoded image.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Measures the decoded image.
    pub fn view(&mut self, latency: &mut Latency) -> View {
        let start = Instant::now();
        let view = self.viewer.measure(&self.picture);
        latency.preprocess += start.elapsed();
        view
    }

    /// Scores the decoded image against `labels`, best first.
    ///
    /// # Errors
    /// A [`PreprocessError`] if this image cannot become the tower's input, while others may; any other error is the tower's.
    pub fn recognize(&mut self, labels: &LabelEmbeddings, latency: &mut Latency) -> Result<&[Score]> {
        self.embed(latency)?;
        let start = Instant::now();
        score(&self.embedding, labels, &self.scoring, &mut self.scores);
        latency.score += start.elapsed();
        Ok(&self.scores)
    }

    /// Embeds the decoded image: `projection_dim` values.
    pub(crate) fn embed(&mut self, latency: &mut Latency) -> Result<&[f32]> {
        let start = Instant::now();
        self.preprocessor.run(&self.picture, &mut self.pixels)?;
        let preprocessed = Instant::now();
        self.tower.embed_into(&self.pixels, &mut self.embedding)?;
        latency.preprocess += preprocessed - start;
        latency.tower += preprocessed.elapsed();
        Ok(&self.embedding)
    }
}
