//! An ONNX file of another exporter: reading, checking and changing its graph.

use std::path::{Path, PathBuf};

use prost::Message as _;
use spotter_engine::bundle::{Dim, Dtype, TEXT_INPUTS, TensorSpec};
use spotter_engine::files;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::{Framework as _, InferenceFact, InferenceModelExt as _};

use super::error::ImportError;
use super::{external, graph};
use crate::onnx::value_info;
use crate::quantize::transpose;

/// Largest size of a protobuf message in bytes.
const FILE_BYTES_MAX: u64 = (1 << 31) - 1;

/// Smallest operator set: `DequantizeLinear` has an axis since this one.
const OPSET_MIN: i64 = 13;

/// `ReduceL2` takes its axes as an input since this operator set.
const OPSET_AXES_INPUT: i64 = 18;

/// An ONNX file with all of its data in memory.
pub(super) struct File {
    path: PathBuf,
    model: pb::ModelProto,
    pub(super) graph: pb::GraphProto,
    opset: i64,
}

impl File {
    /// Reads a file and its external data, and checks its operators.
    pub(super) fn read(path: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: path.to_owned(), source };
        let file = files::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let not_onnx = |message: String| ImportError::NotOnnx { path: path.to_owned(), message };
        if bytes > FILE_BYTES_MAX {
            return Err(not_onnx(format!("{bytes} bytes; a protobuf message has at most {FILE_BYTES_MAX}")));
        }
        let mut content = Vec::new();
        files::read_into(&file, FILE_BYTES_MAX, &mut content).map_err(io)?;
        let mut model = pb::ModelProto::decode(&*content).map_err(|e| not_onnx(e.to_string()))?;
        drop(content);
        let Some(graph) = model.graph.take().filter(|graph| !graph.node.is_empty()) else {
            return Err(not_onnx("it does not hold a graph".into()));
        };
        let default = model.opset_import.iter().find(|opset| matches!(opset.domain.as_str(), "" | "ai.onnx"));
        let opset = default.map_or(0, |opset| opset.version);
        let mut file = Self { path: path.to_owned(), model, graph, opset };
        file.check()?;
        external::load(&mut file.graph, path)?;
        graph::constants_to_initializers(&mut file.graph);
        // Early versions of the format list constants among the inputs.
        let constants: Vec<String> = file.graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
        file.graph.input.retain(|input| !constants.contains(&input.name));
        Ok(file)
    }

    /// The error for a part of the graph.
    pub(super) fn wrong(
        &self,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ImportError {
        ImportError::Graph {
            path: self.path.clone(),
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// Checks that all operators are ONNX's own and not quantised, and that there is no control flow.
    fn check(&self) -> Result<(), ImportError> {
        if self.opset < OPSET_MIN {
            let expected = format!("operator set {OPSET_MIN} or newer: export the model again");
            return Err(self.wrong("opset_import", expected, self.opset));
        }
        for node in &self.graph.node {
            let what = format!("node {}", node.output.first().map_or(node.name.as_str(), String::as_str));
            if !matches!(node.domain.as_str(), "" | "ai.onnx") {
                let expected = "ONNX's own operators: export the model without optimisations for a runtime";
                return Err(self.wrong(what, expected, format!("{}.{}", node.domain, node.op_type)));
            }
            let quantized = ["DynamicQuantizeLinear", "QuantizeLinear", "MatMulInteger", "ConvInteger"];
            if quantized.contains(&node.op_type.as_str()) || node.op_type.starts_with("QLinear") {
                let expected = "the float model; it is quantised here";
                return Err(self.wrong(what, expected, &node.op_type));
            }
            if node.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()) {
                return Err(self.wrong(what, "a graph without control flow", &node.op_type));
            }
        }
        Ok(())
    }

    /// Takes the inputs out of the graph, renames them as in a bundle, and returns them. `image_size` is the size of
    /// the image tower's input, `None` for a text tower.
    pub(super) fn inputs(&mut self, image_size: Option<[usize; 2]>) -> Result<Vec<TensorSpec>, ImportError> {
        let found = std::mem::take(&mut self.graph.input);
        let names = found.iter().map(|input| input.name.clone()).collect::<Vec<_>>().join(", ");
        if image_size.is_some() && found.len() > 1 {
            return Err(self.wrong("inputs", "one, of pixels", names));
        }
        let mut specs = Vec::new();
        for input in &found {
            let what = format!("input {}", input.name);
            let (name, dtype) = match (image_size, text_input(&input.name)) {
                (Some(_), _) => ("pixel_values", Dtype::F32),
                (None, Some(name)) => (name, Dtype::I64),
                (None, None) => return Err(self.wrong(what, TEXT_INPUTS.join(", "), "another name")),
            };
            let shape = self.input_shape(input, what, dtype, image_size)?;
            specs.push(TensorSpec { name: name.into(), dtype, shape });
            graph::rename_value(&mut self.graph, &input.name, name);
        }
        let ids = specs.iter().any(|spec| matches!(spec.name.as_str(), "pixel_values" | "input_ids"));
        let repeated = (1..specs.len()).any(|i| specs[..i].iter().any(|other| other.name == specs[i].name));
        if !ids || repeated {
            let expected = if image_size.is_none() { "input_ids, each name once" } else { "pixel_values" };
            return Err(self.wrong("inputs", expected, names));
        }
        Ok(specs)
    }

    /// Checks element type and shape of an input and returns its shape in a bundle.
    fn input_shape(
        &self,
        input: &pb::ValueInfoProto,
        what: String,
        dtype: Dtype,
        image_size: Option<[usize; 2]>,
    ) -> Result<Vec<Dim>, ImportError> {
        let (element, shape) = tensor_type(input);
        let expected = if dtype == Dtype::F32 { DataType::Float } else { DataType::Int64 };
        if element != expected as i32 {
            let found = DataType::try_from(element).map_or("another type", |found| found.as_str_name());
            return Err(self.wrong(what, expected.as_str_name(), found));
        }
        let wanted = match image_size {
            Some([height, width]) => vec![None, Some(3), Some(height), Some(width)],
            None => vec![None, None],
        };
        let fits = shape.len() == wanted.len()
            && shape.iter().zip(&wanted).all(|(found, wanted)| found.is_none() || wanted.is_none() || found == wanted);
        let text_is_fixed = image_size.is_none() && matches!(shape[..], [_, Some(_)]);
        if !fits || text_is_fixed || matches!(shape.first(), Some(Some(2..))) {
            let expected = match image_size {
                Some([height, width]) => format!("[batch, 3, {height}, {width}], the size after preprocessing"),
                None => "[batch, sequence], both dynamic axes".to_owned(),
            };
            let extent = |dim: &Option<usize>| dim.map_or_else(|| "?".to_owned(), |n| n.to_string());
            let found = shape.iter().map(extent).collect::<Vec<_>>().join(", ");
            return Err(self.wrong(what, expected, format!("[{found}]")));
        }
        let batch = if shape[0].is_some() { Dim::Fixed(1) } else { Dim::Named("batch".into()) };
        let rest = wanted[1..].iter().map(|dim| dim.map_or(Dim::Named("sequence".into()), Dim::Fixed));
        Ok(std::iter::once(batch).chain(rest).collect())
    }

    /// Takes the outputs out of the graph and returns the name of the `wanted` one, or of the only or usual one.
    pub(super) fn output(&mut self, wanted: Option<&str>) -> Result<String, ImportError> {
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
                    None => Err(self.wrong("outputs", "one, or the name of the one to use", outputs.join(", "))),
                }
            }
        }
    }

    /// Returns the width of `output`, which must have the shape [1, width] for one image or one sequence.
    pub(super) fn width(&mut self, inputs: &[TensorSpec], output: &str) -> Result<usize, ImportError> {
        // The graph is moved into the model and back, since copying it would copy the weights. Its own inputs and
        // outputs were taken out before.
        self.graph.input = inputs.iter().map(value_info).collect();
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
                    let expected = "[batch, width]: one row per input, such as the pooler output";
                    Err(self.wrong(what, expected, format!("{shape:?}")))
                }
            },
            Ok(Ok(None)) => Err(self.wrong(what, "[batch, width]", "a shape that depends on the input")),
            Ok(Err(error)) => Err(self.wrong(what, "a graph that tract can run", error)),
            Err(_) => Err(self.wrong(what, "a graph that tract can run", "one on which it panicked")),
        }
    }

    /// Appends the projection, if any, and the division by the L2 norm.
    pub(super) fn finish(&mut self, features: &str, projection: Option<(&[f32], usize)>, [embeds, named]: [&str; 2]) {
        for name in [embeds, named] {
            graph::rename_value(&mut self.graph, name, &format!("{name}_of_the_model"));
        }
        let features =
            if [embeds, named].contains(&features) { format!("{features}_of_the_model") } else { features.into() };
        match projection {
            Some((weight, from)) => {
                let to = weight.len() / from;
                let data = transpose(weight, from).iter().flat_map(|v| v.to_le_bytes()).collect();
                self.graph.initializer.push(graph::initializer(
                    "spotter.projection",
                    DataType::Float,
                    &[from, to],
                    data,
                ));
                self.node("MatMul", &[&features, "spotter.projection"], named);
            }
            None => self.node("Identity", &[&features], named),
        }
        let norm = "spotter.l2_norm";
        let axes = [-1_i64];
        if self.opset >= OPSET_AXES_INPUT {
            let data = axes.iter().flat_map(|axis| axis.to_le_bytes()).collect();
            self.graph.initializer.push(graph::initializer("spotter.last_axis", DataType::Int64, &[1], data));
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

    /// Encodes the file.
    pub(super) fn encode(self) -> Vec<u8> {
        // Recorded shapes of intermediate values may have become wrong.
        let graph = pb::GraphProto { value_info: Vec::new(), ..self.graph };
        pb::ModelProto { graph: Some(graph), ..self.model }.encode_to_vec()
    }
}

/// Shape of a graph's only output for one image or one sequence; `None` if it depends on the input. The outer error is
/// a panic in tract, which invalid graphs can cause.
fn shape_of_output(
    model: &pb::ModelProto,
    inputs: &[TensorSpec],
) -> std::thread::Result<Result<Option<Vec<usize>>, String>> {
    // The width does not depend on the length.
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

/// The name in bundles of a text input called `name`.
fn text_input(name: &str) -> Option<&'static str> {
    let aliases = [("ids", "input_ids"), ("tokens", "input_ids"), ("mask", "attention_mask")];
    let own = TEXT_INPUTS.into_iter().find(|wanted| *wanted == name);
    own.or_else(|| aliases.into_iter().find(|(alias, _)| *alias == name).map(|(_, wanted)| wanted))
}

/// Element type of an input, and its shape with `None` for dynamic axes.
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
