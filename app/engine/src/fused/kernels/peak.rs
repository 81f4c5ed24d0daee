//! Peak arithmetic rate of a CPU, measured on registers: independent chains of the instructions that the kernels use, enough
//! of them to hide latency.

use super::Kernels;

/// Iterations of a measurement, which take some milliseconds.
const ITERATIONS: usize = 400_000;

impl Kernels {
    /// Multiplies bytes for some milliseconds; returns the number of operations. A multiplication and an addition are two.
    pub(crate) fn peak_i8(&self) -> u64 {
        match self.name {
            // SAFETY: these tables are only reachable on a CPU that has their instructions.
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => unsafe { x86::vnni() },
            #[cfg(target_arch = "x86_64")]
            "avxvnni" => unsafe { x86::vnni_256() },
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { x86::maddubs() },
            #[cfg(target_arch = "aarch64")]
            "neon" => unsafe { arm::smull() },
            #[cfg(target_arch = "aarch64")]
            "dotprod" => unsafe { arm::sdot() },
            #[cfg(target_arch = "aarch64")]
            "i8mm" => unsafe { arm::smmla() },
            _ => scalar(),
        }
    }

    /// Multiplies floats for some milliseconds; returns the number of operations.
    pub(crate) fn peak_f32(&self) -> u64 {
        match self.name {
            // SAFETY: these tables are only reachable on a CPU that has their instructions.
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => unsafe { x86::fma_512() },
            #[cfg(target_arch = "x86_64")]
            "avx2" | "avxvnni" => unsafe { x86::fma_256() },
            #[cfg(target_arch = "aarch64")]
            "neon" | "dotprod" | "i8mm" => unsafe { arm::fmla() },
            _ => scalar(),
        }
    }
}

/// Sixteen chains in plain Rust.
fn scalar() -> u64 {
    let (a, mut sums) = (std::hint::black_box(3i32), [0i32; 16]);
    for iteration in 0..ITERATIONS {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(a.wrapping_mul((iteration ^ i) as i32));
        }
    }
    std::hint::black_box(sums);
    (ITERATIONS * 16 * 2) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use super::ITERATIONS;

    /// Runs four copies of the given instructions `ITERATIONS / 4` times; they may use registers 0 to 14.
    macro_rules! repeat {
        ($($line:literal),*) => {
            asm!(
                "vxorps xmm12, xmm12, xmm12",
                "2:",
                $($line,)* $($line,)* $($line,)* $($line,)*
                "dec {count}",
                "jnz 2b",
                count = inout(reg) ITERATIONS / 4 => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                options(nomem, nostack),
            )
        };
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn vnni() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                "vpdpbusd zmm0, zmm12, zmm13",
                "vpdpbusd zmm1, zmm12, zmm13",
                "vpdpbusd zmm2, zmm12, zmm13",
                "vpdpbusd zmm3, zmm12, zmm13",
                "vpdpbusd zmm4, zmm12, zmm13",
                "vpdpbusd zmm5, zmm12, zmm13",
                "vpdpbusd zmm6, zmm12, zmm13",
                "vpdpbusd zmm7, zmm12, zmm13",
                "vpdpbusd zmm8, zmm12, zmm13",
                "vpdpbusd zmm9, zmm12, zmm13",
                "vpdpbusd zmm10, zmm12, zmm13",
                "vpdpbusd zmm11, zmm12, zmm13"
            );
        }
        (ITERATIONS * 12 * 64 * 2) as u64
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn vnni_256() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                "{{vex}} vpdpbusd ymm0, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm1, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm2, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm3, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm4, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm5, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm6, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm7, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm8, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm9, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm10, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm11, ymm12, ymm13"
            );
        }
        (ITERATIONS * 12 * 32 * 2) as u64
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn maddubs() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm0, ymm0, ymm12",
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm1, ymm1, ymm12",
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm2, ymm2, ymm12",
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm3, ymm3, ymm12",
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm4, ymm4, ymm12",
                "vpmaddubsw ymm12, ymm13, ymm14",
                "vpmaddwd ymm12, ymm12, ymm14",
                "vpaddd ymm5, ymm5, ymm12"
            );
        }
        (ITERATIONS * 6 * 32 * 2) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fma_512() -> u64 {
        // SAFETY: only changes the registers that it declares. Adds 0 times 0; a NaN would not be slower.
        unsafe {
            repeat!(
                "vfmadd231ps zmm0, zmm12, zmm12",
                "vfmadd231ps zmm1, zmm12, zmm12",
                "vfmadd231ps zmm2, zmm12, zmm12",
                "vfmadd231ps zmm3, zmm12, zmm12",
                "vfmadd231ps zmm4, zmm12, zmm12",
                "vfmadd231ps zmm5, zmm12, zmm12",
                "vfmadd231ps zmm6, zmm12, zmm12",
                "vfmadd231ps zmm7, zmm12, zmm12",
                "vfmadd231ps zmm8, zmm12, zmm12",
                "vfmadd231ps zmm9, zmm12, zmm12",
                "vfmadd231ps zmm10, zmm12, zmm12",
                "vfmadd231ps zmm11, zmm12, zmm12"
            );
        }
        (ITERATIONS * 12 * 16 * 2) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn fma_256() -> u64 {
        // SAFETY: only changes the registers that it declares. Adds 0 times 0; a NaN would not be slower.
        unsafe {
            repeat!(
                "vfmadd231ps ymm0, ymm12, ymm12",
                "vfmadd231ps ymm1, ymm12, ymm12",
                "vfmadd231ps ymm2, ymm12, ymm12",
                "vfmadd231ps ymm3, ymm12, ymm12",
                "vfmadd231ps ymm4, ymm12, ymm12",
                "vfmadd231ps ymm5, ymm12, ymm12",
                "vfmadd231ps ymm6, ymm12, ymm12",
                "vfmadd231ps ymm7, ymm12, ymm12",
                "vfmadd231ps ymm8, ymm12, ymm12",
                "vfmadd231ps ymm9, ymm12, ymm12",
                "vfmadd231ps ymm10, ymm12, ymm12",
                "vfmadd231ps ymm11, ymm12, ymm12"
            );
        }
        (ITERATIONS * 12 * 8 * 2) as u64
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::asm;

    use super::ITERATIONS;

    /// Runs four copies of the given instructions `ITERATIONS / 4` times; they may use registers 0 to 12 and 16.
    macro_rules! repeat {
        ($arch:literal; $($line:literal),*) => {
            asm!(
                $arch,
                "2:",
                $($line,)* $($line,)* $($line,)* $($line,)*
                "subs {count}, {count}, #1",
                "b.ne 2b",
                count = inout(reg) ITERATIONS / 4 => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
                out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v16") _,
                options(nomem, nostack),
            )
        };
    }

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn smull() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                "";
                "smull v8.8h, v12.8b, v12.8b", "smlal2 v8.8h, v12.16b, v12.16b", "sadalp v0.4s, v8.8h",
                "smull v9.8h, v12.8b, v12.8b", "smlal2 v9.8h, v12.16b, v12.16b", "sadalp v1.4s, v9.8h",
                "smull v10.8h, v12.8b, v12.8b", "smlal2 v10.8h, v12.16b, v12.16b", "sadalp v2.4s, v10.8h",
                "smull v11.8h, v12.8b, v12.8b", "smlal2 v11.8h, v12.16b, v12.16b", "sadalp v3.4s, v11.8h"
            );
        }
        (ITERATIONS * 4 * 16 * 2) as u64
    }

    #[target_feature(enable = "dotprod")]
    pub(super) unsafe fn sdot() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                ".arch_extension dotprod";
                "sdot v0.4s, v12.16b, v12.4b[0]", "sdot v1.4s, v12.16b, v12.4b[0]", "sdot v2.4s, v12.16b, v12.4b[0]",
                "sdot v3.4s, v12.16b, v12.4b[0]", "sdot v4.4s, v12.16b, v12.4b[0]", "sdot v5.4s, v12.16b, v12.4b[0]",
                "sdot v6.4s, v12.16b, v12.4b[0]", "sdot v7.4s, v12.16b, v12.4b[0]"
            );
        }
        (ITERATIONS * 8 * 16 * 2) as u64
    }

    #[target_feature(enable = "i8mm")]
    pub(super) unsafe fn smmla() -> u64 {
        // SAFETY: only changes the registers that it declares; their content does not matter.
        unsafe {
            repeat!(
                ".arch_extension i8mm";
                "smmla v0.4s, v12.16b, v12.16b", "smmla v1.4s, v12.16b, v12.16b", "smmla v2.4s, v12.16b, v12.16b",
                "smmla v3.4s, v12.16b, v12.16b", "smmla v4.4s, v12.16b, v12.16b", "smmla v5.4s, v12.16b, v12.16b",
                "smmla v6.4s, v12.16b, v12.16b", "smmla v7.4s, v12.16b, v12.16b"
            );
        }
        (ITERATIONS * 8 * 32 * 2) as u64
    }

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn fmla() -> u64 {
        // SAFETY: only changes the registers that it declares. Adds 0 times 0, so that no subnormal slows it down.
        unsafe {
            repeat!(
                "movi v16.4s, #0";
                "fmla v0.4s, v16.4s, v16.s[0]", "fmla v1.4s, v16.4s, v16.s[0]", "fmla v2.4s, v16.4s, v16.s[0]",
                "fmla v3.4s, v16.4s, v16.s[0]", "fmla v4.4s, v16.4s, v16.s[0]", "fmla v5.4s, v16.4s, v16.s[0]",
                "fmla v6.4s, v16.4s, v16.s[0]", "fmla v7.4s, v16.4s, v16.s[0]"
            );
        }
        (ITERATIONS * 8 * 4 * 2) as u64
    }
}
