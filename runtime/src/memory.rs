//! How much memory training takes, and how much there is: refused beforehand is better than ended by the system.
//!
//! Invariant: what is refused could not run. The estimate is within a tenth of the plan of each preset, and what it is
//! compared with is all the memory that the machine, or the container, ever gives a process.

use crate::config::RunConfig;
#[cfg(not(target_arch = "wasm32"))]
use crate::{Error, Result};
use serde::Serialize;

/// Bytes that training takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights and both moments: exact.
    pub states: u64,
    /// Values within a step.
    pub temporaries: u64,
    pub total: u64,
}

/// Bytes that the states and the temporaries of a training step take, all f32.
///
/// The temporaries are most where the backward pass begins, when all activations wait for it, or where it ends, when all gradients wait for the
/// norm. A token leaves 2 V floats at the head and 8.25 C + 2 M a layer: the normalised inputs of both branches, q, k and v, the output of
/// attention, both sums, statistics, and the activation with its slope. A test compares with the plans of the presets.
pub fn estimate(config: &RunConfig) -> Memory {
    let (model, params) = (&config.model, u128::from(config.model.params()));
    let [vocab, ctx, layers, width, mlp] =
        [model.vocab, model.ctx, model.layers, model.d_model, model.d_mlp].map(|n| n as u128);
    let token = 2 * vocab + layers * (33 * width / 4 + 2 * mlp);
    let temporaries = 4 * params.max(config.train.batch as u128 * ctx * token);
    let clamped = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
    let states = 12 * params;
    Memory { states: clamped(states), temporaries: clamped(temporaries), total: clamped(states + temporaries) }
}

/// Refuses what needs more memory than there is; `what` begins the sentence. A system that does not say how much it has refuses
/// the allocation itself.
#[cfg(not(target_arch = "wasm32"))]
pub fn check(needed: u64, what: &str) -> Result<()> {
    match system_bytes().filter(|there| needed > *there) {
        None => Ok(()),
        Some(there) => Err(Error::input(format!(
            "{what} needs about {} of memory, and this machine has {}: choose fewer layers, a smaller d_model, ctx or batch",
            gib(needed),
            gib(there)
        ))),
    }
}

/// What an allocation of this size is told that the system refuses.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn refused(bytes: u64) -> Error {
    Error::input(format!(
        "the system has no {} of memory to give: choose fewer layers, a smaller d_model, ctx or batch",
        gib(bytes)
    ))
}

#[cfg(not(target_arch = "wasm32"))]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30))
}

/// Memory and swap of this machine, or what its control group allows where that is less. None where the system does not say: only Linux
/// does, in files.
#[cfg(not(target_arch = "wasm32"))]
fn system_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    Some(machine_bytes(&text)?.min(group.trim().parse().unwrap_or(u64::MAX)))
}

/// Memory and swap that /proc/meminfo states, in bytes.
#[cfg(not(target_arch = "wasm32"))]
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some((kib("MemTotal")? + kib("SwapTotal").unwrap_or(0)) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Goal, compile};
    use crate::model::{adamw, forward};
    use tinygpt_ir::program::TargetModel;

    #[test]
    fn the_estimate_is_near_the_plan_of_every_preset() {
        for name in ["tiny", "small", "capable", "medium", "large", "xl", "huge", "massive", "mega"] {
            let config = RunConfig::preset(name).unwrap();
            let goal = Goal::Train { adamw: adamw(&config.train), gradients: false };
            let graph = forward(&config.model, config.train.batch).unwrap();
            let planned = compile(graph, &goal, &TargetModel::cpu()).unwrap().program.memory.planned as f64;
            let ratio = estimate(&config).temporaries as f64 / planned;
            assert!((0.9..1.1).contains(&ratio), "{name}: estimated {ratio:.3} times the plan");
        }
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let mut config = RunConfig::preset("tiny").unwrap();
        let most = 1 << 20;
        config.train.batch = most;
        config.model.vocab = most;
        config.model.ctx = most;
        config.model.layers = 1 << 12;
        config.model.d_model = most;
        config.model.d_mlp = most;
        assert!(estimate(&config).total > 1 << 62);
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        let text = "MemTotal:       24684756 kB\nMemFree:        15575000 kB\nSwapTotal:          1024 kB\n";
        assert_eq!(machine_bytes(text), Some((24_684_756 + 1024) << 10));
        assert_eq!(machine_bytes("MemFree: 3 kB\n"), None);
        check(1 << 20, "a step").unwrap();
        if system_bytes().is_some() {
            let error = check(1 << 60, "a step").unwrap_err().to_string();
            assert!(
                error.starts_with("a step needs about 1073741824.0 GiB of memory, and this machine has "),
                "{error}"
            );
        }
    }
}
