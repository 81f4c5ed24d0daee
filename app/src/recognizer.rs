//! One frame to scores, and how long each stage took.

use std::time::{Duration, Instant};

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::LabelEmbeddings;
use spotter_engine::picture::Picture;
#[cfg(doc)]
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::{Score, Scoring, score};
use spotter_engine::tower::{ImageTower, Threads};

use crate::recognizer::decode::{Decoder, FrameError};
use crate::source::{Frame, ShapesOptions, draw_shapes};

/// How long the stages of one frame took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Fetching the frame, without the wait for it where that is known.
    pub capture: Duration,
    /// Encoded or YUV bytes to RGB.
    pub decode: Duration,
    /// Resize, crop, normalise.
    pub preprocess: Duration,
    /// Image tower.
    pub tower: Duration,
    /// Cosines, logits, probabilities.
    pub score: Duration,
}

impl Latency {
    /// The stages after capture, added up.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.tower + self.score
    }
}

/// Everything between a frame and its scores; buffers are kept from frame to frame.
pub struct Recognizer {
    decoder: Decoder,
    preprocessor: Preprocessor,
    tower: ImageTower,
    scoring: Scoring,
    picture: Picture,
    pixels: Vec<f32>,
    scores: Vec<Score>,
}

impl Recognizer {
    /// Loads the image tower of a bundle.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self> {
        let manifest = bundle.manifest();
        Ok(Self {
            decoder: Decoder::new(),
            preprocessor: manifest.preprocessor()?,
            tower: ImageTower::open(bundle, threads)?,
            scoring: Scoring::of(manifest),
            picture: Picture::default(),
            pixels: Vec::new(),
            scores: Vec::new(),
        })
    }

    /// Has the tower look at a drawn picture, so that a bundle that loads and does not work shows now.
    pub fn probe(&mut self) -> Result<()> {
        let options = ShapesOptions { width: 64, height: 64, ..ShapesOptions::default() };
        draw_shapes(&options, 0, &mut self.picture.rgb);
        (self.picture.width, self.picture.height) = (options.width, options.height);
        self.preprocessor.run(&self.picture, &mut self.pixels)?;
        self.tower.embed(&self.pixels)?;
        Ok(())
    }

    /// Turns a frame into the picture that [`Self::recognize`] looks at; an error means that the frame is broken.
    pub fn decode(&mut self, frame: &Frame) -> Result<Duration, FrameError> {
        let start = Instant::now();
        self.decoder.decode(frame, &mut self.picture)?;
        Ok(start.elapsed())
    }

    /// The decoded picture.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Scores the decoded picture against `labels`, best first; `latency` gets the stages' times.
    ///
    /// # Errors
    /// A [`PreprocessError`] where this picture cannot become the tower's input, which others may; any other error is the
    /// tower's.
    pub fn recognize(&mut self, labels: &LabelEmbeddings, latency: &mut Latency) -> Result<&[Score]> {
        let embedding = self.embed(latency)?;
        let embedded = Instant::now();
        score(&embedding, labels, &self.scoring, &mut self.scores);
        latency.score = embedded.elapsed();
        Ok(&self.scores)
    }

    /// Embeds the decoded picture: `projection_dim` values.
    pub(crate) fn embed(&mut self, latency: &mut Latency) -> Result<Vec<f32>> {
        let start = Instant::now();
        self.preprocessor.run(&self.picture, &mut self.pixels)?;
        let preprocessed = Instant::now();
        let embedding = self.tower.embed(&self.pixels)?;
        latency.preprocess = preprocessed - start;
        latency.tower = preprocessed.elapsed();
        Ok(embedding)
    }
}
