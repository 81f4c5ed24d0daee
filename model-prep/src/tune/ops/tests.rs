//! Gradients of every step against differences of values.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::activation::{activated, gradient};
use super::*;
use crate::checkpoint::Activation;
use crate::tune::random::Random;

type Run<'a> = &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

fn random(shape: &[usize], seed: u64) -> Vec<f32> {
    let mut random = Random::new(&[seed]);
    (0..shape.iter().product()).map(|_| random.between(-1.0, 1.0) as f32).collect()
}

/// The sum of the result, weighted with fixed random numbers.
fn value(run: Run<'_>, inputs: &[Tensor]) -> f64 {
    let out = to_vec(&run(inputs).expect("runs")).expect("values");
    let weights = random(&[out.len()], 99);
    out.iter().zip(weights).map(|(out, weight)| f64::from(*out) * f64::from(weight)).sum()
}

/// Compares the gradients of all inputs with central differences.
fn check(name: &str, shapes: &[&[usize]], run: Run<'_>) {
    let values: Vec<Vec<f32>> = shapes.iter().zip(0..).map(|(shape, seed)| random(shape, seed)).collect();
    let tensors = |values: &[Vec<f32>]| -> Vec<Tensor> {
        shapes.iter().zip(values).map(|(shape, values)| tensor(values.clone(), shape).expect("a tensor")).collect()
    };
    let vars: Vec<Var> = tensors(&values).iter().map(|tensor| Var::from_tensor(tensor).expect("a variable")).collect();
    let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let out = run(&inputs).expect("runs");
    let weights = tensor(random(&[out.elem_count()], 99), out.dims()).expect("a tensor");
    let grads = (out * weights).and_then(|sum| sum.sum_all()).and_then(|sum| sum.backward()).expect("gradients");
    for (input, var) in vars.iter().enumerate() {
        let found =
            to_vec(grads.get(var).unwrap_or_else(|| panic!("{name}: no gradient of input {input}"))).expect("values");
        for index in 0..found.len() {
            const STEP: f32 = 1e-2;
            let shifted = |by: f32| {
                let mut values = values.clone();
                values[input][index] += by;
                value(run, &tensors(&values))
            };
            // The fourth-order formula, so that the step may be large against rounding.
            let by = f64::from(STEP);
            let expected =
                (8.0 * (shifted(STEP) - shifted(-STEP)) - (shifted(2.0 * STEP) - shifted(-2.0 * STEP))) / (12.0 * by);
            let error = (f64::from(found[index]) - expected).abs();
            assert!(
                error < 1e-3 * (1.0 + expected.abs()),
                "{name}, input {input}, {index}: {} for {expected}",
                found[index]
            );
        }
    }
}

/// Activations whose slope has no step.
const SMOOTH: [Activation; 10] = [
    Activation::Gelu,
    Activation::Gelu10,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
    Activation::Mish,
    Activation::Laplace,
    Activation::Linear,
    Activation::Sigmoid,
    Activation::Tanh,
];

#[test]
fn gradients_are_slopes() {
    check("linear", &[&[2, 3, 5], &[4, 5], &[4]], &|x| linear(&x[0], &x[1], Some(&x[2])));
    check("linear without bias", &[&[3, 5], &[4, 5]], &|x| linear(&x[0], &x[1], None));
    check("layer norm", &[&[2, 2, 11], &[11], &[11]], &|x| layer_norm(&x[0], &x[1], &x[2], 1e-5));
    check("sum norm", &[&[2, 2, 11], &[2, 2, 11], &[11], &[11]], &|x| {
        sum_norm(&x[0], None, &x[1], [&x[2], &x[3]], 1e-5)
    });
    let dropped = Dropout { share: 0.3, site: 7, first: 2, whole_samples: false };
    check("sum norm with dropout", &[&[2, 2, 11], &[2, 2, 11], &[11], &[11]], &|x| {
        sum_norm(&x[0], Some(dropped), &x[1], [&x[2], &x[3]], 1e-5)
    });
    for function in SMOOTH {
        check("activation and linear", &[&[2, 3, 5], &[4, 5], &[4]], &|x| {
            activated_linear(&x[0], function, &x[1], &x[2])
        });
    }
    check("layer scale", &[&[2, 3, 5], &[5]], &|x| scale(&x[0], &x[1]));
    check("tokens", &[&[2, 3, 5], &[4, 5]], &|x| with_tokens(&x[0], &x[1]));
    for function in SMOOTH {
        check(&format!("{function:?}"), &[&[40]], &|x| activation(&x[0], function));
    }
    check("dropout", &[&[3, 4, 5]], &|x| dropout(&x[0], dropped));
    check("drop path", &[&[9, 2]], &|x| dropout(&x[0], Dropout { whole_samples: true, ..dropped }));
    let plain = Attention { heads: 2, causal: false, mask: None, dropped: None };
    let mask = vec![true, true, false, true, false, true, true, true, true, true, true, false];
    for (name, with) in [
        ("attention", plain.clone()),
        ("causal attention", Attention { causal: true, ..plain.clone() }),
        ("masked attention", Attention { mask: Some(Arc::new(mask)), ..plain.clone() }),
        ("attention with dropout", Attention { dropped: Some(dropped), ..plain.clone() }),
    ] {
        check(name, &[&[3, 4, 18]], &|x| attention(&x[0], None, with.clone()));
        check(name, &[&[3, 4, 18], &[2, 4, 4]], &|x| attention(&x[0], Some(&x[1]), with.clone()));
    }
}

#[test]
fn slopes_have_the_reference_steps() {
    let check = |function: Activation, expected: [[f32; 4]; 2]| {
        let x = Var::from_tensor(&tensor(vec![-1.0, 0.0, 2.0, 20.0], &[4]).expect("a tensor")).expect("a variable");
        let y = activation(&x, function).expect("runs");
        assert_eq!(to_vec(&y).expect("values"), expected[0], "{function:?}");
        let grads = y.sum_all().and_then(|sum| sum.backward()).expect("gradients");
        let found = to_vec(grads.get(&x).expect("a gradient")).expect("values");
        assert_eq!(found, expected[1], "{function:?}");
    };
    check(Activation::Relu, [[0.0, 0.0, 2.0, 20.0], [0.0, 0.0, 1.0, 1.0]]);
    check(Activation::Relu6, [[0.0, 0.0, 2.0, 6.0], [0.0, 0.0, 1.0, 0.0]]);
    check(Activation::ReluSquared, [[0.0, 0.0, 4.0, 400.0], [0.0, 0.0, 4.0, 40.0]]);
    check(Activation::LeakyRelu, [[-0.01, 0.0, 2.0, 20.0], [0.01, 0.01, 1.0, 1.0]]);
}

#[test]
fn clipped_gelu_passes_no_gradient_beyond_its_bounds() {
    let x = [-20.0, 0.0, 9.5, 10.5];
    let values = activated(&x, Activation::Gelu10);
    let slopes = gradient(&x, &[1.0; 4], Activation::Gelu10);
    for (found, expected) in [(values, [0.0, 0.0, 9.5, 10.0]), (slopes, [0.0, 0.5, 1.0, 0.0])] {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} for {expected:?}");
    }
}

/// A share of the values becomes 0, the mean stays, and a batch computed in parts is the same.
#[test]
fn dropout_depends_on_the_sample_only() {
    let x = tensor(vec![1.0; 40 * 500], &[40, 500]).expect("a tensor");
    let whole = Dropout { share: 0.2, site: 3, first: 0, whole_samples: false };
    let out = to_vec(&dropout(&x, whole).expect("runs")).expect("values");
    let zeros = out.iter().filter(|value| **value == 0.0).count() as f64 / out.len() as f64;
    let mean = out.iter().sum::<f32>() / out.len() as f32;
    assert!((zeros - 0.2).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{zeros} zeros, mean {mean}");
    let part = x.narrow(0, 25, 15).expect("rows");
    let part = to_vec(&dropout(&part, Dropout { first: 25, ..whole }).expect("runs")).expect("values");
    assert_eq!(part, out[25 * 500..]);
    let other = to_vec(&dropout(&x, Dropout { site: 4, ..whole }).expect("runs")).expect("values");
    assert_ne!(other, out);
}
