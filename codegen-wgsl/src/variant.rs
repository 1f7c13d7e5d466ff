//! Variants: the ways to run one kernel. The unit of a tuning plan, so they print and parse.

use crate::error::{Error, refuse};
use std::fmt;
use std::str::FromStr;

/// How the additions of a scatter are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScatterOrder {
    /// One workgroup so many rows of the table, which looks through all ids: one for small tables.
    Rows(u32),
    /// The workgroup of an id's first position adds up its rows: for few ids and large tables.
    Positions,
}

/// How attention or its gradient is shared out: a workgroup has tiles of `rows` queries by `cols` keys, an invocation `each_m` x `each_n` scores of
/// them. Operands pass through workgroup memory in steps of `depth`; with `stay` the tile that a workgroup keeps is there whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionTiling {
    pub rows: usize,
    pub cols: usize,
    pub each_m: usize,
    pub each_n: usize,
    pub depth: usize,
    pub stay: bool,
}

impl fmt::Display for AttentionTiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionTiling { rows, cols, each_m, each_n, depth, stay } = self;
        write!(f, "rows={rows} cols={cols} each_m={each_m} each_n={each_n} depth={depth} stay={}", u32::from(*stay))
    }
}

/// One way to run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `width` elements (1 or 4) an invocation, `group` invocations a workgroup.
    Pointwise {
        width: u32,
        group: u32,
    },
    Update {
        width: u32,
        group: u32,
    },
    /// A block a workgroup of `group` invocations (a power of two), `width` elements (1 or 4) at once.
    Fold {
        width: u32,
        group: u32,
        subgroups: bool,
    },
    /// `rows` rows a workgroup, each by `lanes` invocations (powers of two); the cols in `split` parts by different workgroups, whose partial
    /// results a second dispatch combines. `width` (1 or 4) neighbours in memory at once: where those are rows, `rows` counts groups of so many.
    Reduce {
        rows: u32,
        lanes: u32,
        split: u32,
        width: u32,
        subgroups: bool,
    },
    /// A workgroup computes `m` x `n` results in steps of `k`; an invocation `each_m` x `each_n` of them; the contracted axes in `split` parts
    /// by different workgroups, whose partial results a second dispatch combines, and each step in parts by `teams` teams of a workgroup, which
    /// add up their sums at the end. A step's tiles are in one of `buffers` (1 or 2) copies, and `unroll` elements of its depth are spelled out.
    Contract {
        m: u32,
        n: u32,
        k: u32,
        each_m: u32,
        each_n: u32,
        teams: u32,
        split: u32,
        buffers: u32,
        unroll: u32,
    },
    /// A contraction of operands rounded to f16 by cooperative matrices: a workgroup of `by_m` x `by_n` subgroups computes `m` x `n` results in
    /// steps of `k`; `split` as of the former.
    Cooperate {
        m: u32,
        n: u32,
        k: u32,
        by_m: u32,
        by_n: u32,
        split: u32,
    },
    Attention(AttentionTiling),
    /// With `slopes` those of the scores are computed once, and kept in scratch for the gradient of queries.
    AttentionGrad {
        tiling: AttentionTiling,
        slopes: bool,
    },
    /// Either of them on cooperative matrices: `rows` positions a workgroup, which meet `cols` at a time.
    AttentionMatrices {
        rows: u32,
        cols: u32,
    },
    Scatter {
        order: ScatterOrder,
        group: u32,
    },
}

impl Variant {
    /// Invocations of a workgroup of the first dispatch, where the variant says so.
    pub fn invocations(&self) -> Option<u32> {
        match *self {
            Variant::Pointwise { group, .. }
            | Variant::Update { group, .. }
            | Variant::Fold { group, .. }
            | Variant::Scatter { group, .. } => Some(group),
            Variant::Reduce { rows, lanes, .. } => Some(rows * lanes),
            Variant::Contract { m, n, each_m, each_n, teams, .. } => Some(m / each_m * (n / each_n) * teams),
            Variant::Cooperate { .. }
            | Variant::Attention(_)
            | Variant::AttentionGrad { .. }
            | Variant::AttentionMatrices { .. } => None,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Pointwise { width, group } => write!(f, "pointwise width={width} group={group}"),
            Variant::Update { width, group } => write!(f, "update width={width} group={group}"),
            Variant::Fold { width, group, subgroups } => {
                write!(f, "fold width={width} group={group} subgroups={}", u32::from(*subgroups))
            }
            Variant::Reduce { rows, lanes, split, width, subgroups } => {
                let subgroups = u32::from(*subgroups);
                write!(f, "reduce rows={rows} lanes={lanes} split={split} width={width} subgroups={subgroups}")
            }
            Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll } => write!(
                f,
                "contract m={m} n={n} k={k} each_m={each_m} each_n={each_n} teams={teams} split={split} buffers={buffers} unroll={unroll}"
            ),
            Variant::Cooperate { m, n, k, by_m, by_n, split } => {
                write!(f, "cooperate m={m} n={n} k={k} by_m={by_m} by_n={by_n} split={split}")
            }
            Variant::Attention(tiling) => write!(f, "attention {tiling}"),
            Variant::AttentionGrad { tiling, slopes } => {
                write!(f, "attention_grad {tiling} slopes={}", u32::from(*slopes))
            }
            Variant::AttentionMatrices { rows, cols } => write!(f, "attention_matrices rows={rows} cols={cols}"),
            Variant::Scatter { order: ScatterOrder::Rows(rows), group } => {
                write!(f, "scatter rows={rows} group={group}")
            }
            Variant::Scatter { order: ScatterOrder::Positions, group } => write!(f, "scatter_positions group={group}"),
        }
    }
}

impl FromStr for Variant {
    type Err = Error;

    /// The inverse of `Display`.
    fn from_str(text: &str) -> Result<Variant, Error> {
        let mut words = text.split_whitespace();
        let kind = words.next().unwrap_or("");
        let mut fields: Vec<(&str, u32)> = Vec::new();
        for word in words {
            match word.split_once('=').map(|(key, value)| (key, value.parse::<u32>())) {
                Some((key, Ok(value))) => fields.push((key, value)),
                _ => return refuse(format!("variant `{text}`: found `{word}`, expected name=number")),
            }
        }
        let expected = fields.len();
        let mut used = 0;
        let mut field = |name: &str| -> Result<u32, Error> {
            used += 1;
            match fields.iter().find(|(key, _)| *key == name) {
                Some((_, value)) => Ok(*value),
                None => refuse(format!("variant `{text}`: {name}=number is missing")),
            }
        };
        let variant = match kind {
            "pointwise" => Variant::Pointwise { width: field("width")?, group: field("group")? },
            "update" => Variant::Update { width: field("width")?, group: field("group")? },
            "fold" => {
                Variant::Fold { width: field("width")?, group: field("group")?, subgroups: field("subgroups")? != 0 }
            }
            "reduce" => Variant::Reduce {
                rows: field("rows")?,
                lanes: field("lanes")?,
                split: field("split")?,
                width: field("width")?,
                subgroups: field("subgroups")? != 0,
            },
            "contract" => Variant::Contract {
                m: field("m")?,
                n: field("n")?,
                k: field("k")?,
                each_m: field("each_m")?,
                each_n: field("each_n")?,
                teams: field("teams")?,
                split: field("split")?,
                buffers: field("buffers")?,
                unroll: field("unroll")?,
            },
            "cooperate" => Variant::Cooperate {
                m: field("m")?,
                n: field("n")?,
                k: field("k")?,
                by_m: field("by_m")?,
                by_n: field("by_n")?,
                split: field("split")?,
            },
            "attention" | "attention_grad" => {
                let tiling = AttentionTiling {
                    rows: field("rows")? as usize,
                    cols: field("cols")? as usize,
                    each_m: field("each_m")? as usize,
                    each_n: field("each_n")? as usize,
                    depth: field("depth")? as usize,
                    stay: field("stay")? != 0,
                };
                match kind {
                    "attention" => Variant::Attention(tiling),
                    _ => Variant::AttentionGrad { tiling, slopes: field("slopes")? != 0 },
                }
            }
            "attention_matrices" => Variant::AttentionMatrices { rows: field("rows")?, cols: field("cols")? },
            "scatter" => Variant::Scatter { order: ScatterOrder::Rows(field("rows")?), group: field("group")? },
            "scatter_positions" => Variant::Scatter { order: ScatterOrder::Positions, group: field("group")? },
            _ => return refuse(format!("variant `{text}`: found `{kind}`, expected the name of an archetype")),
        };
        if used != expected {
            return refuse(format!("variant `{text}`: found {expected} fields, expected {used}"));
        }
        Ok(variant)
    }
}

/// How a bundle runs: a variant of each of its pieces, and whether they are one module. Prints as `VARIANT + VARIANT`, apart as
/// `VARIANT | VARIANT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    pub variants: Vec<Variant>,
    /// Of a single piece always.
    pub together: bool,
}

const TOGETHER: &str = " + ";
const APART: &str = " | ";

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.together { TOGETHER } else { APART };
        for (at, variant) in self.variants.iter().enumerate() {
            write!(f, "{}{variant}", if at == 0 { "" } else { between })?;
        }
        Ok(())
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Choice, Error> {
        let together = !s.contains(APART);
        let variants = s.split(if together { TOGETHER } else { APART }).map(str::parse);
        Ok(Choice { variants: variants.collect::<Result<_, _>>()?, together })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_print_and_parse() {
        let all = [
            Variant::Pointwise { width: 4, group: 256 },
            Variant::Update { width: 1, group: 64 },
            Variant::Fold { width: 4, group: 128, subgroups: true },
            Variant::Reduce { rows: 4, lanes: 64, split: 2, width: 4, subgroups: true },
            Variant::Contract { m: 64, n: 32, k: 16, each_m: 8, each_n: 4, teams: 2, split: 3, buffers: 2, unroll: 16 },
            Variant::Cooperate { m: 64, n: 128, k: 32, by_m: 2, by_n: 4, split: 3 },
            Variant::Attention(AttentionTiling { rows: 64, cols: 32, each_m: 8, each_n: 4, depth: 16, stay: true }),
            Variant::AttentionGrad {
                tiling: AttentionTiling { rows: 16, cols: 16, each_m: 4, each_n: 4, depth: 8, stay: false },
                slopes: true,
            },
            Variant::AttentionMatrices { rows: 64, cols: 32 },
            Variant::Scatter { order: ScatterOrder::Positions, group: 64 },
            Variant::Scatter { order: ScatterOrder::Rows(32), group: 64 },
        ];
        for v in all {
            assert_eq!(v.to_string().parse::<Variant>().unwrap(), v);
        }
        let e = "contract m=64".parse::<Variant>().unwrap_err();
        assert_eq!(e.to_string(), "variant `contract m=64`: n=number is missing");
        assert!("pointwise width=4 group=64 rows=2".parse::<Variant>().is_err());
        assert!("fast".parse::<Variant>().is_err());
    }
}
