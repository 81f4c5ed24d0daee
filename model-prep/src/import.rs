//! Towers that others exported to ONNX: checked, ended as bundles end them, and quantised.
//!
//! Any architecture: what is not understood by the engine's own kernels is run by tract. The graph must be the float one,
//! take one picture or one sequence of tokens, and give one row for each: what the pooler gives, or the projected
//! embedding.

mod external;
mod model;
mod quantized;
mod rename;

pub use model::{OnnxFiles, OnnxModel, TowerSource};

use std::path::{Path, PathBuf};

use prost::Message as _;
use spotter_engine::bundle::{Architecture, Dim, Dtype, TEXT_INPUTS, TensorSpec, Weights};
use spotter_engine::files;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::{Framework as _, InferenceFact, InferenceModelExt as _};

use crate::checkpoint::CheckpointError;
use crate::onnx::OnnxFile;
use crate::plan::Target;
use crate::quantize::transpose;
use crate::towers::{IMAGE_OUTPUTS, TEXT_OUTPUTS, TowerFile};

/// A protobuf message cannot be larger.
const FILE_BYTES_MAX: u64 = (1 << 31) - 1;

/// `DequantizeLinear` has an axis since this operator set.
const OPSET_MIN: i64 = 13;

/// `ReduceL2` takes its axes as an input since this operator set.
const OPSET_AXES_INPUT: i64 = 18;

/// Why ONNX towers were refused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file beside the towers was refused: the image processor's, the tokenizer's or the model card.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file could not be read.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not ONNX.
    #[error("{}: not an ONNX file: {message}", .path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// 4-bit integers are newer than the operator sets that exporters write.
    #[error(
        "{}: int4 needs operator set {}, and a graph of another exporter stays in its own: expected --weights int8 or \
         f32, found int4", .path.display(), crate::onnx::OPSET_INT4
    )]
    Int4 {
        /// The file.
        path: PathBuf,
    },
    /// Something in the graph is not as it must be.
    #[error("{}: {what}: expected {expected}, found {found}", .path.display())]
    Graph {
        /// The file.
        path: PathBuf,
        /// An input, an output, a node or a constant.
        what: String,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// What a tower is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Pictures of this height and width.
    Image([usize; 2]),
    /// Token ids.
    Text,
}

/// A projection that the graph does not have yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// [to, from], as checkpoints store it.
    pub weight: Vec<f32>,
    /// Width of what the graph gives.
    pub from: usize,
}

/// How a graph is taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the tower is about.
    pub modality: Modality,
    /// The output to take; the only one if left out.
    pub output: Option<String>,
    /// What is multiplied to the output, if the graph does not do so.
    pub projection: Option<Projection>,
}

/// Reads the ONNX file `path` and makes a bundle's tower of it.
///
/// Inputs are renamed to what bundles call them. The output is followed by the projection, if any, and by the division
/// by its L2 norm, which changes nothing where the graph has done so.
///
/// Where the file is kept while it is not in memory is up to `target`.
pub fn tower(path: &Path, options: &Options, target: Target<'_>) -> Result<TowerFile, ImportError> {
    let plan = target.plan;
    if plan.weights == Weights::Int4 {
        return Err(ImportError::Int4 { path: path.to_owned() });
    }
    let mut file = File::read(path)?;
    let inputs = file.inputs(options.modality)?;
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
    let names = if options.modality == Modality::Text { TEXT_OUTPUTS } else { IMAGE_OUTPUTS };
    file.finish(&features, options.projection.as_ref(), names);
    let layers = quantized::quantize_weights(&mut file.graph, plan);
    let [output, features] = names.map(|name| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![batch.clone(), Dim::Fixed(projection_dim)],
    });
    for spec in inputs.iter() {
        file.graph.input.push(crate::onnx::value_info(spec));
    }
    for spec in [&output, &features] {
        file.graph.output.push(crate::onnx::value_info(spec));
    }
    let io = |source| ImportError::Io { path: target.scratch.to_owned(), source };
    let onnx = OnnxFile::spooled(file.encode(), target.scratch).map_err(io)?;
    Ok(TowerFile { architecture: Architecture::Onnx, inputs, output, features, layers, onnx })
}

/// An ONNX file, all of its data in memory.
struct File {
    path: PathBuf,
    model: pb::ModelProto,
    graph: pb::GraphProto,
    opset: i64,
}

impl File {
    fn read(path: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: path.to_owned(), source };
        let file = files::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let not_onnx = |message: String| ImportError::NotOnnx { path: path.to_owned(), message };
        if bytes > FILE_BYTES_MAX {
            return Err(not_onnx(format!("{bytes} bytes are more than a protobuf message can have")));
        }
        let mut content = Vec::new();
        files::read_into(&file, FILE_BYTES_MAX, &mut content).map_err(io)?;
        let mut model = pb::ModelProto::decode(&*content).map_err(|e| not_onnx(e.to_string()))?;
        drop(content);
        let Some(graph) = model.graph.take().filter(|graph| !graph.node.is_empty()) else {
            return Err(not_onnx("it holds no graph".into()));
        };
        let default = model.opset_import.iter().find(|opset| matches!(opset.domain.as_str(), "" | "ai.onnx"));
        let opset = default.map_or(0, |opset| opset.version);
        let mut file = Self { path: path.to_owned(), model, graph, opset };
        file.check()?;
        external::load(&mut file.graph, path)?;
        rename::constants_to_initializers(&mut file.graph);
        // Files of the first versions list constants among the inputs.
        let constants: Vec<String> = file.graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
        file.graph.input.retain(|input| !constants.contains(&input.name));
        Ok(file)
    }

    fn wrong(&self, what: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> ImportError {
        ImportError::Graph {
            path: self.path.clone(),
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// The operators must be ONNX's own, on floats.
    fn check(&self) -> Result<(), ImportError> {
        if self.opset < OPSET_MIN {
            let expected = format!("operator set {OPSET_MIN} or newer: export the model again");
            return Err(self.wrong("opset_import", expected, self.opset));
        }
        for node in &self.graph.node {
            let what = format!("node {}", node.output.first().map_or(node.name.as_str(), String::as_str));
            if !matches!(node.domain.as_str(), "" | "ai.onnx") {
                let expected = "ONNX's own operators: export the model without optimisation for a runtime";
                return Err(self.wrong(what, expected, format!("{}.{}", node.domain, node.op_type)));
            }
            let quantized = ["DynamicQuantizeLinear", "QuantizeLinear", "MatMulInteger", "ConvInteger"];
            if quantized.contains(&node.op_type.as_str()) || node.op_type.starts_with("QLinear") {
                let expected = "the float model, which is quantised here";
                return Err(self.wrong(what, expected, &node.op_type));
            }
            if node.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()) {
                return Err(self.wrong(what, "a graph without branches and loops", &node.op_type));
            }
        }
        Ok(())
    }

    /// Takes the inputs out of the graph and gives them the names and shapes of a bundle.
    fn inputs(&mut self, modality: Modality) -> Result<Vec<TensorSpec>, ImportError> {
        let found = std::mem::take(&mut self.graph.input);
        let names = found.iter().map(|input| input.name.clone()).collect::<Vec<_>>().join(", ");
        let mut specs = Vec::new();
        for input in &found {
            let (element, shape) = tensor_type(input);
            let what = format!("input {}", input.name);
            let name = match modality {
                Modality::Image(_) if found.len() > 1 => {
                    return Err(self.wrong("inputs", "one, of pixels", &names));
                }
                Modality::Image(_) => "pixel_values",
                Modality::Text => match text_input(&input.name) {
                    Some(name) => name,
                    None => return Err(self.wrong(what, TEXT_INPUTS.join(", "), "another name")),
                },
            };
            let (dtype, wanted) = match modality {
                Modality::Image([height, width]) => (Dtype::F32, vec![None, Some(3), Some(height), Some(width)]),
                Modality::Text => (Dtype::I64, vec![None, None]),
            };
            let expected = if dtype == Dtype::F32 { DataType::Float } else { DataType::Int64 };
            if element != expected as i32 {
                let found = DataType::try_from(element).map_or("another type", |found| found.as_str_name());
                return Err(self.wrong(what, expected.as_str_name(), found));
            }
            let fits = shape.len() == wanted.len()
                && shape
                    .iter()
                    .zip(&wanted)
                    .all(|(found, wanted)| found.is_none() || wanted.is_none() || found == wanted);
            let text_is_fixed = modality == Modality::Text && matches!(shape[..], [_, Some(_)]);
            if !fits || text_is_fixed || matches!(shape.first(), Some(Some(2..))) {
                let expected = match modality {
                    Modality::Image([height, width]) => format!("[batch, 3, {height}, {width}], the recipe's size"),
                    Modality::Text => "[batch, sequence], both open (dynamic axes)".to_owned(),
                };
                let extent = |dim: &Option<usize>| dim.map_or_else(|| "?".to_owned(), |n| n.to_string());
                let found = shape.iter().map(extent).collect::<Vec<_>>().join(", ");
                return Err(self.wrong(what, expected, format!("[{found}]")));
            }
            let batch = if shape[0].is_some() { Dim::Fixed(1) } else { Dim::Named("batch".into()) };
            let rest = wanted[1..].iter().map(|dim| dim.map_or(Dim::Named("sequence".into()), Dim::Fixed));
            specs.push(TensorSpec { name: name.into(), dtype, shape: std::iter::once(batch).chain(rest).collect() });
            rename::value(&mut self.graph, &input.name, name);
        }
        let ids = specs.iter().any(|spec| matches!(spec.name.as_str(), "pixel_values" | "input_ids"));
        let repeated = (1..specs.len()).any(|i| specs[..i].iter().any(|other| other.name == specs[i].name));
        if !ids || repeated {
            let expected = if modality == Modality::Text { "input_ids, each name once" } else { "pixel_values" };
            return Err(self.wrong("inputs", expected, names));
        }
        Ok(specs)
    }

    /// Takes the outputs out of the graph; the name of the wanted one.
    fn output(&mut self, wanted: Option<&str>) -> Result<String, ImportError> {
        let outputs: Vec<String> =
            std::mem::take(&mut self.graph.output).into_iter().map(|output| output.name).collect();
        match (wanted, &outputs[..]) {
            (Some(wanted), _) => {
                let made = |name: &str| self.graph.node.iter().any(|node| node.output.iter().any(|out| out == name));
                if made(wanted) { Ok(wanted.to_owned()) } else { Err(self.wrong("output", wanted, outputs.join(", "))) }
            }
            (None, [only]) => Ok(only.clone()),
            (None, _) => {
                let usual = ["image_embeds", "text_embeds", "pooler_output"];
                match usual.iter().find(|name| outputs.iter().any(|output| output == *name)) {
                    Some(name) => Ok((*name).to_owned()),
                    None => Err(self.wrong("outputs", "one, or the name of the wanted one", outputs.join(", "))),
                }
            }
        }
    }

    /// Width of `output`, which must be [1, width] for one picture or one sequence.
    fn width(&mut self, inputs: &[TensorSpec], output: &str) -> Result<usize, ImportError> {
        // Lent, not copied: the weights are in it. The graph's own inputs and outputs were taken out before.
        self.graph.input = inputs.iter().map(crate::onnx::value_info).collect();
        self.graph.output = vec![pb::ValueInfoProto { name: output.to_owned(), ..Default::default() }];
        self.model.graph = Some(std::mem::take(&mut self.graph));
        let found = shape_of_output(&self.model, inputs);
        self.graph = self.model.graph.take().unwrap_or_default();
        self.graph.input.clear();
        self.graph.output.clear();
        let what = format!("output {output}");
        match found {
            Ok(Ok(Some(shape))) => match shape[..] {
                [1, width] => Ok(width),
                _ => {
                    let expected = "[batch, width]: one row for each input, such as what the pooler gives";
                    Err(self.wrong(what, expected, format!("{shape:?}")))
                }
            },
            Ok(Ok(None)) => Err(self.wrong(what, "[batch, width]", "a shape that depends on the input")),
            Ok(Err(error)) => Err(self.wrong(what, "a graph that tract can run", error)),
            Err(_) => Err(self.wrong(what, "a graph that tract can run", "one that it gave up on")),
        }
    }

    /// Appends the projection and the division by the L2 norm.
    fn finish(&mut self, features: &str, projection: Option<&Projection>, [embeds, named]: [&str; 2]) {
        for name in [embeds, named] {
            rename::value(&mut self.graph, name, &format!("{name}_of_the_model"));
        }
        let features =
            if [embeds, named].contains(&features) { format!("{features}_of_the_model") } else { features.into() };
        match projection {
            Some(Projection { weight, from }) => {
                let to = weight.len() / from;
                let data = transpose(weight, *from).iter().flat_map(|v| v.to_le_bytes()).collect();
                self.graph.initializer.push(raw("spotter.projection", DataType::Float, &[*from, to], data));
                self.node("MatMul", &[&features, "spotter.projection"], named);
            }
            None => self.node("Identity", &[&features], named),
        }
        let norm = "spotter.l2_norm";
        let axes = [-1_i64];
        if self.opset >= OPSET_AXES_INPUT {
            let data = axes.iter().flat_map(|axis| axis.to_le_bytes()).collect();
            self.graph.initializer.push(raw("spotter.last_axis", DataType::Int64, &[1], data));
            self.node("ReduceL2", &[named, "spotter.last_axis"], norm);
        } else {
            self.node("ReduceL2", &[named], norm);
            let attribute = pb::AttributeProto {
                name: "axes".into(),
                ints: axes.to_vec(),
                r#type: AttributeType::Ints.into(),
                ..Default::default()
            };
            self.graph.node.iter_mut().rev().take(1).for_each(|node| node.attribute.push(attribute.clone()));
        }
        self.node("Div", &[named, norm], embeds);
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str) {
        self.graph.node.push(pb::NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            ..Default::default()
        });
    }

    fn encode(self) -> Vec<u8> {
        // Shapes between the nodes may say what is not true any more.
        let graph = pb::GraphProto { value_info: Vec::new(), ..self.graph };
        pb::ModelProto { graph: Some(graph), ..self.model }.encode_to_vec()
    }
}

/// Shape of a graph's only output for one picture or one sequence, where it does not depend on the input; the outer error
/// is a panic of tract's, which graphs that make no sense bring about.
fn shape_of_output(
    model: &pb::ModelProto,
    inputs: &[TensorSpec],
) -> std::thread::Result<Result<Option<Vec<usize>>, String>> {
    // Any length shows the width.
    const TOKENS: usize = 8;
    let infer = || {
        let mut model = tract_onnx::onnx()
            .with_ignore_value_info(true)
            .with_ignore_output_shapes(true)
            .model_for_proto_model(model)?;
        for (index, input) in inputs.iter().enumerate() {
            let extent = |dim: &Dim| if let Dim::Fixed(extent) = dim { *extent } else { TOKENS };
            let shape: Vec<usize> = std::iter::once(1).chain(input.shape[1..].iter().map(extent)).collect();
            let kind = match input.dtype {
                Dtype::F32 => tract_onnx::prelude::DatumType::F32,
                Dtype::I64 => tract_onnx::prelude::DatumType::I64,
            };
            model.set_input_fact(index, InferenceFact::dt_shape(kind, shape))?;
        }
        let model = model.into_typed()?;
        Ok::<_, tract_onnx::prelude::TractError>(model.output_fact(0)?.shape.as_concrete().map(<[usize]>::to_vec))
    };
    let infer = || infer().map_err(|error| format!("{error:#}"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(infer))
}

/// A constant of little-endian bytes.
fn raw(name: &str, kind: DataType, shape: &[usize], raw_data: Vec<u8>) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        data_type: kind.into(),
        dims: shape.iter().map(|n| *n as i64).collect(),
        raw_data,
        ..Default::default()
    }
}

/// The name that bundles give to an input called `name`.
fn text_input(name: &str) -> Option<&'static str> {
    let aliases = [("ids", "input_ids"), ("tokens", "input_ids"), ("mask", "attention_mask")];
    let own = TEXT_INPUTS.into_iter().find(|wanted| *wanted == name);
    own.or_else(|| aliases.into_iter().find(|(alias, _)| *alias == name).map(|(_, wanted)| wanted))
}

/// Element type and fixed extents of an input.
fn tensor_type(input: &pb::ValueInfoProto) -> (i32, Vec<Option<usize>>) {
    use pb::tensor_shape_proto::dimension::Value::DimValue;
    match input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(pb::type_proto::Value::TensorType(tensor)) => {
            let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value {
                Some(DimValue(extent)) => usize::try_from(extent).ok().filter(|extent| *extent > 0),
                _ => None,
            });
            (tensor.elem_type, dims.collect())
        }
        None => (0, Vec::new()),
    }
}
