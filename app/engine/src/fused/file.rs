//! An ONNX file whose weights are read on demand.
//!
//! One pass decodes everything but the data of large constants, of which only the position is kept. So a tower is never in
//! memory twice, as file and as packed weights.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use crate::onnx::INT4;

/// Data up to this size is decoded with the graph: scales, biases and shapes.
const SMALL_BYTES: u64 = 1 << 14;

/// Size limit of the graph without large constants. A graph of thousands of nodes has one megabyte.
const SKELETON_BYTES_MAX: u64 = 64 << 20;

/// Limit of the number of nodes, and of constants. A tower of 40 layers has up to 4000, and preparing a graph takes time
/// that grows with the square.
const NODES_MAX: usize = 1 << 14;

/// Bytes that are converted to floats at a time.
const PIECE_BYTES: usize = 1 << 18;

/// The bytes of an ONNX file.
pub(crate) trait OnnxSource: Read + Seek {}
impl<T: Read + Seek> OnnxSource for T {}

/// A graph and the positions of its large constants.
pub(crate) struct OnnxFile<'a> {
    source: BufReader<Box<dyn OnnxSource + 'a>>,
    /// The graph; large constants have no data in it.
    pub(crate) graph: pb::GraphProto,
    places: HashMap<String, (u64, u64)>,
}

/// Wire types of protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

/// A field number with the wire type of the field.
type Key = (u64, Wire);

impl<'a> OnnxFile<'a> {
    /// Reads the graph. Data that is stored outside of the file, or not in `raw_data`, is left to the caller.
    pub(crate) fn read(source: Box<dyn OnnxSource + 'a>) -> io::Result<Self> {
        let mut file = Self {
            source: BufReader::with_capacity(1 << 16, source),
            graph: pb::GraphProto::default(),
            places: HashMap::new(),
        };
        let end = file.source.seek(SeekFrom::End(0))?;
        file.source.seek(SeekFrom::Start(0))?;
        let mut at = 0;
        while at < end {
            let (key, header) = file.key()?;
            at += header.len() as u64;
            let len = file.body_len(key.1, &mut at)?;
            check(len <= end - at)?;
            // Field 7 of ModelProto is the graph.
            if key == (7, Wire::Length) {
                file.read_graph(at, len)?;
            } else {
                file.skip(len)?;
            }
            at += len;
        }
        Ok(file)
    }

    fn read_graph(&mut self, start: u64, len: u64) -> io::Result<()> {
        let (mut at, end) = (start, start + len);
        let mut skeleton = Vec::new();
        let mut tensors = Vec::new();
        while at < end {
            let (key, header) = self.key()?;
            at += header.len() as u64;
            let before = at;
            let len = self.body_len(key.1, &mut at)?;
            check(len <= end - at)?;
            // Field 5 of GraphProto is an initializer.
            if key == (5, Wire::Length) {
                check_count(tensors.len(), "constants")?;
                tensors.push(self.read_tensor(at, len)?);
            } else {
                skeleton.extend_from_slice(&header);
                if key.1 == Wire::Length {
                    put_varint(&mut skeleton, len);
                }
                check(skeleton.len() as u64 + len <= SKELETON_BYTES_MAX && before <= at)?;
                self.take(len, &mut skeleton)?;
            }
            at += len;
        }
        self.graph = pb::GraphProto::decode(&*skeleton).map_err(io::Error::other)?;
        check_count(self.graph.node.len(), "nodes")?;
        for (tensor, place) in tensors {
            if let Some(place) = place {
                self.places.insert(tensor.name.clone(), place);
            }
            self.graph.initializer.push(tensor);
        }
        Ok(())
    }

    /// Reads a constant. If its data is large, returns the position of the data instead.
    fn read_tensor(&mut self, start: u64, len: u64) -> io::Result<(pb::TensorProto, Option<(u64, u64)>)> {
        let (mut at, end) = (start, start + len);
        let (mut skeleton, mut place) = (Vec::new(), None);
        while at < end {
            let (key, header) = self.key()?;
            at += header.len() as u64;
            let len = self.body_len(key.1, &mut at)?;
            check(len <= end - at)?;
            // Field 9 of TensorProto is its data.
            if key == (9, Wire::Length) && len > SMALL_BYTES {
                place = Some((at, len));
                self.skip(len)?;
            } else {
                skeleton.extend_from_slice(&header);
                if key.1 == Wire::Length {
                    put_varint(&mut skeleton, len);
                }
                check(skeleton.len() as u64 + len <= SKELETON_BYTES_MAX)?;
                self.take(len, &mut skeleton)?;
            }
            at += len;
        }
        let tensor = pb::TensorProto::decode(&*skeleton).map_err(io::Error::other)?;
        Ok((tensor, place))
    }

    /// Reads a field's key; also returns its bytes.
    fn key(&mut self) -> io::Result<(Key, Vec<u8>)> {
        let mut bytes = Vec::with_capacity(2);
        let value = self.varint(&mut bytes)?;
        let wire = match value & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Length,
            5 => Wire::Fixed32,
            _ => return Err(damaged()),
        };
        Ok(((value >> 3, wire), bytes))
    }

    /// Length of a field's body. If the length is written in the file, `at` moves past it. The body of a varint is measured
    /// but not consumed.
    fn body_len(&mut self, wire: Wire, at: &mut u64) -> io::Result<u64> {
        match wire {
            Wire::Fixed64 => Ok(8),
            Wire::Fixed32 => Ok(4),
            Wire::Length => {
                let mut bytes = Vec::with_capacity(4);
                let len = self.varint(&mut bytes)?;
                *at += bytes.len() as u64;
                Ok(len)
            }
            Wire::Varint => {
                let mut bytes = Vec::with_capacity(4);
                self.varint(&mut bytes)?;
                let len = bytes.len() as i64;
                self.source.seek_relative(-len)?;
                Ok(len.unsigned_abs())
            }
        }
    }

    fn varint(&mut self, bytes: &mut Vec<u8>) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            bytes.push(byte[0]);
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        self.source.seek_relative(i64::try_from(len).map_err(|_| damaged())?)
    }

    fn take(&mut self, len: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let read = self.source.by_ref().take(len).read_to_end(out)?;
        check(read as u64 == len)
    }

    /// The data of the constant `tensor`, floats of 32 or 16 bits, in the order of its axes.
    pub(crate) fn floats(&mut self, tensor: &pb::TensorProto) -> io::Result<Vec<f32>> {
        if tensor.data_type == DataType::Float16 as i32 {
            let mut bytes = Vec::new();
            self.raw(tensor, 2, &mut bytes)?;
            return Ok(bytes.as_chunks::<2>().0.iter().map(|b| from_half(u16::from_le_bytes(*b))).collect());
        }
        check(tensor.data_type == DataType::Float as i32)?;
        if !tensor.float_data.is_empty() {
            check(tensor.float_data.len() == volume(tensor)?)?;
            return Ok(tensor.float_data.clone());
        }
        let len = volume(tensor)?.checked_mul(4).ok_or_else(damaged)?;
        let Some(&(start, bytes)) = self.places.get(&tensor.name) else {
            check(tensor.raw_data.len() == len)?;
            return Ok(tensor.raw_data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
        };
        check(bytes == len as u64)?;
        self.source.seek(SeekFrom::Start(start))?;
        // In chunks, so that a large table is not in memory twice.
        let (mut values, mut piece) = (Vec::with_capacity(len / 4), vec![0; len.min(PIECE_BYTES)]);
        while values.len() < len / 4 {
            let count = piece.len().min(len - 4 * values.len());
            self.source.read_exact(&mut piece[..count])?;
            values.extend(piece[..count].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        Ok(values)
    }

    /// The data of the constant with this index among the initializers, as [`Self::floats`].
    pub(crate) fn floats_of(&mut self, number: usize) -> io::Result<Vec<f32>> {
        let tensor = self.graph.initializer[number].clone();
        self.floats(&tensor)
    }

    /// Reads the data of the constant `tensor`, signed bytes, into `values`, whose buffer is reused.
    pub(crate) fn int8s(&mut self, tensor: &pb::TensorProto, values: &mut Vec<u8>) -> io::Result<()> {
        check(tensor.data_type == DataType::Int8 as i32)?;
        values.clear();
        if !tensor.int32_data.is_empty() {
            check(tensor.int32_data.len() == volume(tensor)?)?;
            values.extend(tensor.int32_data.iter().map(|v| *v as u8));
            return Ok(());
        }
        self.raw(tensor, 1, values)
    }

    /// Reads the data of the constant `tensor`, 4-bit integers packed two per byte, into `values`, whose buffer is reused.
    pub(crate) fn int4s(&mut self, tensor: &pb::TensorProto, values: &mut Vec<u8>) -> io::Result<()> {
        check(tensor.data_type == INT4)?;
        values.clear();
        self.raw_bytes(tensor, volume(tensor)?.div_ceil(2), values)
    }

    /// The data of the constant `tensor` as 64-bit integers.
    pub(crate) fn ints(&mut self, tensor: &pb::TensorProto) -> io::Result<Vec<i64>> {
        check(tensor.data_type == DataType::Int64 as i32)?;
        if !tensor.int64_data.is_empty() {
            check(tensor.int64_data.len() == volume(tensor)?)?;
            return Ok(tensor.int64_data.clone());
        }
        let mut bytes = Vec::new();
        self.raw(tensor, 8, &mut bytes)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    fn raw(&mut self, tensor: &pb::TensorProto, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let len = volume(tensor)?.checked_mul(size).ok_or_else(damaged)?;
        self.raw_bytes(tensor, len, out)
    }

    fn raw_bytes(&mut self, tensor: &pb::TensorProto, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        match self.places.get(&tensor.name) {
            Some(&(start, bytes)) => {
                check(bytes == len as u64)?;
                out.reserve_exact(len);
                self.source.seek(SeekFrom::Start(start))?;
                self.take(bytes, out)
            }
            None => {
                check(tensor.raw_data.len() == len)?;
                out.extend_from_slice(&tensor.raw_data);
                Ok(())
            }
        }
    }
}

/// The value of a 16-bit float.
fn from_half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        // A multiple of 2^-24.
        0 => fraction as f32 / 16_777_216.0,
        31 => f32::from_bits(255 << 23 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

fn volume(tensor: &pb::TensorProto) -> io::Result<usize> {
    let dims = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok());
    dims.into_iter().try_fold(1usize, |volume, dim| volume.checked_mul(dim?)).ok_or_else(damaged)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn check_count(count: usize, what: &str) -> io::Result<()> {
    if count <= NODES_MAX {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {NODES_MAX} {what}; a tower has some hundred")))
}

fn check(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a readable ONNX file")
}

#[cfg(test)]
mod tests;
