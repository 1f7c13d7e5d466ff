//! `eval`: the loss of a checkpoint over a whole file.

use super::{Ending, exec_options, load_model, print, say_notes};
use crate::cli::EvalArgs;
use crate::evaluate::{ROWS, evaluate};
use crate::model::Logits;
use crate::{Error, Result};

pub fn run(args: &EvalArgs) -> Result<Ending> {
    let (model, weights) = load_model(&args.checkpoint)?;
    model.check_bytes()?;
    let text = std::fs::read(&args.data).map_err(|e| Error::reading(&args.data, e))?;
    let options = exec_options(&args.exec, None)?;
    let mut logits = Logits::new(&model, model.rows(ROWS), &options)?;
    say_notes(&options);
    logits.load(&weights, &args.checkpoint.checkpoint.display().to_string())?;
    let found = evaluate(&mut logits, &text, model.ctx())?;
    if !found.loss.is_finite() {
        return Err(Error::failed(format!("the loss over {} is {}", args.data.display(), found.loss)));
    }
    let (loss, bits, perplexity) = (found.loss, found.bits_per_byte(), found.perplexity());
    let line = if args.json {
        serde_json::json!({
            "val_loss": loss, "bits_per_byte": bits, "perplexity": perplexity, "bytes": found.tokens,
        })
        .to_string()
    } else {
        format!("val_loss {loss:.4} bits_per_byte {bits:.4} perplexity {perplexity:.4}")
    };
    print(format!("{line}\n").as_bytes())?;
    Ok(Ending::Done)
}
