//! Loading and running the two towers.
//!
//! A tower whose graph the module `fused` supports runs there; any other runs in tract. The image tower has one fixed input
//! shape. The text tower takes as many tokens as a prompt has.

mod dequantize;
mod error;
mod image;
mod profile;
mod text;
mod threads;
mod tract;

use std::io::{Read as _, Seek as _};
use std::sync::Arc;

use prost::Message as _;
use tract_onnx::pb;

use crate::bundle::{self, Bundle, Dim, TowerKind};
use crate::embedding::normalize;
use crate::fused::{self, Inputs, OnnxFile, OnnxSource, Outcome, Program, Runner, cnn};

pub use error::TowerError;
pub use image::ImageTower;
pub use profile::{Layer, Profile, Work};
pub use text::TextTower;
pub use threads::Threads;

/// A loaded tower.
#[derive(Debug, Clone)]
enum Engine {
    Fused(Box<Runner>),
    Convolutional(Box<cnn::Runner>),
    Tract(Box<tract::TractTower>),
}

impl Engine {
    /// Returns a copy that has the weights of `other` in the layers that are `chosen`. All three share the weights.
    fn with_layers_from(
        &self,
        other: &Self,
        tower: TowerKind,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Result<(Self, profile::Layers), TowerError> {
        let error = |why: &str| TowerError::Exchange { tower, why: why.to_owned() };
        let (Self::Fused(ours), Self::Fused(theirs)) = (self, other) else {
            return Err(error("only a transformer that runs fused has layers to exchange"));
        };
        let mixed = ours.program().with_layers_from(theirs.program(), chosen);
        let (program, count) = mixed.ok_or_else(|| error("the two towers have different graphs"))?;
        if count == 0 {
            return Err(error("no layer with weights has the name"));
        }
        let runner = ours.with_program(program);
        let layers = profile::Layers::fused(&runner);
        Ok((Self::Fused(Box::new(runner)), layers))
    }
}

/// The output of an engine, and the one that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The embedding before the division by its L2 norm.
    Features,
    /// The normalised embedding.
    Embedding,
}

impl Output {
    fn of(spec: &bundle::Tower) -> Self {
        if spec.features.is_some() { Self::Features } else { Self::Embedding }
    }

    /// Converts an engine's output to the `wanted` one.
    fn finish(self, tower: TowerKind, wanted: Self, values: &mut [f32]) -> Result<(), TowerError> {
        match (self, wanted) {
            (Self::Embedding, Self::Features) => return Err(TowerError::NoFeatures { tower }),
            (Self::Features, Self::Embedding) if !normalize(values) => return Err(TowerError::NotFinite { tower }),
            _ => {}
        }
        if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(TowerError::NotFinite { tower }) }
    }
}

/// Runs `load` while another thread checks the SHA-256 of the file. A mismatch takes precedence over errors of `load`.
fn checked<T>(
    bundle: &Bundle,
    file: &bundle::FileEntry,
    load: impl FnOnce() -> Result<T, TowerError>,
) -> Result<T, TowerError> {
    std::thread::scope(|scope| {
        let hash = std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, || bundle.check_hash(file));
        let Ok(hash) = hash else {
            bundle.check_hash(file)?;
            return load();
        };
        let loaded = load();
        match hash.join() {
            Ok(result) => result?,
            Err(payload) => std::panic::resume_unwind(payload),
        }
        loaded
    })
}

/// Reads and prepares a graph. Inconsistent graphs are errors, never panics.
fn load(
    tower: TowerKind,
    source: Box<dyn OnnxSource + '_>,
    spec: &bundle::Tower,
    inputs: Inputs<'_>,
    projection_dim: usize,
    threads: &Threads,
) -> Result<(Engine, profile::Layers), TowerError> {
    guarded(|| prepare(tower, source, spec, inputs, projection_dim, threads)).unwrap_or_else(|| {
        let message = "its shapes or attributes are inconsistent; export the checkpoint again".to_owned();
        Err(TowerError::Load { tower, message })
    })
}

/// Calls code that trusts a graph and may panic on an inconsistent one, such as a node without inputs. `None` after a panic.
fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok()
}

/// Checks that an embedding has `projection_dim` values.
fn check_width(tower: TowerKind, found: usize, projection_dim: usize) -> Result<(), TowerError> {
    if found == projection_dim {
        return Ok(());
    }
    let (expected, found) = (format!("f32 [1, {projection_dim}]"), format!("f32 [1, {found}]"));
    Err(TowerError::Mismatch { tower, what: "output".into(), expected, found })
}

/// Checks that the longest prompt has no more tokens than the position table has rows.
fn check_positions(tower: TowerKind, inputs: Inputs<'_>, program: &Program) -> Result<(), TowerError> {
    let Inputs::Tokens { tokens_max, first_position, .. } = inputs else { return Ok(()) };
    let most = program.positions_max.saturating_add(1).saturating_sub(first_position);
    if tokens_max <= most {
        return Ok(());
    }
    let (expected, found) = (tokens_max.to_string(), format!("{most} in the position table"));
    Err(TowerError::Mismatch { tower, what: "tokens of the longest prompt".into(), expected, found })
}

fn prepare(
    tower: TowerKind,
    mut source: Box<dyn OnnxSource + '_>,
    spec: &bundle::Tower,
    inputs: Inputs<'_>,
    projection_dim: usize,
    threads: &Threads,
) -> Result<(Engine, profile::Layers), TowerError> {
    let error = |source: std::io::Error| TowerError::Load { tower, message: source.to_string() };
    let mut file = OnnxFile::read(Box::new(&mut source)).map_err(error)?;
    check_graph(tower, &file.graph, spec)?;
    check_axes(tower, &file.graph)?;
    let output = &spec.features.as_ref().unwrap_or(&spec.output).name;
    let outcome = if threads.fused {
        fused::lower(&mut file, inputs, output).map_err(error)?
    } else {
        Outcome::Unsupported(fused::UnsupportedGraph::on_request())
    };
    match outcome {
        Outcome::Program(mut program) => {
            check_width(tower, program.output.width, projection_dim)?;
            check_positions(tower, inputs, &program)?;
            fused::load(&mut program, &mut file, threads.kernels).map_err(error)?;
            let runner = Runner::new(Arc::new(program), threads.kernels, Arc::clone(&threads.pool));
            let layers = profile::Layers::fused(&runner);
            Ok((Engine::Fused(Box::new(runner)), layers))
        }
        Outcome::Unsupported(why) => {
            let why = match inputs {
                Inputs::Pixels(size) if threads.fused => {
                    match cnn::lower(&mut file, size, output).map_err(error)? {
                        Ok(program) => return convolutional(tower, program, file, projection_dim, threads),
                        // A transformer has one convolution, of patches.
                        Err(other) if file.graph.node.iter().filter(|node| node.op_type == "Conv").count() > 1 => other,
                        Err(_) => why,
                    }
                }
                _ => why,
            };
            let layers = profile::Layers::tract(&file.graph, &why);
            drop(file);
            let mut bytes = Vec::new();
            source.rewind().and_then(|()| source.read_to_end(&mut bytes)).map_err(error)?;
            let mut model = pb::ModelProto::decode(&*bytes).map_err(|e| error(std::io::Error::other(e)))?;
            drop(bytes);
            if let Some(graph) = &mut model.graph {
                dequantize::expand(graph).map_err(|message| TowerError::Load { tower, message })?;
            }
            let load = || tract::TractTower::load(tower, &model, spec, inputs, projection_dim, threads);
            let towers = guarded(load).unwrap_or_else(|| {
                let message = format!(
                    "tract cannot prepare it, and it was not fused because of {}",
                    layers.unfused().unwrap_or_default()
                );
                Err(TowerError::Load { tower, message })
            })?;
            Ok((Engine::Tract(Box::new(towers)), layers))
        }
    }
}

/// The most values of the maps that a CNN tower has in memory at a time: 256 MiB of floats. ResNet-50 needs 16
/// for 224 x 224 pixels.
const MAPS_VALUES_MAX: usize = 1 << 26;

/// Prepares a CNN tower.
fn convolutional(
    tower: TowerKind,
    mut program: cnn::Program,
    mut file: OnnxFile<'_>,
    projection_dim: usize,
    threads: &Threads,
) -> Result<(Engine, profile::Layers), TowerError> {
    check_width(tower, program.maps[program.output].channels, projection_dim)?;
    let error = |message: String| TowerError::Load { tower, message };
    let plan = cnn::Plan::new(&program, threads.count());
    if plan.values() > MAPS_VALUES_MAX {
        let [needed, most] = [plan.values(), MAPS_VALUES_MAX].map(|values| values >> 18);
        return Err(error(format!("its maps need {needed} MiB, of at most {most}; export it for smaller images")));
    }
    cnn::load(&mut program, &mut file, threads.kernels).map_err(|source| error(source.to_string()))?;
    let runner = cnn::Runner::new(Arc::new(program), plan, threads.kernels, Arc::clone(&threads.pool));
    let layers = profile::Layers::convolutional(&runner);
    Ok((Engine::Convolutional(Box::new(runner)), layers))
}

/// Checks that the graph has the inputs and outputs of the manifest.
fn check_graph(tower: TowerKind, graph: &pb::GraphProto, spec: &bundle::Tower) -> Result<(), TowerError> {
    let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let found: Vec<_> = graph.input.iter().filter(|input| !is_constant(&input.name)).collect();
    let join = |names: Vec<&str>| names.join(", ");
    let wanted = join(spec.inputs.iter().map(|input| &*input.name).collect());
    let names = join(found.iter().map(|input| &*input.name).collect());
    if wanted != names {
        return Err(TowerError::Mismatch { tower, what: "inputs".into(), expected: wanted, found: names });
    }
    for (spec, input) in spec.inputs.iter().zip(found) {
        check_input(tower, spec, input)?;
    }
    let found = join(graph.output.iter().map(|output| &*output.name).collect());
    let expected = join([Some(&spec.output), spec.features.as_ref()].into_iter().flatten().map(|o| &*o.name).collect());
    if expected != found {
        return Err(TowerError::Mismatch { tower, what: "outputs".into(), expected, found });
    }
    Ok(())
}

/// Checks that attributes name axes that a tensor can have: preparing a graph takes time and memory in proportion.
fn check_axes(tower: TowerKind, graph: &pb::GraphProto) -> Result<(), TowerError> {
    const AXES: std::ops::RangeInclusive<i64> = -16..=16;
    for node in &graph.node {
        for attribute in node.attribute.iter().filter(|own| matches!(own.name.as_str(), "axis" | "axes" | "perm")) {
            if let Some(axis) = attribute.ints.iter().chain([&attribute.i]).find(|axis| !AXES.contains(*axis)) {
                let message =
                    format!("{} {:?}: {} {axis} is no axis of a tensor", node.op_type, node.name, attribute.name);
                return Err(TowerError::Load { tower, message });
            }
        }
    }
    Ok(())
}

/// Checks that fixed axes of the manifest have the same size in the graph, as far as the graph declares it.
fn check_input(tower: TowerKind, spec: &bundle::TensorSpec, input: &pb::ValueInfoProto) -> Result<(), TowerError> {
    use pb::tensor_shape_proto::dimension::Value as DimValue;
    let Some(pb::type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(());
    };
    let Some(shape) = &tensor.shape else { return Ok(()) };
    for (axis, (dim, in_graph)) in spec.shape.iter().zip(&shape.dim).enumerate() {
        if let (Dim::Fixed(expected), Some(DimValue::DimValue(found))) = (dim, &in_graph.value)
            && i64::try_from(*expected) != Ok(*found)
        {
            return Err(TowerError::Mismatch {
                tower,
                what: format!("{}, axis {axis}", spec.name),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }
    Ok(())
}
