//! Times the passes of an ONNX file in rten: `rten-passes FILE --threads N`.
//!
//! Speaks the protocol of `spotter bench --stdin`: a line that says it is ready, then for each line that holds a count
//! one line `{"ms":[...]}` with the time of each pass, until the input ends.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use serde_json::json;

const TOKENS: usize = 32;

/// Fixed input: noise for pixels; 32 token ids, none of them padding.
fn inputs(model: &Model) -> Result<Vec<(NodeId, Value)>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    for &id in model.input_ids() {
        let node = model.node_info(id).ok_or("an input without a description")?;
        let name = node.name().unwrap_or_default().to_owned();
        let value: Value = if name == "pixel_values" {
            let shape = node.shape().ok_or("pixel_values has no shape")?;
            let shape: Vec<usize> = shape
                .iter()
                .map(|dim| match dim {
                    Dimension::Fixed(size) => *size,
                    Dimension::Symbolic(_) => 1,
                })
                .collect();
            let mut state = 1u32;
            let pixels = (0..shape.iter().product())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect::<Vec<f32>>();
            Value::from_shape(&shape, pixels)?
        } else {
            let fill = |index: usize| match name.as_str() {
                "input_ids" => 1000 + 37 * index as i32,
                "attention_mask" => 1,
                _ => 0,
            };
            Value::from_shape(&[1, TOKENS], (0..TOKENS).map(fill).collect::<Vec<i32>>())?
        };
        inputs.push((id, value));
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, option, threads] = &arguments[..] else {
        return Err("usage: rten-passes FILE --threads N".into());
    };
    if option != "--threads" {
        return Err(format!("unknown option {option}").into());
    }
    let start = Instant::now();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(file)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let inputs = inputs(&model)?;
    let outputs = model.output_ids()[..1].to_vec();
    let pool = std::sync::Arc::new(ThreadPool::with_num_threads(threads.parse()?));
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", json!({"ready": true, "load_ms": load_ms, "file_bytes": std::fs::metadata(file)?.len()}))?;
    stdout.flush()?;
    for line in std::io::stdin().lock().lines() {
        let count: usize = line?.trim().parse()?;
        let mut ms = Vec::with_capacity(count);
        for _ in 0..count {
            let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
            let views = inputs.iter().map(|(id, value)| (*id, ValueOrView::from(value))).collect();
            let start = Instant::now();
            model.run(views, &outputs, Some(options))?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        writeln!(stdout, "{}", json!({ "ms": ms }))?;
        stdout.flush()?;
    }
    Ok(())
}
