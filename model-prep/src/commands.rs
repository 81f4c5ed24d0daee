//! The command line: one file per command, with its arguments.

mod adapt;
mod compose;
mod evaluate;
mod export;
mod models;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Turns a Hugging Face VisionTextDualEncoder checkpoint into the bundle that Spotter runs.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Export a checkpoint, or two ONNX towers, as a bundle.
    Export(Box<export::Arguments>),
    /// List models on the Hugging Face hub that work, with size, languages, licence and predicted speed.
    Models(models::Arguments),
    /// Combine an image tower and a text tower into one dual encoder. It is of no use before it is tuned.
    Compose(Box<compose::Arguments>),
    /// Train a dual encoder on images by class or with captions.
    Tune(Box<tune::Arguments>),
    /// Adapt the labels of a bundle to a few example images of each.
    Adapt(adapt::Arguments),
    /// Compare a bundle with its checkpoint; fails if a cosine is below 0.995 or a prompt gets different tokens.
    Verify(verify::Arguments),
    /// Measure how well a bundle classifies images, or retrieves them by their captions.
    Evaluate(evaluate::Arguments),
}

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Export(arguments) => export::run(*arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Compose(arguments) => compose::run(*arguments),
        Command::Tune(arguments) => tune::run(*arguments),
        Command::Adapt(arguments) => adapt::run(&arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
    }
}
