//! What computes the towers.

use std::sync::Arc;

use super::TowerError;
use crate::fused::{Kernels, Pool};

/// Stands among the names of kernels for a tower that is left to tract.
const TRACT: &str = "tract";

/// What computes the towers: a number of threads, and the kernels for this CPU. Clones share the threads.
#[derive(Debug, Clone)]
pub struct Threads {
    pub(super) pool: Arc<Pool>,
    pub(super) kernels: &'static Kernels,
    pub(super) fused: bool,
}

impl Default for Threads {
    /// The calling thread alone.
    fn default() -> Self {
        Self { pool: Arc::new(Pool::single()), kernels: Kernels::best(), fused: true }
    }
}

impl Threads {
    /// A pool of `count` threads, the caller among them, that lives as long as its clones; 0 and 1 mean the caller alone.
    pub fn new(count: usize) -> Result<Self, TowerError> {
        let pool = Pool::new(count).map_err(|source| TowerError::Threads { count, source })?;
        Ok(Self { pool: Arc::new(pool), ..Self::default() })
    }

    /// Names of the kernels that this CPU runs, slowest first.
    pub fn available_kernels() -> Vec<&'static str> {
        Kernels::available().iter().map(|kernels| kernels.name).collect()
    }

    /// Uses the kernels called `name` instead of the fastest ones, or leaves towers to tract where it is `tract`: to
    /// compare, or to find out what is wrong.
    pub fn with_kernels(self, name: &str) -> Result<Self, TowerError> {
        if name == TRACT {
            return Ok(Self { fused: false, ..self });
        }
        let available = Kernels::available();
        match available.iter().find(|kernels| kernels.name == name) {
            Some(kernels) => Ok(Self { kernels, ..self }),
            None => Err(TowerError::Kernels {
                wanted: name.to_owned(),
                available: [Self::available_kernels(), vec![TRACT]].concat().join(", "),
            }),
        }
    }

    /// Threads of the pool.
    pub fn count(&self) -> usize {
        self.pool.threads()
    }

    /// Runs int8 multiplications for a moment on the calling thread, in registers alone, and returns how many operations
    /// that were (a multiplication and an addition are two): divided by the time, the most that this CPU can do.
    pub fn peak_int8(&self) -> u64 {
        self.kernels.peak_i8()
    }

    /// As [`Self::peak_int8`] for 32-bit floats.
    pub fn peak_float(&self) -> u64 {
        self.kernels.peak_f32()
    }

    /// Name of the kernels: `scalar`, `avx2`, `avx512vnni`, `neon`, `dotprod` or `i8mm`; `tract` where nothing is fused.
    pub fn kernels(&self) -> &'static str {
        if self.fused { self.kernels.name } else { TRACT }
    }
}
