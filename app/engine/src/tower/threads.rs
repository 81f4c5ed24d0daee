//! The threads and kernels that run towers.

use std::sync::Arc;

use super::TowerError;
use crate::fused::{Kernels, Pool};

/// Selects tract instead of kernels.
const TRACT: &str = "tract";

/// A pool of threads for running towers, and the kernels for this CPU. Clones share the threads.
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
    /// Starts a pool of `count` threads, the caller included, which lives as long as its clones. 0 and 1 mean the caller
    /// alone.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(count: usize) -> Result<Self, TowerError> {
        let pool = Pool::new(count).map_err(|source| TowerError::Threads { count, source })?;
        Ok(Self { pool: Arc::new(pool), ..Self::default() })
    }

    /// Names of the kernels that this CPU runs, slowest first.
    pub fn available_kernels() -> Vec<&'static str> {
        Kernels::available().iter().map(|kernels| kernels.name).collect()
    }

    /// Uses the kernels called `name` instead of the fastest ones, or tract for `tract`: for comparisons and for finding
    /// faults.
    ///
    /// # Errors
    /// There are no such kernels, or this CPU cannot run them.
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

    /// Number of threads, the caller included.
    pub fn count(&self) -> usize {
        self.pool.threads()
    }

    /// Runs int8 multiplications on registers for some milliseconds on the calling thread, and returns the number of
    /// operations (a multiplication and an addition are two). Divided by the time, this is the peak rate of the CPU.
    pub fn peak_int8(&self) -> u64 {
        self.kernels.peak_i8()
    }

    /// As [`Self::peak_int8`] for 32-bit floats.
    pub fn peak_float(&self) -> u64 {
        self.kernels.peak_f32()
    }

    /// Name of the kernels: `scalar`, `avx2`, `avxvnni`, `avx512vnni`, `neon`, `dotprod` or `i8mm`; or `tract`.
    pub fn kernels(&self) -> &'static str {
        if self.fused { self.kernels.name } else { TRACT }
    }
}
