//! Text as training data: bytes are tokens.
//!
//! Invariants:
//! - the split is contiguous: the first nine tenths train and the last tenth validates, unless a separate validation
//!   file is given, and then all of the data trains;
//! - a window is ctx + 1 consecutive bytes of one split: ids are the first ctx of them, targets the last ctx;
//! - the offsets of a training batch are a pure function of (seed, step, row), so order survives a resume and does not
//!   depend on how many batches were drawn before;
//! - validation windows are evenly spread and the same every time; evaluation windows are consecutive, do not overlap,
//!   and together predict every byte of a text but its first, each once.

use crate::config::{BUILTIN, DataConfig, MAX_BATCH};
use crate::rng::Stream;
use crate::{Error, Result, corpus};
use std::path::Path;

/// A split text with the context length it is cut for.
#[derive(Debug, Clone)]
pub struct Corpus {
    train: Vec<u8>,
    val: Vec<u8>,
    ctx: usize,
}

impl Corpus {
    /// The corpus compiled into the binary (see [`crate::corpus`]).
    pub fn builtin(ctx: usize) -> Result<Self> {
        Self::split(corpus::text().as_bytes(), ctx, "the builtin corpus")
    }

    /// A file of bytes, split nine to one.
    pub fn from_file(path: &Path, ctx: usize) -> Result<Self> {
        Self::split(&read(path)?, ctx, &path.display().to_string())
    }

    /// A file that all trains, and another that all validates.
    pub fn from_files(path: &Path, val: &Path, ctx: usize) -> Result<Self> {
        Self::new(read(path)?, read(val)?, ctx, &path.display().to_string(), &val.display().to_string())
    }

    /// What a configuration asks for.
    pub fn open(config: &DataConfig, ctx: usize) -> Result<Self> {
        match (config.data.as_str(), config.val_data.as_deref()) {
            (BUILTIN, None) => Self::builtin(ctx),
            (BUILTIN, Some(val)) => {
                let train = corpus::text().as_bytes().to_vec();
                Self::new(train, read(Path::new(val))?, ctx, "the builtin corpus", val)
            }
            (data, None) => Self::from_file(Path::new(data), ctx),
            (data, Some(val)) => Self::from_files(Path::new(data), Path::new(val), ctx),
        }
    }

    /// Nine tenths train, one tenth validates.
    fn split(bytes: &[u8], ctx: usize, name: &str) -> Result<Self> {
        // The last tenth is the shorter part, so it decides how long a text must be.
        let needed = (ctx + 1) * 10;
        if bytes.len() < needed {
            return Err(Error::input(format!(
                "{name} has {} bytes, and ctx {ctx} needs at least {needed}, so that its last tenth holds one context \
                 and the byte after it: give more text, a separate validation file, or a smaller ctx",
                bytes.len()
            )));
        }
        let (train, val) = bytes.split_at(bytes.len() - bytes.len() / 10);
        Self::new(train.to_vec(), val.to_vec(), ctx, name, name)
    }

    fn new(train: Vec<u8>, val: Vec<u8>, ctx: usize, train_name: &str, val_name: &str) -> Result<Self> {
        for (bytes, name) in [(&train, train_name), (&val, val_name)] {
            if bytes.len() < ctx + 1 {
                return Err(Error::input(format!(
                    "{name} has {} bytes, and ctx {ctx} needs at least {}: give more text or a smaller ctx",
                    bytes.len(),
                    ctx + 1
                )));
            }
        }
        Ok(Self { train, val, ctx })
    }

    /// Bytes that train.
    pub fn train(&self) -> &[u8] {
        &self.train
    }

    /// Bytes that validate.
    pub fn val(&self) -> &[u8] {
        &self.val
    }

    /// Fills the training batch of `step`; `ids` and `targets` are (batch, ctx), row-major.
    ///
    /// # Panics
    /// When the two slices are not equally long whole rows, or are more than 2^20 rows.
    pub fn fill_train(&self, seed: u64, step: u64, ids: &mut [i32], targets: &mut [i32]) {
        self.fill_micro(seed, step, 0, ids, targets);
    }

    /// Fills micro-batch `micro` of `step`: of the one batch that all micro-batches of the step would be together, the rows from
    /// `micro` times the batch on.
    ///
    /// # Panics
    /// When the two slices are not equally long whole rows, or reach beyond 2^20 rows.
    pub fn fill_micro(&self, seed: u64, step: u64, micro: u64, ids: &mut [i32], targets: &mut [i32]) {
        let first = micro as usize * (ids.len() / self.ctx);
        let stream = Stream::new(seed, "data/train");
        let starts = (self.train.len() - self.ctx) as u64;
        self.fill(&self.train, ids, targets, |row| {
            assert!(first + row < MAX_BATCH, "the batches of a step have at most 2^20 rows");
            stream.below(step << 20 | (first + row) as u64, starts) as usize
        });
    }

    /// Fills validation batch `index` of `count`; `ids` and `targets` are (batch, ctx), row-major.
    ///
    /// # Panics
    /// When the two slices are not equally long whole rows, or `index` is not below `count`.
    pub fn fill_val(&self, index: usize, count: usize, ids: &mut [i32], targets: &mut [i32]) {
        assert!(index < count, "validation has {count} batches, and batch {index} was asked for");
        let batch = ids.len() / self.ctx;
        let last_start = (self.val.len() - self.ctx - 1) as u128;
        let last_window = (count as u128 * batch as u128 - 1).max(1);
        self.fill(&self.val, ids, targets, |row| ((index * batch + row) as u128 * last_start / last_window) as usize);
    }

    fn fill(&self, bytes: &[u8], ids: &mut [i32], targets: &mut [i32], start: impl Fn(usize) -> usize) {
        let ctx = self.ctx;
        assert!(
            ids.len() == targets.len() && ids.len().is_multiple_of(ctx),
            "ids and targets are whole rows of ctx {ctx}"
        );
        let rows = ids.chunks_exact_mut(ctx).zip(targets.chunks_exact_mut(ctx));
        for (row, (ids, targets)) in rows.enumerate() {
            let at = start(row);
            copy_window(&bytes[at..at + ctx + 1], ids, targets);
        }
    }
}

/// Consecutive, non-overlapping windows of a whole text, for `eval`.
#[derive(Debug, Clone, Copy)]
pub struct EvalWindows<'a> {
    bytes: &'a [u8],
    ctx: usize,
}

impl<'a> EvalWindows<'a> {
    /// An error when the text is too short to predict anything.
    pub fn new(bytes: &'a [u8], ctx: usize) -> Result<Self> {
        if bytes.len() < 2 {
            return Err(Error::input(format!("the text has {} bytes, and evaluating needs at least 2", bytes.len())));
        }
        Ok(Self { bytes, ctx })
    }

    /// Predicted bytes: all but the first.
    pub fn tokens(&self) -> usize {
        self.bytes.len() - 1
    }

    /// Number of windows; the last may be shorter than ctx.
    pub fn count(&self) -> usize {
        self.tokens().div_ceil(self.ctx)
    }

    /// Fills rows with the windows from `first` on; `ids` and `targets` are (batch, ctx), and `valid[row]` becomes the
    /// number of leading positions that count. Positions behind it are zero, which causal attention keeps from
    /// changing those before. Rows past the last window have none.
    ///
    /// # Panics
    /// When the slices are not `valid.len()` rows of ctx.
    pub fn fill(&self, first: usize, ids: &mut [i32], targets: &mut [i32], valid: &mut [usize]) {
        let ctx = self.ctx;
        assert!(
            ids.len() == valid.len() * ctx && targets.len() == ids.len(),
            "ids and targets are one row of ctx a window"
        );
        ids.fill(0);
        targets.fill(0);
        let rows = ids.chunks_exact_mut(ctx).zip(targets.chunks_exact_mut(ctx)).zip(valid);
        for (row, ((ids, targets), valid)) in rows.enumerate() {
            let from = ((first + row) * ctx).min(self.tokens());
            let to = (from + ctx).min(self.tokens());
            *valid = to - from;
            if to > from {
                copy_window(&self.bytes[from..=to], &mut ids[..to - from], &mut targets[..to - from]);
            }
        }
    }
}

/// `window` is n + 1 bytes; ids and targets are n.
fn copy_window(window: &[u8], ids: &mut [i32], targets: &mut [i32]) {
    ids.iter_mut().zip(window).for_each(|(id, byte)| *id = i32::from(*byte));
    targets.iter_mut().zip(&window[1..]).for_each(|(target, byte)| *target = i32::from(*byte));
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::reading(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(len: usize, ctx: usize) -> Corpus {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        Corpus::split(&bytes, ctx, "counting").unwrap()
    }

    fn train_batch(corpus: &Corpus, seed: u64, step: u64, batch: usize) -> (Vec<i32>, Vec<i32>) {
        let (mut ids, mut targets) = (vec![0; batch * corpus.ctx], vec![0; batch * corpus.ctx]);
        corpus.fill_train(seed, step, &mut ids, &mut targets);
        (ids, targets)
    }

    #[test]
    fn the_split_is_contiguous_and_nine_to_one() {
        let corpus = counting(1009, 8);
        assert_eq!((corpus.train.len(), corpus.val.len()), (909, 100));
        assert_eq!(i32::from(corpus.val[0]), 909 % 251);
    }

    #[test]
    fn training_batches_depend_on_seed_step_and_row_only() {
        let corpus = counting(5000, 16);
        let (ids, targets) = train_batch(&corpus, 1, 3, 4);
        for row in 0..4 {
            let window = &ids[row * 16..][..16];
            assert!(window.windows(2).all(|w| w[1] == (w[0] + 1) % 251));
            assert_eq!(window[1..], targets[row * 16..][..15]);
        }
        assert_eq!(train_batch(&corpus, 1, 3, 2).0, ids[..32]);
        assert_ne!(train_batch(&corpus, 1, 4, 4).0, ids);
        let (mut second, mut of_second) = (vec![0; 32], vec![0; 32]);
        corpus.fill_micro(1, 3, 1, &mut second, &mut of_second);
        assert_eq!((&second[..], &of_second[..]), (&ids[32..], &targets[32..]), "micro-batches are rows of one batch");
        assert_ne!(train_batch(&corpus, 2, 3, 4).0, ids);
    }

    #[test]
    fn training_windows_reach_both_ends() {
        let corpus = counting(180, 8);
        let starts: std::collections::BTreeSet<i32> = (0..400)
            .flat_map(|step| train_batch(&corpus, 0, step, 4).0.chunks(8).map(|r| r[0]).collect::<Vec<_>>())
            .collect();
        // 162 training bytes hold 154 windows of nine.
        assert_eq!(starts, (0..154).collect());
    }

    #[test]
    fn validation_windows_are_evenly_spread() {
        let corpus = counting(10_000, 9);
        let (mut ids, mut targets) = (vec![0; 18], vec![0; 18]);
        let mut starts = Vec::new();
        for index in 0..3 {
            corpus.fill_val(index, 3, &mut ids, &mut targets);
            starts.extend([ids[0], ids[9]].map(|id| (id - i32::from(corpus.val[0])).rem_euclid(251)));
        }
        // Offsets 0, 198, 396, 594, 792, 990 of 1000 bytes, modulo 251.
        assert_eq!(starts, [0, 198, 145, 92, 39, 237]);
        assert_eq!(targets[17], i32::from(*corpus.val.last().unwrap()));
        let mut again = vec![0; 18];
        corpus.fill_val(2, 3, &mut again, &mut targets);
        assert_eq!(again, ids);
    }

    #[test]
    fn one_validation_window_is_the_first() {
        let corpus = counting(200, 4);
        let (mut ids, mut targets) = (vec![0; 4], vec![0; 4]);
        corpus.fill_val(0, 1, &mut ids, &mut targets);
        assert_eq!(ids[0], i32::from(corpus.val[0]));
    }

    #[test]
    fn evaluation_predicts_every_byte_but_the_first_once() {
        for len in [2, 4, 5, 6, 13, 14] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let windows = EvalWindows::new(&bytes, 4).unwrap();
            let mut seen = Vec::new();
            let (mut ids, mut targets, mut valid) = (vec![7; 8], vec![7; 8], vec![9; 2]);
            for first in (0..windows.count()).step_by(2) {
                windows.fill(first, &mut ids, &mut targets, &mut valid);
                for row in 0..2 {
                    seen.extend_from_slice(&targets[row * 4..][..valid[row]]);
                    assert!((0..valid[row]).all(|i| ids[row * 4 + i] + 1 == targets[row * 4 + i]));
                    assert!(ids[row * 4 + valid[row]..][..4 - valid[row]].iter().all(|id| *id == 0));
                }
            }
            assert_eq!(seen, (1..len).collect::<Vec<i32>>(), "{len} bytes");
            assert_eq!(windows.tokens(), seen.len());
        }
        assert!(EvalWindows::new(b"a", 4).is_err());
    }

    #[test]
    fn short_and_missing_files_are_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "short").unwrap();
        let error = Corpus::from_file(&path, 64).unwrap_err().to_string();
        assert!(error.contains("has 5 bytes, and ctx 64 needs at least 650"), "{error}");
        let error = Corpus::from_files(&path, &path, 64).unwrap_err().to_string();
        assert!(
            error.ends_with("has 5 bytes, and ctx 64 needs at least 65: give more text or a smaller ctx"),
            "{error}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(Corpus::from_file(&path, 1).is_err());
        let error = Corpus::from_file(&dir.path().join("absent"), 64).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("absent"));
        std::fs::write(&path, [0xff; 20]).unwrap();
        assert_eq!(Corpus::from_files(&path, &path, 19).unwrap().val().len(), 20);
    }

    #[test]
    fn the_builtin_corpus_opens_by_name() {
        let config = DataConfig { data: BUILTIN.into(), val_data: None };
        let corpus = Corpus::open(&config, 64).unwrap();
        assert_eq!(corpus.train.len() + corpus.val.len(), crate::corpus::text().len());
    }
}
