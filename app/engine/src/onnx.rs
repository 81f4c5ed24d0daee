//! Conventions of a tower's ONNX file that its writer and the engine share.
//!
//! A layer with weights has one name, the one its tensors have in the checkpoint. The node that gives the layer's result
//! has that name, as has the node's output. A linear layer with a bias consists of two nodes: a `MatMul` called
//! [`product_node`] and an `Add` with the layer's name. The engine makes one step of both, which is named after the
//! first; [`layer_of_node`] leads back to the layer.
//!
//! The engine computes linear layers that read the same value as one where all of them are stored as integers, or all as
//! floats: query, key and value of an attention block. [`crate::tower::Layer::layers`] lists what a loaded tower
//! computes as one. Attention itself runs in int8 where all linear layers that compute its queries, keys and values are
//! stored as integers.

/// `TensorProto.DataType.INT4` of ONNX, which is newer than the message definitions of `tract-onnx`.
pub const INT4: i32 = 22;

/// The suffix that [`product_node`] appends.
const PRODUCT: &str = ".product";

/// The name of the `MatMul` node of the linear layer `layer`, which has a bias.
pub fn product_node(layer: &str) -> String {
    format!("{layer}{PRODUCT}")
}

/// The layer that the node called `node` belongs to: the inverse of [`product_node`]. A node with another name is a
/// layer by itself.
pub fn layer_of_node(node: &str) -> &str {
    node.strip_suffix(PRODUCT).unwrap_or(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_belong_to_layers() {
        for (node, layer) in [("a.query.product", "a.query"), ("a.query", "a.query"), ("product", "product"), ("", "")]
        {
            assert_eq!(layer_of_node(node), layer);
            assert_eq!(layer_of_node(&product_node(layer)), layer);
        }
    }
}
