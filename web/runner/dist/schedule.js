// The learning-rate schedule of runtime/src/schedule.rs.
//
// The cosine is the engine's, the Rust side's is libm's: they may differ in the last bit of an f64, which the rounding to the f32 that a
// step reads hides but once in some 2^28 rates.
/** The share of the peak rate at which the cosine ends. */
const LR_MIN_SHARE = 0.1;
/** The rate of step `step`, from 0: linear warm-up, then constant, or half a cosine down to a tenth at the last planned step. */
export function learningRate(train, step) {
    const { lr, schedule, warmup, steps } = train;
    if (step < warmup)
        return (lr * (step + 1)) / warmup;
    if (schedule === 'constant')
        return lr;
    const span = Math.max(Math.max(steps - 1, 0) - warmup, 0);
    const progress = span === 0 ? 0 : Math.min((step - warmup) / span, 1);
    const low = lr * LR_MIN_SHARE;
    return low + 0.5 * (lr - low) * (1 + Math.cos(Math.PI * progress));
}
