//! Parses the subset of Python's pickle format that `torch.save` writes for a state dict.
//!
//! A pickle is a program for a stack machine, and Python's machine calls whatever functions it names. This machine
//! implements the instructions that build plain values, and the few names of [`Global`]; any other name or instruction is
//! an error. Values refer to each other by index, so nothing recurses. Instructions and bytes are limited, so memory is
//! bounded.

mod input;
mod value;

use std::collections::HashMap;
use std::io::Read;

pub(crate) use self::input::BYTES_MAX;
use self::input::{Input, Stopped, broken};
pub(crate) use self::value::{Global, Storage, Tensor, Value};

/// Limit on the instructions of one pickle; 40 000 tensors need about as many. Each may take some 100 bytes of memory.
const INSTRUCTIONS_MAX: u32 = 1 << 21;

/// Largest number of axes of a tensor; weights have at most five.
const AXES_MAX: usize = 8;

/// Longest key of a storage in bytes; keys are decimal numbers.
const KEY_BYTES_MAX: usize = 64;

/// Why a pickle was refused.
#[derive(Debug)]
pub(crate) enum PickleError {
    /// The file could not be read.
    Io(std::io::Error),
    /// It names something that weights do not need.
    Name { at: u64, name: String },
    /// Anything else.
    Broken { at: u64, message: String },
}

/// The machine, with all values that a pickle created.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) texts: Vec<String>,
    pub(crate) tuples: Vec<Vec<Value>>,
    pub(crate) lists: Vec<Vec<Value>>,
    pub(crate) dicts: Vec<Vec<(Value, Value)>>,
    pub(crate) storages: Vec<Storage>,
    pub(crate) tensors: Vec<Tensor>,
    memo: HashMap<u32, Value>,
    stack: Vec<Value>,
}

impl Machine {
    /// Runs the pickle at the start of `input`. Also returns its result and its length in bytes.
    pub(crate) fn run(input: impl Read) -> Result<(Self, Value, u64), PickleError> {
        let mut input = Input::new(input);
        let mut machine = Self::default();
        for _ in 0..INSTRUCTIONS_MAX {
            let at = input.at;
            let done = machine.step(&mut input).map_err(|stopped| match stopped {
                Stopped::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                    PickleError::Broken { at, message: "the pickle ends in the middle".into() }
                }
                Stopped::Io(e) => PickleError::Io(e),
                Stopped::Name(name) => PickleError::Name { at, name },
                Stopped::Broken(message) => PickleError::Broken { at, message },
            })?;
            if let Some(value) = done {
                return Ok((machine, value, input.at));
            }
        }
        Err(PickleError::Broken { at: input.at, message: format!("more than {INSTRUCTIONS_MAX} instructions") })
    }

    /// Runs one instruction; returns the result if it is the last one. The codes are those of Python's `pickletools`.
    fn step(&mut self, input: &mut Input<impl Read>) -> Result<Option<Value>, Stopped> {
        let code = input.byte()?;
        match code {
            // PROTO, FRAME: ignored.
            0x80 => drop(input.byte()?),
            0x95 => drop(input.bytes::<8>()?),
            b'.' => return self.pop().map(Some),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => self.push_int(i32::from_le_bytes(input.bytes()?)),
            b'K' => self.push_int(input.byte()?),
            b'M' => self.push_int(u16::from_le_bytes(input.bytes()?)),
            0x8a => {
                let length = input.byte()?;
                self.push_long(input, length)?;
            }
            b'G' => {
                input.bytes::<8>()?;
                self.stack.push(Value::Float);
            }
            // The second one is written by Python 2.
            0x8c | b'U' => {
                let length = input.byte()?;
                self.push_text(input, length.into())?;
            }
            b'X' => {
                let length = u32::from_le_bytes(input.bytes()?);
                self.push_text(input, length.into())?;
            }
            0x8d => {
                let length = u64::from_le_bytes(input.bytes()?);
                self.push_text(input, length)?;
            }
            b'(' => self.stack.push(Value::Mark),
            b')' => self.push_tuple(Vec::new()),
            0x85..=0x87 => {
                let items = self.take(usize::from(code - 0x84))?;
                self.push_tuple(items);
            }
            b't' => {
                let items = self.take_marked()?;
                self.push_tuple(items);
            }
            b']' => self.stack.push(Value::List(push(&mut self.lists, Vec::new()))),
            b'}' => self.stack.push(Value::Dict(push(&mut self.dicts, Vec::new()))),
            b'a' => {
                let items = self.take(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.take_marked()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.take(2)?;
                self.insert(&items)?;
            }
            b'u' => {
                let items = self.take_marked()?;
                self.insert(&items)?;
            }
            b'q' => self.remember(input.byte()?.into())?,
            b'r' => self.remember(u32::from_le_bytes(input.bytes()?))?,
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => self.recall(input.byte()?.into())?,
            b'j' => self.recall(u32::from_le_bytes(input.bytes()?))?,
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push_global(&module, &name)?;
            }
            0x93 => {
                let names = self.take(2)?;
                let text =
                    |v: &Value| self.text(*v).map(str::to_owned).ok_or_else(|| broken("a name that is not a string"));
                let (module, name) = (text(&names[0])?, text(&names[1])?);
                self.push_global(&module, &name)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.set_state()?,
            other => return Err(broken(format!("instruction {other:#04x}, which no state dict needs"))),
        }
        Ok(None)
    }

    /// The string that a value refers to, if it is one.
    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(id) => Some(&self.texts[id]),
            _ => None,
        }
    }

    fn pop(&mut self) -> Result<Value, Stopped> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(broken("the stack is empty")),
            Some(value) => Ok(value),
        }
    }

    /// Pops the last `count` values, in the order in which they were pushed.
    fn take(&mut self, count: usize) -> Result<Vec<Value>, Stopped> {
        let mut values = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(values)
    }

    /// Pops the values after the last mark, and the mark.
    fn take_marked(&mut self) -> Result<Vec<Value>, Stopped> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark).ok_or_else(|| broken("a mark is missing"))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn push_int(&mut self, value: impl Into<i128>) {
        self.stack.push(Value::Int(value.into()));
    }

    /// Pushes a two's complement number of up to 16 bytes. The longest in use, at the start of old files, has 10.
    fn push_long(&mut self, input: &mut Input<impl Read>, length: u8) -> Result<(), Stopped> {
        let length = usize::from(length);
        if length > 16 {
            return Err(broken(format!("a number of {length} bytes")));
        }
        let bytes = input.vec(length as u64)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..length].copy_from_slice(&bytes);
        self.push_int(i128::from_le_bytes(wide));
        Ok(())
    }

    fn push_text(&mut self, input: &mut Input<impl Read>, length: u64) -> Result<(), Stopped> {
        let text = String::from_utf8(input.vec(length)?).map_err(|_| broken("a string that is not UTF-8"))?;
        self.stack.push(Value::Text(push(&mut self.texts, text)));
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Value>) {
        self.stack.push(Value::Tuple(push(&mut self.tuples, items)));
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Stopped> {
        let global = Global::named(module, name).ok_or_else(|| Stopped::Name(format!("{module}.{name}")))?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), Stopped> {
        match self.stack.last() {
            Some(Value::List(id)) => self.lists[*id].extend(items),
            _ => return Err(broken("items appended to something that is not a list")),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Value]) -> Result<(), Stopped> {
        let Some(Value::Dict(id)) = self.stack.last() else {
            return Err(broken("items set on something that is not a dict"));
        };
        let (pairs, odd) = items.as_chunks();
        if !odd.is_empty() {
            return Err(broken("a key without a value"));
        }
        self.dicts[*id].extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<(), Stopped> {
        let value = self.pop()?;
        self.stack.push(value);
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Stopped> {
        let value = self.memo.get(&index).ok_or_else(|| broken(format!("memo {index}, which was never stored")))?;
        self.stack.push(*value);
        Ok(())
    }

    /// BINPERSID with `("storage", type, key, device, elements)`; files from before 2020 have a sixth item, for views.
    fn storage(&mut self) -> Result<(), Stopped> {
        let Value::Tuple(id) = self.pop()? else { return Err(broken("a persistent id that is not a tuple")) };
        let items = &self.tuples[id];
        let (kind, rest) = items.split_first().ok_or_else(|| broken("an empty persistent id"))?;
        if self.text(*kind) != Some("storage") {
            return Err(broken("a persistent id that is not of a storage"));
        }
        let (&[Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(elements)]
        | &[Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(elements), Value::None]) = rest
        else {
            return Err(broken("a persistent id that is not (\"storage\", type, key, device, elements)"));
        };
        if self.texts[key].len() > KEY_BYTES_MAX {
            return Err(broken("a storage with a long key"));
        }
        let storage = Storage { key, dtype, elements: size(elements)? };
        self.stack.push(Value::Storage(push(&mut self.storages, storage)));
        Ok(())
    }

    /// REDUCE: calls one of the names.
    fn call(&mut self) -> Result<(), Stopped> {
        let Value::Tuple(arguments) = self.pop()? else { return Err(broken("arguments that are not a tuple")) };
        let arguments = &self.tuples[arguments];
        let value = match (self.stack.pop(), &arguments[..]) {
            (Some(Value::Global(Global::OrderedDict)), []) => Value::Dict(push(&mut self.dicts, Vec::new())),
            (Some(Value::Global(Global::Parameter)), [tensor @ Value::Tensor(_), ..]) => *tensor,
            (
                Some(Value::Global(Global::Tensor)),
                &[Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..],
            ) => {
                let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
                let tensor = Tensor { storage, offset: size(offset)?, shape, strides };
                Value::Tensor(push(&mut self.tensors, tensor))
            }
            (Some(Value::Global(name)), _) => {
                return Err(broken(format!("a call of {name:?} with unexpected arguments")));
            }
            _ => return Err(broken("a call of something that is not a name")),
        };
        self.stack.push(value);
        Ok(())
    }

    /// BUILD: the attributes of a state dict, versions of its modules, are ignored.
    fn set_state(&mut self) -> Result<(), Stopped> {
        match (self.pop()?, self.stack.last()) {
            (Value::Dict(_), Some(Value::Dict(_))) => Ok(()),
            _ => Err(broken("attributes of something that is not a state dict")),
        }
    }

    /// The sizes in a tuple, one per axis of a tensor.
    fn sizes(&self, tuple: usize) -> Result<Vec<usize>, Stopped> {
        let items = &self.tuples[tuple];
        if items.len() > AXES_MAX {
            return Err(broken(format!("a tensor of {} axes", items.len())));
        }
        let one = |value: &Value| match value {
            Value::Int(n) => size(*n),
            _ => Err(broken("a size that is not a number")),
        };
        items.iter().map(one).collect()
    }
}

fn size(n: i128) -> Result<usize, Stopped> {
    usize::try_from(n).map_err(|_| broken(format!("size {n}, which is out of range")))
}

fn push<T>(all: &mut Vec<T>, value: T) -> usize {
    all.push(value);
    all.len() - 1
}
