//! Contractions in canonical form.
//!
//! Axes of batch, m and n are merged where all accesses allow, and the sides are exchanged if the output is contiguous along m rather
//! than n. So the output's rows are contiguous where the program allows it at all.

use super::space::{AxisMap, by_stride, maps};
use tinygpt_ir::op::Binary;
use tinygpt_ir::program::{Access, Body, ContractPart, ScalarId, ScalarOp, Store, Term};
use tinygpt_ir::types::DType;

/// A part in canonical form.
#[derive(Clone, Debug)]
pub struct Product {
    pub batch: Vec<usize>,
    pub m: Vec<usize>,
    pub n: Vec<usize>,
    /// lhs over batch ++ m ++ k, rhs over batch ++ n ++ k.
    pub terms: Vec<Term>,
    /// Epilogue over batch ++ m ++ n.
    pub body: Body,
    pub stores: Vec<Store>,
}

impl Product {
    pub fn new(part: &ContractPart) -> Product {
        let swapped;
        let part = if wants_exchange(part) {
            swapped = exchanged(part);
            &swapped
        } else {
            part
        };
        let (nb, nm, nn) = (part.batch.len(), part.m.len(), part.n.len());
        let epilogue = maps(&part.body, &part.stores);
        let lhs: Vec<&[i64]> = part.terms.iter().map(|t| t.lhs.at.coeffs.as_slice()).collect();
        let rhs: Vec<&[i64]> = part.terms.iter().map(|t| t.rhs.at.coeffs.as_slice()).collect();
        fn cut<'a>(maps: &[&'a [i64]], from: usize, len: usize) -> Vec<&'a [i64]> {
            maps.iter().map(|c| &c[from..from + len]).collect()
        }
        let group = |extents: &[usize], at: usize, operands: Vec<&[i64]>| {
            let own = cut(&epilogue, at, extents.len());
            let order = match part.stores.first() {
                Some(s) => by_stride(0..extents.len(), &s.access.at.coeffs[at..at + extents.len()]),
                None => (0..extents.len()).collect(),
            };
            AxisMap::merged(extents, &order, &[own, operands].concat())
        };
        let batch = group(&part.batch, 0, [cut(&lhs, 0, nb), cut(&rhs, 0, nb)].concat());
        let m = group(&part.m, nb, cut(&lhs, nb, nm));
        let n = group(&part.n, nb + nm, cut(&rhs, nb, nn));
        let terms = part.terms.iter().map(|t| {
            let (l, r) = (&t.lhs.at.coeffs[nb + nm..], &t.rhs.at.coeffs[nb + nn..]);
            let order: Vec<usize> = (0..t.k.len()).collect();
            let k = AxisMap::merged(&t.k, &order, &[l, r]);
            let lhs = batch.clone().then(&m.clone().shifted(nb)).then(&k.clone().shifted(nb + nm));
            let rhs = batch.clone().then(&n.clone().shifted(nb)).then(&k.clone().shifted(nb + nn));
            Term { k: k.extents().to_vec(), f16: t.f16, lhs: lhs.access(&t.lhs), rhs: rhs.access(&t.rhs) }
        });
        let terms = terms.collect();
        let all = batch.clone().then(&m.clone().shifted(nb)).then(&n.clone().shifted(nb + nm));
        Product {
            terms,
            body: all.body(&part.body),
            stores: part.stores.iter().map(|s| all.store(s)).collect(),
            batch: batch.extents().to_vec(),
            m: m.extents().to_vec(),
            n: n.extents().to_vec(),
        }
    }

    pub fn batches(&self) -> usize {
        self.batch.iter().product()
    }
    pub fn rows(&self) -> usize {
        self.m.iter().product()
    }
    pub fn cols(&self) -> usize {
        self.n.iter().product()
    }
    /// Contracted elements of all terms.
    pub fn depth(&self) -> usize {
        self.terms.iter().map(|t| t.k.iter().product::<usize>()).sum()
    }

    pub fn space(&self) -> Vec<usize> {
        [self.batch.as_slice(), &self.m, &self.n].concat()
    }

    /// The epilogue, if it does nothing but store the sums with f32 elements added and then times one.
    pub fn plain_store(&self) -> Option<PlainStore<'_>> {
        fn addends<'a>(body: &'a Body, id: ScalarId, sums: &mut usize, loads: &mut Vec<&'a Access>) -> Option<()> {
            let scalar = &body.scalars[id];
            match &scalar.op {
                ScalarOp::Acc(0) => *sums += 1,
                ScalarOp::Load(access) if scalar.dtype == DType::F32 => loads.push(access),
                ScalarOp::Binary(Binary::Add, x, y) => {
                    addends(body, *x, sums, loads)?;
                    addends(body, *y, sums, loads)?;
                }
                _ => return None,
            }
            Some(())
        }
        let [store] = self.stores.as_slice() else { return None };
        let load = |id: ScalarId| match &self.body.scalars[id].op {
            ScalarOp::Load(access) if self.body.scalars[id].dtype == DType::F32 => Some(access),
            _ => None,
        };
        let (value, factor) = match self.body.scalars[store.value].op {
            ScalarOp::Binary(Binary::Mul, x, y) => match (load(x), load(y)) {
                (None, Some(factor)) => (x, Some(factor)),
                (Some(factor), None) => (y, Some(factor)),
                _ => return None,
            },
            _ => (store.value, None),
        };
        let (mut sums, mut loads) = (0, Vec::new());
        addends(&self.body, value, &mut sums, &mut loads)?;
        (sums == 1).then_some(PlainStore { store, addends: loads, factor })
    }
}

/// Sums, with addends and then times a factor, that are stored.
pub struct PlainStore<'a> {
    pub store: &'a Store,
    pub addends: Vec<&'a Access>,
    pub factor: Option<&'a Access>,
}

/// Whether the output is contiguous along an axis of m and along none of n.
fn wants_exchange(part: &ContractPart) -> bool {
    let (nb, nm) = (part.batch.len(), part.m.len());
    let unit = |extents: &[usize], at: usize| {
        (0..extents.len()).any(|i| extents[i] >= 4 && part.stores.iter().any(|s| s.access.at.coeffs[at + i] == 1))
    };
    !unit(&part.n, nb + nm) && unit(&part.m, nb)
}

/// The same part with m and n, left and right exchanged.
fn exchanged(part: &ContractPart) -> ContractPart {
    let (nb, nm, nn) = (part.batch.len(), part.m.len(), part.n.len());
    let extents = part.space();
    let order: Vec<usize> = (0..nb).chain(nb + nm..nb + nm + nn).chain(nb..nb + nm).collect();
    let map = AxisMap::permuted(&extents, &order);
    ContractPart {
        batch: part.batch.clone(),
        m: part.n.clone(),
        n: part.m.clone(),
        terms: part
            .terms
            .iter()
            .map(|t| Term { k: t.k.clone(), f16: t.f16, lhs: t.rhs.clone(), rhs: t.lhs.clone() })
            .collect(),
        body: map.body(&part.body),
        stores: part.stores.iter().map(|s| map.store(s)).collect(),
    }
}

/// Element offsets of the flat numbers of axes, without the access' own offset.
pub fn offsets(extents: &[usize], coeffs: &[i64]) -> Vec<i64> {
    let mut out = vec![0];
    for (&extent, &c) in extents.iter().zip(coeffs) {
        out = out.iter().flat_map(|base| (0..extent as i64).map(move |i| base + i * c)).collect();
    }
    out
}

/// The stride between elements of consecutive flat numbers of axes, if there is one: 0 for a single element.
pub fn flat_stride(extents: &[usize], coeffs: &[i64]) -> Option<i64> {
    let mut stride = None;
    let mut span = 1;
    for (&extent, &c) in extents.iter().zip(coeffs).rev().filter(|(n, _)| **n != 1) {
        match stride {
            None => stride = Some(c),
            Some(s) if c == s * span => {}
            Some(_) => return None,
        }
        span *= extent as i64;
    }
    Some(stride.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_strides() {
        assert_eq!(flat_stride(&[2, 3, 4], &[12, 4, 1]), Some(1));
        assert_eq!(flat_stride(&[2, 1, 4], &[20, 99, 5]), Some(5));
        assert_eq!(flat_stride(&[2, 3], &[1, 2]), None);
        assert_eq!(flat_stride(&[1], &[7]), Some(0));
    }
}
