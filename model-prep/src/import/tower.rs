//! Imports one tower.

use std::path::Path;

use spotter_engine::bundle::{Architecture, Dim, Dtype, TensorSpec, Weights};

use super::error::ImportError;
use super::file::File;
use super::quantized;
use crate::onnx::{OnnxFile, value_info};
use crate::plan::Target;
use crate::towers::{IMAGE_OUTPUTS, TEXT_OUTPUTS, TowerFile};

/// The input of a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TowerInput {
    /// Images of this height and width.
    Image([usize; 2]),
    /// Token ids.
    Text,
}

/// A projection to append to the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// The matrix [projection_dim, from], as checkpoints store it.
    pub weight: Vec<f32>,
    /// Width of the graph's output.
    pub from: usize,
}

/// How a graph is imported.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The tower's input.
    pub input: TowerInput,
    /// The output to use; `None` for the graph's only output.
    pub output: Option<String>,
    /// The projection of the output, if the graph does not contain it.
    pub projection: Option<Projection>,
}

/// Imports the ONNX file `path` as a bundle's tower.
///
/// Inputs are renamed to the names that bundles use. The projection, if any, and the division by the L2 norm are
/// appended; the division has no effect if the graph already normalises. The new file is stored in the folder that
/// `target` names.
///
/// # Errors
/// The file cannot be read, is not ONNX, or its graph is not as required.
pub fn tower(path: &Path, options: &Options, target: Target<'_>) -> Result<TowerFile, ImportError> {
    let plan = target.plan;
    if plan.weights == Weights::Int4 {
        return Err(ImportError::Int4 { path: path.to_owned() });
    }
    let mut file = File::read(path)?;
    let image_size = match options.input {
        TowerInput::Image(size) => Some(size),
        TowerInput::Text => None,
    };
    let inputs = file.inputs(image_size)?;
    let features = file.output(options.output.as_deref())?;
    let width = file.width(&inputs, &features)?;
    let projection_dim = match &options.projection {
        Some(projection) if projection.from != width => {
            let what = format!("output {features}");
            return Err(file.wrong(what, format!("{} values, as the projection takes", projection.from), width));
        }
        Some(projection) => projection.weight.len() / projection.from,
        None => width,
    };
    let batch = inputs.first().and_then(|input| input.shape.first()).cloned().unwrap_or(Dim::Fixed(1));
    let names = if options.input == TowerInput::Text { TEXT_OUTPUTS } else { IMAGE_OUTPUTS };
    let projection = options.projection.as_ref().map(|projection| (&projection.weight[..], projection.from));
    file.finish(&features, projection, names);
    let layers = quantized::quantize_weights(&mut file.graph, plan);
    let [output, features] = names.map(|name| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![batch.clone(), Dim::Fixed(projection_dim)],
    });
    for spec in inputs.iter() {
        file.graph.input.push(value_info(spec));
    }
    for spec in [&output, &features] {
        file.graph.output.push(value_info(spec));
    }
    let io = |source| ImportError::Io { path: target.scratch.to_owned(), source };
    let onnx = OnnxFile::spooled(file.encode(), target.scratch).map_err(io)?;
    Ok(TowerFile { architecture: Architecture::Onnx, inputs, output, features, layers, sites: Vec::new(), onnx })
}
